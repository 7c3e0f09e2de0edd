"""Arguments of calls: one of the wrong type is the caller's mistake, and told as such."""

from __future__ import annotations

import math
import operator
import re
from numbers import Real
from types import UnionType
from typing import Any

from unimic.codec.errors import InvalidInput

USUAL_QUALITY = 100  # at which nothing is resampled


def whole(field: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """An integer of any kind; `InvalidInput` for all else, even 1.0, and out of range."""
    try:
        integer = operator.index(value)
    except TypeError:
        raise InvalidInput(field, f"a {type(value).__name__} is not a whole number",
                           "use an int") from None
    _check_range(field, integer, least, most)
    return integer


def number(field: str, value: Any, least: float, most: float) -> float:
    """A number of any kind; `InvalidInput` for all else, NaN, and out of range."""
    if not isinstance(value, Real):
        raise InvalidInput(field, f"a {type(value).__name__} is not a number", "use a float")
    _check_range(field, value, least, most)
    return float(value)


def check_text(field: str, value: Any) -> None:
    """Raise `InvalidInput` unless ``value`` is a string."""
    check_kind(field, value, str, "text", "use a str")


def check_kind(field: str, value: Any, kind: type | UnionType, name: str, remedy: str) -> None:
    """Raise `InvalidInput` unless ``value`` is of a kind; ``name`` is what errors call that."""
    if not isinstance(value, kind):
        raise InvalidInput(field, f"a {type(value).__name__} is not {name}", remedy)


def check_progress(value: Any) -> None:
    """Raise `InvalidInput` unless ``value`` can be called, or is None."""
    if value is not None and not callable(value):
        raise InvalidInput("on_progress", f"a {type(value).__name__} cannot be called",
                           "use a function of (done, all)")


def check_for_tokens(quality: int, budget: int | None, hole: object = None) -> None:
    """Raise `InvalidInput` for what is given beside tokens and means something for pixels only."""
    for field, is_given in (("quality", quality != USUAL_QUALITY), ("budget", budget is not None),
                            ("hole", hole is not None)):
        if is_given:
            raise InvalidInput(field, "is for pixels, and tokens are sent as they are",
                               "leave it out, or pass the picture's image")


def check_address(value: Any) -> None:
    """Raise `InvalidInput` unless ``value`` is an address that gRPC understands as it is meant.

    It takes ports modulo 65,536, and anything else for the name of a host.
    """
    check_text("address", value)
    host, _, port = value.rpartition(":")
    named = host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 1 << 16
    theirs = value.startswith("unix:") or "/" in value  # a scheme of gRPC's: its matter
    # What cannot be printed is no text at all, or bytes that are no UTF-8.
    if not (named or theirs) or not value.isprintable() or value.startswith(("http:", "https:")):
        raise InvalidInput("address", f"{value!r} is no address", "use host:port, with a port "
                           "from 1 to 65535")


def _check_range(field: str, value: Any, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN fails too
        raise InvalidInput(field, f"{value} is out of range", f"use {least} to {most}")
