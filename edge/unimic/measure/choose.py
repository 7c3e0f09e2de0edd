"""The setting of a codec that reaches a quality, or that keeps a budget."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import ThreadPool
from typing import TypeVar, cast

import numpy as np
from PIL import Image

from unimic.edge.cached import cached_property
from unimic.measure.codecs import Encoded, Setting, Variant

Item = TypeVar("Item")
Found = TypeVar("Found")

NEAR = 16
"""Settings beside the one that bisection finds that are tried, too: bytes and fidelity do not quite
grow with them."""


@dataclass(frozen=True, eq=False)
class Choice:
    """A picture coded at the setting that was found."""

    variant: Variant
    setting: Setting
    encoded: Encoded
    size: tuple[int, int]

    @cached_property
    def decoded(self) -> Image.Image:
        """The picture that comes out; a search by bytes alone never asks for it."""
        return self.variant.decode(self.encoded.data, self.size)

    @property
    def name(self) -> str:
        """Of codec and setting."""
        return f"{self.variant.name} {self.setting}"


class _Coded:
    """A picture at every setting of a variant's knob, each coded when it is first looked at."""

    def __init__(self, variant: Variant, image: Image.Image) -> None:
        self.variant, self.image = variant, image
        self.made: dict[int, Choice] = {}

    def __len__(self) -> int:
        return len(self.variant.codec.knob)

    def __getitem__(self, position: int) -> Choice:
        if position not in self.made:
            setting = self.variant.codec.knob[position]
            encoded = self.variant.encode(self.image, setting)
            self.made[position] = Choice(self.variant, setting, encoded, self.image.size)
        return self.made[position]


def side_by_side(work: Callable[[Item], Found], items: Collection[Item]) -> Iterator[Found]:
    """What ``work`` makes of each item, in their order, on all cores.

    In threads, as codecs are programs and libraries outside of Python. Whoever is interrupted does
    not wait for what is under way.
    """
    def outcome(item: Item) -> tuple[Found | None, BaseException | None]:
        try:
            return work(item), None
        except BaseException as error:  # an exit would end the thread, and be waited for in vain
            return None, error

    with ThreadPool(max(1, min(len(items), os.cpu_count() or 1))) as pool:
        for found, error in pool.imap(outcome, items):
            if error:
                raise error
            yield cast(Found, found)


def _bytes(choice: Choice) -> int:
    return choice.encoded.bare_bytes


def _working(variants: Sequence[Variant], image: Image.Image,
             search: Callable[[_Coded], Found]) -> list[Found]:
    """What a search finds in each variant, but of those that fail; if all do, the last error."""
    def outcome(variant: Variant) -> Found | Exception:
        try:
            return search(_Coded(variant, image))
        except Exception as error:  # no exit: that may be a signal to end
            return error

    outcomes = list(side_by_side(outcome, variants))
    errors = [each for each in outcomes if isinstance(each, Exception)]
    if errors and len(errors) == len(outcomes):
        raise errors[-1]
    return [each for each in outcomes if not isinstance(each, Exception)]


def smallest(variants: Sequence[Variant], image: Image.Image,
             enough: Callable[[Image.Image], bool]) -> Choice | None:
    """The choice of the fewest bytes whose picture is ``enough``; None if none is.

    By bisection for each variant, and then downwards, since more bytes are now and then worse,
    until `NEAR` settings in turn are not enough.
    """
    def search(coded: _Coded) -> list[Choice]:
        first = bisect_left(coded, True, key=lambda choice: enough(choice.decoded))
        fitting = [coded[first]] if first < len(coded) else []
        position = last = first
        while fitting and position > max(0, last - NEAR):
            position -= 1
            if enough(coded[position].decoded):
                fitting.append(coded[position])
                last = position
        return fitting

    choices = [choice for found in _working(variants, image, search) for choice in found]
    return min(choices, key=_bytes, default=None)


def within(variants: Sequence[Variant], image: Image.Image, budgets: Sequence[int]
           ) -> list[Choice]:
    """For each budget the choice of at most so many bytes that is nearest in squared error.

    If nothing is as small as that, it is the smallest of all. The settings of each variant are
    sought by bisection; the `NEAR` next ones above are tried, too, since higher settings now and
    then take fewer bytes. What was coded on the way to one budget serves the others as well.
    """
    pixels = np.asarray(image, np.float32)

    @cache
    def error(choice: Choice) -> float:
        return float(np.square(np.asarray(choice.decoded, np.float32) - pixels).mean())

    def search(coded: _Coded) -> list[Choice]:
        return [best(near(coded, budget), budget) for budget in budgets]

    def near(coded: _Coded, budget: int) -> list[Choice]:
        first = max(0, bisect_right(coded, budget, key=_bytes) - 1)
        return [coded[position] for position in range(first, min(first + NEAR + 1, len(coded)))]

    def best(choices: Sequence[Choice], budget: int) -> Choice:
        if fitting := [choice for choice in choices if _bytes(choice) <= budget]:
            return min(fitting, key=error)
        return min(choices, key=_bytes)

    found = _working(variants, image, search)
    return [best([each[i] for each in found], budget) for i, budget in enumerate(budgets)]
