"""``unimic measure session``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.edge.console import PIPE, HelpFormatter, make_folder, progress, quality_option
from unimic.measure import machine, outputs
from unimic.measure.commands.options import (
    codec_families,
    comma_list,
    picture_files,
    service_options,
)

EXAMPLES = """\
examples:
  unimic measure session kitchen.jpg --report session.html --json session.json
  unimic measure session kitchen.jpg --codecs jpeg,vvc --server localhost:50051
  unimic measure session photos/ --edits 5 --report sessions.html --json sessions.json
  unimic measure session photos/ --edits 5 --report sessions.html --json sessions.json --resume
"""


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    session = actions.add_parser(
        "session", help="bytes and drift of a session of many turns", epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        parents=[service_options(resumable=True)],
        description="Hold a session of ten turns with a service and count the bytes of the "
        "connection, beside what its pictures would take with other codecs that come no farther "
        "from the original; then edit one half of the photo again and again, and see what becomes "
        "of the other half. With several photos: each of them, one after the other, and what they "
        "take in all.")
    session.add_argument("images", type=Path, nargs="+", metavar="IMAGE",
                         help="photos, or folders of photos")
    quality_option(session)
    session.add_argument("--codecs", type=comma_list, metavar="NAMES",
                         default=["jpeg", "webp", "avif", "av1", "vvc"],
                         help="separated by commas; each also behind scaling "
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
    journal_path = outputs.journal_path(args.json) if args.json and str(args.json) != PIPE else None
    outputs.check({"--json": args.json, "--report": args.report}, args.force or args.resume,
                  {"the journal": journal_path} if journal_path else {})
    if args.resume and not journal_path:
        raise InvalidInput("--resume", "there is no file to go on with", "name it by --json")
    families, versions = codec_families(args.codecs)
    single = [metric.name for metric in metrics.METRICS.values() if not metric.of_sets]
    if args.equal not in single:
        raise InvalidInput("--equal", f"{args.equal!r} is no metric of single pictures",
                           f"use {', '.join(single)}")
    _, missing = metrics.find([args.equal])
    if missing:
        raise InvalidInput(args.equal, "is what codecs are matched by, and it is not installed",
                           *missing.values())
    settings = Settings(args.quality, metrics.METRICS[args.equal], args.edits, args.seed, families)
    files = picture_files(args.images)
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
    outputs.write(args, facts, session_report.text(facts), session_report.html(facts),
                  session_report.plots(facts) if args.plots else {})
    if failed:
        print(f"unimic: error: {len(failed):,} of {len(files):,} photos cannot be measured, the "
              f"first: {failed[0]['image']}: {failed[0]['error']}", file=sys.stderr)
    return 1 if failed else 0
