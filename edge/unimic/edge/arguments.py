"""Arguments of calls: one of the wrong type is the caller's mistake, and told as such."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

from unimic.codec.errors import InvalidInput


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
    if not isinstance(value, str):
        raise InvalidInput(field, f"a {type(value).__name__} is not text", "use a str")


def _check_range(field: str, value: Any, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN fails too
        raise InvalidInput(field, f"{value} is out of range", f"use {least} to {most}")
