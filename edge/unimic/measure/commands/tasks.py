"""``unimic measure tasks``."""

from __future__ import annotations

import argparse
from pathlib import Path

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.edge.console import HelpFormatter, picture_bytes, progress, write_output
from unimic.measure import machine, outputs
from unimic.measure.commands.options import codec_families, comma_list, service_options

EXAMPLES = """\
examples:
  unimic measure tasks --count 100 --report tasks.html --json tasks.json
  unimic measure tasks --daquar daquar/ --codecs avif,vvc --server localhost:50051
  unimic measure tasks --tasks inpainting,photos --flickr8k flickr8k/ --samples made.jpg
"""


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    tasks = actions.add_parser(
        "tasks", help="answers, captions, inpainting and drawings, judged", epilog=EXAMPLES,
        formatter_class=HelpFormatter, parents=[service_options()],
        description="Give a service the tasks of test sets: the questions of easy-VQA and of "
        "DAQUAR, photos of Flickr8k to describe, to inpaint and to make from their captions, and "
        "drawings to make. What it says about tokens stands beside what it says about pictures "
        "that other codecs squeezed to the same number of bytes; what it makes, beside the "
        "original. A test set whose folder is not named is left out.")
    tasks.add_argument("--tasks", type=comma_list, metavar="NAMES",
                       default=["answers", "captions", "inpainting", "drawings", "photos"],
                       help="separated by commas: answers, captions, inpainting, drawings, photos "
                       "(default: all)")
    tasks.add_argument("--daquar", type=Path, metavar="FOLDER",
                       help="daquar-eval.csv and daquar-train.csv (image_id, question, answer), "
                       "with the pictures")
    tasks.add_argument("--flickr8k", type=Path, metavar="FOLDER",
                       help="flickr8k-captions.jsonl, with the photos")
    tasks.add_argument("--codecs", type=comma_list, metavar="NAMES",
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


def measure_tasks(args: argparse.Namespace) -> None:
    """Measure what a service makes of tokens."""
    from unimic.edge.client import Client
    from unimic.edge.demo import service
    from unimic.edge.models import Models
    from unimic.measure import metrics, ours
    from unimic.measure.tasks import findings, run

    for option in "count", "seeds":
        if getattr(args, option) < 1:
            raise InvalidInput(f"--{option}", f"is {getattr(args, option)}", "use 1 or more")
    if unknown := [name for name in args.tasks if name not in run.TASKS]:
        raise InvalidInput("--tasks", f"{unknown[0]!r} is unknown", f"use {', '.join(run.TASKS)}")
    outputs.check({"--json": args.json, "--report": args.report, "--samples": args.samples},
                  args.force)
    families, versions = codec_families(args.codecs)
    options = run.Options(args.tasks, args.daquar, args.flickr8k, args.count, args.seeds, families)
    models, samples, found = Models.load(), run.Samples(), []
    parts = run.plan(models, options, samples)
    with (outputs.for_results(), service(args.server) as address,
          Client(address, models=models) as cloud):
        for name, part in parts.items():
            with progress(name) as show:
                found.append(part(cloud, show))
    command, described = machine.command(), machine.describe()
    versions = machine.versions(versions, metrics.versions(run.judges(parts)),
                                ours.versions(ModelStore.default()))
    facts = {**{part.title: part.as_dict() for part in found}, "command": command,
             "machine": described, "versions": versions}
    outputs.write(args, facts, findings.text(found),
                  findings.html(found, command, described, versions), {})
    if args.samples and (sheet := run.sheet(samples)):
        write_output(str(args.samples), picture_bytes(sheet, "JPEG"), force=True)
