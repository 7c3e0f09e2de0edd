"""``unimic demo``; `unimic.edge.demo` does it."""

from __future__ import annotations

import argparse
from pathlib import Path

from unimic.edge.console import common_options

QUESTION = "what is on the table?"
INPAINT = "a red plate"
OUTPAINT = "a cup of coffee on a wooden table"
GENERATE = "a blue triangle"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo", help="all of it at once, on an example photo", parents=[common_options()],
        description="Start a service on this machine, share a photo with it, ask a question, "
        "inpaint, outpaint and generate; print what each turn cost and write the pictures.")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="FOLDER",
                        help="where the pictures go (default: %(default)s)")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite pictures in FOLDER")
    parser.add_argument("--photo", metavar="FILE", help="your own photo, instead of the example")
    parser.add_argument("--question", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--inpaint", default=INPAINT, metavar="PROMPT", help="default: %(default)s")
    parser.add_argument("--outpaint", default=OUTPAINT, metavar="PROMPT",
                        help="default: %(default)s")
    parser.add_argument("--generate", default=GENERATE, metavar="PROMPT",
                        help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--server", metavar="HOST:PORT", help="use a running service")
    parser.set_defaults(run=demo)


def demo(args: argparse.Namespace) -> None:
    """Run the demo."""
    from unimic.edge.demo import demo as run

    run(args)
