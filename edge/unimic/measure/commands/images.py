"""``unimic measure images``; libraries are imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimic.codec.errors import InvalidInput
from unimic.edge.console import HelpFormatter, make_folder, progress
from unimic.measure import machine, outputs
from unimic.measure.commands.options import comma_list, picture_files, tell_missing

if TYPE_CHECKING:
    from unimic.measure.codecs import Variant
    from unimic.measure.metrics import Metric
    from unimic.measure.run import Task

EXAMPLES = """\
examples:
  unimic measure images kodak/ --report kodak.html --json kodak.json
  unimic measure images kodak/ --report kodak.html --json kodak.json --resume   go on with it
  unimic measure images photo.png --codecs unimic,vvc,vvc/2,avif/2 --metrics psnr,lpips-vgg
"""
ANCHOR = "vvc"


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    images = actions.add_parser(
        "images", help="rate and fidelity beside other codecs", epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        description="Code pictures with every codec at every setting, and say how many bits they "
        "take, how near they come to the originals and how long it lasts.")
    images.add_argument("images", type=Path, nargs="+", metavar="IMAGE",
                        help="pictures, or folders of pictures")
    images.add_argument("--codecs", type=comma_list, metavar="NAMES",
                        help="separated by commas: unimic, jpeg, webp, avif, jp2, jxl, av1, hevc, "
                        "vvc and those that other packages add; NAME/2 scales down and up by 2, "
                        "NAME:40:50 measures these settings instead of the usual ones "
                        "(default: all, the classical ones also with /2 and /4)")
    images.add_argument("--metrics", type=comma_list, metavar="NAMES",
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
    images.add_argument("--json", type=Path, default=outputs.RESULTS, metavar="FILE",
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


def measure_images(args: argparse.Namespace) -> int:
    """Measure, report, and say by the exit code whether all went well."""
    from unimic.edge.images import read_bytes
    from unimic.measure import codecs, curves, metrics, report
    from unimic.measure.journal import FEATURES, Journal
    from unimic.measure.run import content, measure_all, unreadable

    for option in "jobs", "crops":
        if getattr(args, option) < (option == "jobs"):
            raise InvalidInput(f"--{option}", f"is {getattr(args, option)}", "use more")
    journal_path = outputs.journal_path(args.json)
    if args.plots:
        make_folder(args.plots)
    outputs.check({"--json": args.json, "--report": args.report}, args.force or args.resume,
                  {"the journal": journal_path,
                   "the journal's features": journal_path.with_suffix(FEATURES)})
    files = picture_files(args.images)
    broken = {path: row for path in files if (row := unreadable(path))}
    contents = {path: content(read_bytes(path)) for path in files if path not in broken}
    judges, missing = metrics.find(args.metrics or list(metrics.METRICS))
    with outputs.for_results():
        variants, missing_codecs = codecs.find(args.codecs or codecs.all_names())
    missing |= missing_codecs | codecs.misnamed() | curves.missing()
    tell_missing(missing)
    if not variants:
        raise InvalidInput("--codecs", "none of them can be had here", "name others")
    versions = machine.versions(metrics.versions(judges),
                                {"LPIPS and DISTS in": "bfloat16" if args.fast else "float32"})
    codec_versions = {variant.codec.name: variant.codec.versions for variant in variants}
    if args.anchor and args.anchor not in codec_versions:
        raise InvalidInput("--anchor", f"{args.anchor!r} is not among the codecs that are measured",
                           f"use {', '.join(codec_versions)}")
    journal = Journal(journal_path, versions, codec_versions, args.resume, args.force)
    tasks = _plan(args, contents, variants, judges)
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
    outputs.write(args, facts, report.text(facts, judges),
                  report.html(rows, facts, judges, context),
                  report.plots(facts, judges) if args.plots else {})
    for title, why in report.without_mean(facts, judges).items():
        print(f"unimic: {title} has {why}", file=sys.stderr)
    if facts["errors"]:
        first = facts["errors"][0]
        what = ("" if first["codec"] == codecs.ANY else
                f"{first['codec']} {first['setting']}, {first['image']}: ")
        print(f"unimic: error: {len(facts['errors']):,} of {len(rows):,} measurements failed, the "
              f"first: {what}{first['error']}", file=sys.stderr)
    return 1 if facts["errors"] else 0


def _plan(args: argparse.Namespace, contents: Mapping[Path, str], variants: Sequence[Variant],
          judges: Sequence[Metric]) -> list[Task]:
    """Every picture with every codec at every setting; settings may be named twice."""
    from unimic.measure.codecs import ORIGINAL
    from unimic.measure.run import Task

    names = tuple(judge.name for judge in judges)
    of_sets = tuple(judge.name for judge in judges if judge.of_sets)
    tasks: list[Task] = []
    for i, (path, known) in enumerate(contents.items()):
        if of_sets:
            tasks.append(Task(path, ORIGINAL, "", of_sets, args.fast, keep=False, content=known))
        tasks += [Task(path, variant.name, setting, names, args.fast, i < args.crops, known)
                  for variant in variants for setting in variant.ladder]
    return [*{task.key: task for task in tasks}.values()]
