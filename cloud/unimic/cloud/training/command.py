"""What trainings and exports share as commands: they end with one line where something is wrong."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable

from unimic.codec.errors import UnimicError


def count(text: str) -> int:
    """The value of an option that counts something: 1 or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


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
