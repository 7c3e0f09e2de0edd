"""``unimic measure``; its actions are in `unimic.measure.commands`, the measuring beside this."""

from __future__ import annotations

import argparse

from unimic.measure.commands import entropy, images, session, speed, tasks


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("measure", help="measure rates and fidelity",
                                   description="Measure rates and fidelity.")
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    for action in (images, session, tasks, entropy, speed):
        action.add(actions)
