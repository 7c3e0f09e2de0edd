"""What trainings and exports share as commands: they end with one line where something is wrong."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from unimic.codec.errors import UnimicError


def count(text: str) -> int:
    """The value of an option that counts something: 1 or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def seed(text: str) -> int:
    """The value of an option that chance begins with: 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def positive(text: str) -> float:
    """The value of an option that measures something: more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of more than 0")
    return value


def run_options(parser: argparse.ArgumentParser, minutes: float, rate: float) -> None:
    """The options of each `unimic.cloud.training.loop.Run`, with their defaults."""
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--minutes", type=positive, default=minutes, help="the budget "
                        "(default: %(default)g)")
    parser.add_argument("--rate", type=positive, default=rate, help="of learning, at its highest "
                        "(default: %(default)g)")
    parser.add_argument("--seed", type=seed, default=1)


def command(main: Callable[[], None]) -> None:
    """Run ``main``; exit with 1 and a line for errors of input and files, with 130 for Ctrl-C."""
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except shutil.Error as error:
        told = error.args[0]  # of a folder: a list of the files that could not be copied, and why
        raise SystemExit(f"error: {told if isinstance(told, str) else told[0][-1]}") from error
    except (UnimicError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
