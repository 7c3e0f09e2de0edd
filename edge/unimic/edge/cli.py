"""The ``unimic`` command.

Exit codes: 0 done, 1 an error (one line on standard error), 2 wrong usage, 130 interrupted, 143
terminated.
Other packages add commands through the entry-point group ``unimic.commands``: a function that
takes the subparsers and adds a parser whose default ``run`` is called with the parsed arguments.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import entry_points

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.version import __version__
from unimic.edge.commands import demo, files, models, tasks
from unimic.edge.console import HelpFormatter, be_lenient, discard_output, plain

DESCRIPTION = """\
Code pictures and texts as tokens, and work on them with a multimodal model in the cloud.

  unimic encode photo.jpg photo.umc      a few hundred bytes
  unimic decode photo.umc photo.png
  unimic serve                           start a service on this machine
  unimic ask photo.jpg "what is it?"     let it work
  unimic demo                            all of it at once, on an example photo
"""


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the commands that are installed; others than ``argv`` asks for may lack."""
    parser = argparse.ArgumentParser(
        prog="unimic", description=DESCRIPTION, epilog="unimic COMMAND --help tells more.",
        formatter_class=HelpFormatter)
    parser.add_argument("--version", action="version", version=f"unimic {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (files, tasks, models, demo):
        module.add(subparsers)
    if argv and argv[0] in subparsers.choices:
        return parser  # without waiting for what other packages import
    installed = sorted(entry_points(group="unimic.commands"), key=lambda entry: entry.name)
    for command in [entry for entry in installed if entry.name in argv[:1]] or installed:
        try:
            command.load()(subparsers)
        except ImportError as error:
            _add_missing(subparsers, command.name, error)
    return parser


def _add_missing(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str,
                 error: ImportError) -> None:
    """A command that is known but whose packages are not installed."""
    def explain(args: argparse.Namespace) -> None:
        raise InvalidInput(name, f"is not installed ({error})",
                           "pip install 'unimic[cloud]' or the extra that has it")

    # No prefix: options are words like any other, all of them swallowed.
    parser = subparsers.add_parser(name, add_help=False, prefix_chars="\0")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    parser.set_defaults(run=explain)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser(argv)
    args, rest = parser.parse_known_args(argv)
    # argparse takes no question, which may be left out, any more once an option has come.
    if getattr(args, "question", None) == "" and len(rest) == 1 and rest[0][:1] != "-":
        args.question = rest.pop()
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC tells of every closed connection
    be_lenient()
    try:
        args = _parse(argv)
    except KeyboardInterrupt:  # what other packages import may take a while
        return 130
    verbose: int = getattr(args, "verbose", 0)
    logging.basicConfig(level=max(logging.DEBUG, logging.WARNING - 10 * verbose),
                        format=getattr(args, "log_format", "%(levelname)s %(name)s: %(message)s"))
    if threading.current_thread() is threading.main_thread():
        # As an exception, so that a service that the command started ends with it.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if not verbose:
        warnings.simplefilter("ignore")  # of libraries; what matters to the user is an error
    try:
        return args.run(args) or 0
    except UnimicError as error:
        return _fail(str(error), verbose)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        discard_output()
        return 1
    except Exception as error:  # a traceback would not help the user
        if isinstance(error, FileNotFoundError) and error.filename is None:  # from os.getcwd
            return _fail("the current folder is gone; change to one that is there", verbose)
        return _fail(f"unexpected {type(error).__name__}: {error}", verbose)


def _fail(message: str, verbose: int) -> int:
    if verbose > 1:
        traceback.print_exc()
    print(f"unimic: error: {plain(' '.join(message.split()))}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
