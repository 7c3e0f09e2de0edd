"""``unimic measure``: its actions; the modules beside this one do the measuring.

Libraries are imported when an action runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.edge.console import (
    PIPE,
    common_options,
    make_folder,
    picture_bytes,
    progress,
    quality_option,
    write_output,
)
from unimic.edge.console import report as tell
from unimic.measure import machine, outputs

if TYPE_CHECKING:
    from unimic.measure.codecs import Variant
    from unimic.measure.entropy import Picture

RESULTS, ANCHOR = Path("results.json"), "vvc"
ENTROPY_EXAMPLES = """\
examples:
  unimic measure entropy --images kodak/ --texts captions.txt
  unimic measure entropy --images photos/ --captions captions.jsonl --json
  unimic measure entropy --texts test.txt --dictionary train.txt
"""
SESSION_EXAMPLES = """\
examples:
  unimic measure session kitchen.jpg --report session.html --json session.json
  unimic measure session kitchen.jpg --codecs jpeg,vvc --server localhost:50051
  unimic measure session photos/ --edits 5 --report sessions.html --json sessions.json
  unimic measure session photos/ --edits 5 --report sessions.html --json sessions.json --resume
"""
TASKS_EXAMPLES = """\
examples:
  unimic measure tasks --count 100 --report tasks.html --json tasks.json
  unimic measure tasks --daquar daquar/ --codecs avif,vvc --server localhost:50051
  unimic measure tasks --tasks inpainting,photos --flickr8k flickr8k/ --samples made.jpg
"""
IMAGES_EXAMPLES = """\
examples:
  unimic measure images kodak/ --report kodak.html --json kodak.json
  unimic measure images kodak/ --report kodak.html --json kodak.json --resume   go on with it
  unimic measure images photo.png --codecs unimic,vvc,vvc/2,avif/2 --metrics psnr,lpips-vgg
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("measure", help="measure rates and fidelity",
                                   description="Measure rates and fidelity.")
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    _add_images(actions)
    _add_session(actions)
    _add_tasks(actions)
    _add_entropy(actions)
    _add_speed(actions)


def _add_images(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    images = actions.add_parser(
        "images", help="rate and fidelity beside other codecs", epilog=IMAGES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Code pictures with every codec at every setting, and say how many bits they "
        "take, how near they come to the originals and how long it lasts.")
    images.add_argument("images", type=Path, nargs="+", metavar="IMAGE",
                        help="pictures, or folders of pictures")
    images.add_argument("--codecs", type=_names, metavar="NAMES",
                        help="separated by commas: unimic, jpeg, webp, avif, jp2, jxl, av1, hevc, "
                        "vvc and those that other packages add; NAME/2 scales down and up by 2, "
                        "NAME:40:50 measures these settings instead of the usual ones "
                        "(default: all, the classical ones also with /2 and /4)")
    images.add_argument("--metrics", type=_names, metavar="NAMES",
                        help="separated by commas: psnr, ms-ssim, lpips-vgg, dists, lpips-alex, "
                        "kid (default: all)")
    images.add_argument("--fast", action="store_true",
                        help="let LPIPS and DISTS compute in bfloat16: twice as fast on processors "
                        "that have it, and off by about 0.001")
    images.add_argument("--anchor", metavar="CODEC",
                        help=f"what BD-rates compare with (default: {ANCHOR})")
    images.add_argument("--report", type=Path, metavar="FILE", help="write a report as HTML")
    images.add_argument("--plots", type=Path, metavar="FOLDER",
                        help="write the report's curves as SVG files")
    images.add_argument("--json", type=Path, default=RESULTS, metavar="FILE",
                        help="where the results go, - is standard output; as they come they are "
                        "kept as JSON lines in the file of the same name with .jsonl "
                        "(default: %(default)s)")
    images.add_argument("--crops", type=int, default=4, metavar="N",
                        help="pictures to show side by side in the report (default: %(default)s)")
    images.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="processes (default: one for each core, %(default)s)")
    again = images.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true",
                       help="go on with the JSON lines that are there: measure what is new or "
                       "failed, and codecs whose versions are others now")
    again.add_argument("-f", "--force", action="store_true", help="overwrite what is there")
    images.add_argument("-v", "--verbose", action="count", default=0,
                        help="say more on standard error")
    images.set_defaults(run=measure_images)


def _add_entropy(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    entropy = actions.add_parser(
        "entropy", parents=[common_options()], help="rates of the entropy models",
        epilog=ENTROPY_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Code pictures and texts with the shipped entropy models and say how many bits "
        "they take: ideal, payload and wire, beside fixed-length tokens and an order-0 histogram.")
    entropy.add_argument("--images", type=Path, nargs="+", default=[], metavar="PATH",
                         help="pictures, or folders of pictures")
    entropy.add_argument("--captions", type=Path, metavar="FILE",
                         help='JSON lines {"image": name without extension, "captions": [text]}; '
                         "only pictures with a caption are measured then")
    entropy.add_argument("--texts", type=Path, nargs="+", default=[], metavar="FILE",
                         help="UTF-8 files; each line is coded by itself")
    entropy.add_argument("--dictionary", type=Path, metavar="FILE",
                         help="UTF-8 file of other texts, to train zstd's dictionary on")
    entropy.add_argument("--every", type=int, default=1, metavar="N",
                         help="measure every Nth picture and line only")
    entropy.set_defaults(run=measure_entropy)


def _add_session(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    session = actions.add_parser(
        "session", help="bytes and drift of a session of many turns", epilog=SESSION_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_service_options(resumable=True)],
        description="Hold a session of ten turns with a service and count the bytes of the "
        "connection, beside what its pictures would take with other codecs that come no farther "
        "from the original; then edit one half of the photo again and again, and see what becomes "
        "of the other half. With several photos: each of them, one after the other, and what they "
        "take in all.")
    session.add_argument("images", type=Path, nargs="+", metavar="IMAGE",
                         help="photos, or folders of photos")
    quality_option(session)
    session.add_argument("--codecs", type=_names, default=["jpeg", "webp", "avif", "av1", "vvc"],
                         metavar="NAMES", help="separated by commas; each also behind scaling "
                         "(default: jpeg,webp,avif,av1,vvc)")
    session.add_argument("--equal", default="lpips-vgg", metavar="METRIC",
                         help="by which the other codecs' photo is not worse than ours: psnr, "
                         "ms-ssim, lpips-vgg, dists or lpips-alex (default: %(default)s)")
    session.add_argument("--plots", type=Path, metavar="FOLDER",
                         help="write the report's curves as SVG files")
    session.add_argument("--edits", type=int, default=50, metavar="N",
                         help="turns of the drift (default: %(default)s)")
    session.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    session.set_defaults(run=measure_session)


def _add_tasks(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tasks = actions.add_parser(
        "tasks", help="answers, captions, inpainting and drawings, judged", epilog=TASKS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, parents=[_service_options()],
        description="Give a service the tasks of test sets: the questions of easy-VQA and of "
        "DAQUAR, photos of Flickr8k to describe, to inpaint and to make from their captions, and "
        "drawings to make. What it says about tokens stands beside what it says about pictures "
        "that other codecs squeezed to the same number of bytes; what it makes, beside the "
        "original. A test set whose folder is not named is left out.")
    tasks.add_argument("--tasks", type=_names, metavar="NAMES",
                       default=["answers", "captions", "inpainting", "drawings", "photos"],
                       help="separated by commas: answers, captions, inpainting, drawings, photos "
                       "(default: all)")
    tasks.add_argument("--daquar", type=Path, metavar="FOLDER",
                       help="daquar-eval.csv and daquar-train.csv (image_id, question, answer), "
                       "with the pictures")
    tasks.add_argument("--flickr8k", type=Path, metavar="FOLDER",
                       help="flickr8k-captions.jsonl, with the photos")
    tasks.add_argument("--codecs", type=_names, metavar="NAMES",
                       default=["jpeg", "webp", "avif", "jp2", "jxl", "av1", "hevc", "vvc"],
                       help="for answers and captions, separated by commas; each also behind "
                       "scaling (default: all)")
    tasks.add_argument("--count", type=int, default=50, metavar="N",
                       help="pictures of each test set (default: %(default)s)")
    tasks.add_argument("--seeds", type=int, default=2, metavar="N",
                       help="drawings of each prompt (default: %(default)s)")
    tasks.add_argument("--samples", type=Path, metavar="FILE",
                       help="write some of the pictures that were made, as a contact sheet")
    tasks.set_defaults(run=measure_tasks)


def _service_options(*, resumable: bool = False) -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--server", metavar="HOST:PORT",
                        help="use a running service (default: start one)")
    parent.add_argument("--report", type=Path, metavar="FILE", help="write a report as HTML")
    kept = ("; as they come they are kept as JSON lines in the file of the same name with .jsonl"
            if resumable else "")
    parent.add_argument("--json", type=Path, metavar="FILE",
                        help=f"write the figures as JSON{kept}")
    again = parent.add_mutually_exclusive_group()
    if resumable:
        again.add_argument("--resume", action="store_true",
                           help="go on with the JSON lines that are there")
    again.add_argument("-f", "--force", action="store_true", help="overwrite the files")
    parent.add_argument("-v", "--verbose", action="count", default=0,
                        help="say more on standard error")
    return parent


def _add_speed(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    speed = actions.add_parser(
        "speed", parents=[common_options()], help="time of coding, on a device and in a service",
        description="Time the image encoder beside the entropy coder at 256×256 pixels, and count "
        "the image packets that are decoded in a second, alone and in batches of 8 and 64.")
    speed.add_argument("images", type=Path, nargs="+", metavar="IMAGE",
                       help="pictures, or folders of pictures")
    speed.add_argument("--threads", type=int, metavar="N",
                       help="for ONNX Runtime (default: its own choice)")
    speed.add_argument("--device", action="append", default=[], metavar="NAME",
                       help="time PyTorch on this device too (cpu, cuda …); may be repeated")
    speed.set_defaults(run=measure_speed)


def measure_speed(args: argparse.Namespace) -> None:
    """Measure and report."""
    from unimic.codec.coder import load_coder
    from unimic.codec.exactness import Executor, device_executors
    from unimic.codec.networks import IMAGE_ENTROPY, OnnxImageNetwork
    from unimic.edge.images import load_image
    from unimic.measure.speed import Packets, edge_speed, service_speed

    store = ModelStore.default()
    pictures = [load_image(path) for path in _files(args.images)]
    with progress("device") as show:
        facts: dict[str, Any] = {"one picture": edge_speed(store, pictures, args.threads, show)}
    executors = [Executor("ONNX Runtime on cpu", OnnxImageNetwork(store, args.threads), 1),
                 *{e.software: e for e in device_executors(store, IMAGE_ENTROPY, args.device)
                   }.values()]
    packets = Packets.of(store, load_coder(store), pictures)
    with progress("service") as show:
        facts |= {f"packets a second, {name}": rates
                  for name, rates in service_speed(executors, packets, show).items()}
    _tell(args, facts)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def measure_images(args: argparse.Namespace) -> int:
    """Measure, report, and say by the exit code whether all went well."""
    from unimic.edge.images import read_bytes
    from unimic.measure import codecs, curves, metrics, report
    from unimic.measure.journal import FEATURES, Journal
    from unimic.measure.run import ANY, ORIGINAL, Task, content, measure_all, unreadable

    for option in "jobs", "crops":
        if getattr(args, option) < (option == "jobs"):
            raise InvalidInput(f"--{option}", f"is {getattr(args, option)}", "use more")
    journal_path = _journal_path(args.json)
    if args.plots:
        make_folder(args.plots)
    outputs.check({"--json": args.json, "--report": args.report}, args.force or args.resume,
                  {"the journal": journal_path,
                   "the journal's features": journal_path.with_suffix(FEATURES)})
    files = _files(args.images)
    broken = {path: row for path in files if (row := unreadable(path))}
    contents = {path: content(read_bytes(path)) for path in files if path not in broken}
    judges, missing = metrics.find(args.metrics or list(metrics.METRICS))
    with outputs.for_results():
        variants, missing_codecs = codecs.find(args.codecs or codecs.all_names())
    missing |= missing_codecs | curves.missing()
    _tell_missing(missing)
    if not variants:
        raise InvalidInput("--codecs", "none of them can be had here", "name others")
    versions = machine.versions(metrics.versions(judges),
                                {"LPIPS and DISTS in": "bfloat16" if args.fast else "float32"})
    codec_versions = {variant.codec.name: variant.codec.versions for variant in variants}
    if args.anchor and args.anchor not in codec_versions:
        raise InvalidInput("--anchor", f"{args.anchor!r} is not among the codecs that are measured",
                           f"use {', '.join(codec_versions)}")
    journal = Journal(journal_path, versions, codec_versions, args.resume, args.force)
    names = tuple(judge.name for judge in judges)
    of_sets = tuple(judge.name for judge in judges if judge.of_sets)
    tasks: list[Task] = []
    for i, (path, known) in enumerate(contents.items()):
        if of_sets:
            tasks.append(Task(path, ORIGINAL, "", of_sets, args.fast, keep=False, content=known))
        tasks += [Task(path, variant.name, setting, names, args.fast, i < args.crops, known)
                  for variant in variants for setting in variant.ladder]
    tasks = [*{task.key: task for task in tasks}.values()]  # settings may be named twice
    to_do = [part for task in tasks if (part := journal.left(task))]
    with outputs.for_results(), progress("measure") as show:
        show(len(tasks) - len(to_do), len(tasks))
        left = itertools.count(len(tasks) - len(to_do) + 1)

        def done(row: dict[str, Any]) -> None:
            journal.add(row)
            show(next(left), len(tasks))

        measure_all(to_do, args.jobs, done)
    journal.close()
    rows = [*(journal.rows[task.key] for task in tasks), *broken.values()]
    for more in codec_versions.values():
        versions |= more
    context = report.Context(machine.command(), machine.describe(), versions, missing,
                             args.anchor or ANCHOR)
    facts = report.summary(rows, judges, context)
    _write(args, facts, report.text(facts, judges), report.html(rows, facts, judges, context),
           report.plots(facts, judges) if args.plots else {})
    for title, why in report.without_mean(facts, judges).items():
        print(f"unimic: {title} has {why}", file=sys.stderr)
    if facts["errors"]:
        first = facts["errors"][0]
        what = ("" if first["codec"] == ANY else
                f"{first['codec']} {first['setting']}, {first['image']}: ")
        print(f"unimic: error: {len(facts['errors']):,} of {len(rows):,} measurements failed, the "
              f"first: {what}{first['error']}", file=sys.stderr)
    return 1 if facts["errors"] else 0


def measure_session(args: argparse.Namespace) -> int:
    """Measure sessions and drift, and say by the exit code whether all went well."""
    from unimic.edge.demo import service
    from unimic.edge.models import Models
    from unimic.measure import metrics, ours, session_report, sessions
    from unimic.measure.journal import Journal
    from unimic.measure.session import Settings

    if args.edits < 1:
        raise InvalidInput("--edits", f"is {args.edits}", "use 1 or more")
    if args.plots:
        make_folder(args.plots)
    journal_path = _journal_path(args.json) if args.json and str(args.json) != PIPE else None
    outputs.check({"--json": args.json, "--report": args.report}, args.force or args.resume,
                  {"the journal": journal_path} if journal_path else {})
    if args.resume and not journal_path:
        raise InvalidInput("--resume", "there is no file to go on with", "name it by --json")
    families, versions = _families(args.codecs)
    single = [metric.name for metric in metrics.METRICS.values() if not metric.of_sets]
    if args.equal not in single:
        raise InvalidInput("--equal", f"{args.equal!r} is no metric of single pictures",
                           f"use {', '.join(single)}")
    _, missing = metrics.find([args.equal])
    if missing:
        raise InvalidInput(args.equal, "is what codecs are matched by, and it is not installed",
                           *missing.values())
    settings = Settings(args.quality, metrics.METRICS[args.equal], args.edits, args.seed, families)
    files = _files(args.images)
    versions = machine.versions(versions, metrics.versions([settings.metric]))
    our_versions = ours.versions(ModelStore.default())
    made_by = {f"--{name}": str(value) for name, value in settings.as_dict().items()
               if name != "quality"}  # which each row has
    journal = Journal(journal_path, versions | made_by, {sessions.NAME: our_versions},
                      args.resume, args.force) if journal_path else None
    models = Models.load()
    with outputs.for_results(), service(args.server) as address:
        found, failed = sessions.measure_all(address, models, files, settings, journal, progress)
    if journal:
        journal.close()
    facts = {"command": machine.command(), "machine": machine.describe(),
             "versions": versions | our_versions, "settings": settings.as_dict(),
             "sessions": found, "failed": failed, "totals": sessions.totals(found)}
    _write(args, facts, session_report.text(facts), session_report.html(facts),
           session_report.plots(facts) if args.plots else {})
    if failed:
        print(f"unimic: error: {len(failed):,} of {len(files):,} photos cannot be measured, the "
              f"first: {failed[0]['image']}: {failed[0]['error']}", file=sys.stderr)
    return 1 if failed else 0


def measure_tasks(args: argparse.Namespace) -> None:
    """Measure what a service makes of tokens."""
    from unimic.edge.client import Client
    from unimic.edge.demo import service
    from unimic.edge.models import Models
    from unimic.measure.tasks import findings, run

    for option in "count", "seeds":
        if getattr(args, option) < 1:
            raise InvalidInput(f"--{option}", f"is {getattr(args, option)}", "use 1 or more")
    if unknown := [name for name in args.tasks if name not in run.TASKS]:
        raise InvalidInput("--tasks", f"{unknown[0]!r} is unknown", f"use {', '.join(run.TASKS)}")
    outputs.check({"--json": args.json, "--report": args.report, "--samples": args.samples},
                  args.force)
    families, versions = _families(args.codecs)
    options = run.Options(args.tasks, args.daquar, args.flickr8k, args.count, args.seeds, families)
    models, samples, found = Models.load(), run.Samples(), []
    parts = run.plan(models, options, samples)
    with (outputs.for_results(), service(args.server) as address,
          Client(address, models=models) as cloud):
        for name, part in parts.items():
            with progress(name) as show:
                found.append(part(cloud, show))
    command, described = machine.command(), machine.describe()
    versions = machine.versions(versions)
    facts = {**{part.title: part.as_dict() for part in found}, "command": command,
             "machine": described, "versions": versions}
    _write(args, facts, findings.text(found), findings.html(found, command, described, versions),
           {})
    if args.samples and (sheet := run.sheet(samples)):
        write_output(str(args.samples), picture_bytes(sheet, "JPEG"), force=True)


def _families(names: list[str]) -> tuple[list[list[Variant]], dict[str, str]]:
    """Each codec with its scalings, and versions; codecs that are missing are told and left out."""
    from unimic.measure import codecs

    if codecs.OURS in names:
        raise InvalidInput("--codecs", f"{codecs.OURS} is measured in any case", "name the others")
    wanted = [f"{name}/{scale}" if scale > 1 else name for name in names for scale in codecs.SCALES]
    with outputs.for_results():
        variants, missing = codecs.find(wanted)
    _tell_missing(missing)
    families: dict[str, list[Variant]] = {}
    versions: dict[str, str] = {}
    for variant in variants:
        families.setdefault(variant.codec.name, []).append(variant)
        versions |= variant.codec.versions
    return list(families.values()), versions


def _tell_missing(missing: dict[str, str]) -> None:
    for name, remedy in missing.items():
        print(f"unimic: {name} is skipped: {remedy}", file=sys.stderr)


def _journal_path(results: Path) -> Path:
    """Beside the results; where these go to standard output, beside where else they would be."""
    beside = RESULTS if str(results) == PIPE else results
    return beside.parent / f"{beside.stem}.jsonl"


def _write(args: argparse.Namespace, facts: dict[str, Any], lines: list[str], report: str,
           plots: Mapping[str, str]) -> None:
    """Write the files, then print the figures, unless one of the files is standard output.

    Whether files may be overwritten is known by now. Plots of an earlier run are replaced like its
    report.
    """
    if args.json:
        write_output(str(args.json), outputs.as_json(facts, indent=1).encode(), force=True)
    if args.report:
        write_output(str(args.report), report.encode(errors="replace"), force=True)
    for name, drawing in plots.items():
        write_output(str(args.plots / f"{name}.svg"), drawing.encode(), force=True)
    if PIPE not in (str(args.json), str(args.report)):
        print("\n".join(lines))


def _tell(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    tell(args, facts, answer="\n".join(_table(facts)))


def measure_entropy(args: argparse.Namespace) -> None:
    """Measure and report."""
    from unimic.codec.coder import load_coder
    from unimic.measure.entropy import compressors, measure_pictures, measure_texts

    if args.every < 1:
        raise InvalidInput("--every", f"is {args.every}", "use 1 or more")
    pictures = _pictures(args.images, args.captions)[::args.every]
    texts = {path: _lines(path)[::args.every] for path in args.texts}
    if not pictures and not texts:
        raise InvalidInput("--images", "nothing to measure", "name pictures or texts")
    store = ModelStore.default()
    coder = load_coder(store)
    dictionary = _lines(args.dictionary) if args.dictionary else []
    others = [*compressors([line.encode() for line in dictionary])]
    facts: dict[str, Any] = {}
    if pictures:
        with progress("pictures") as show:
            facts["images"] = measure_pictures(store, coder, pictures, show)
    for path, lines in texts.items():
        with progress(path.name) as show:
            facts[f"texts {path}"] = measure_texts(store, coder, lines, others, show)
    _tell(args, facts)


def _pictures(paths: list[Path], captions: Path | None) -> list[Picture]:
    from unimic.measure.entropy import Picture

    files = _files(paths)
    if captions is None:
        return [Picture(path) for path in files]
    try:
        rows = [json.loads(line) for line in _lines(captions)]
        known = {str(row["image"]): str(row["captions"][0]) for row in rows}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidInput("--captions", f"{captions} cannot be understood ({error!r})",
                           'write lines like {"image": "name", "captions": ["text"]}') from error
    return [Picture(path, known[path.stem]) for path in files if path.stem in known]


def _files(paths: list[Path]) -> list[Path]:
    """Files, and those in folders that are pictures by their names, each once.

    Raises:
        InvalidInput: there is no such file, or a folder has none.
    """
    from PIL import Image

    from unimic.edge.images import FORMATS

    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            path.stat()
            found = [path] if not path.is_dir() else sorted(
                file for file in path.iterdir()
                if file.suffix.lower() in endings and file.is_file())
        except OSError as error:
            raise InvalidInput(str(path), f"cannot be read ({error.strerror})", _NAME) from error
        if not found:
            raise InvalidInput(str(path), "is a folder without pictures", _NAME)
        for file in found:
            files.setdefault(file.resolve(), file)
    return [*files.values()]


_NAME = "name pictures, or folders of pictures"


def _lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), f"cannot be read ({error})", "name a UTF-8 file") from error
    if not lines:
        raise InvalidInput(str(path), "is empty", "name a file with lines of text")
    return lines


def _table(facts: dict[str, Any]) -> list[str]:
    from unimic.measure.html import shown

    lines = []
    for title, figures in facts.items():
        lines.append(title)
        for name, value in figures.items():
            if isinstance(value, dict):
                lines += [f"  {name.replace('_', ' ')}: {inner} {number:.3f}"
                          for inner, number in value.items()]
            else:
                cell = shown(value, 3 if isinstance(value, float) else None)
                lines.append(f"  {name.replace('_', ' '):<40} {cell:>12}")
    return lines
