"""The setting of a codec that reaches a quality, or that keeps a budget."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from PIL import Image

from unimic.measure.codecs import Setting, Variant


@dataclass(frozen=True, eq=False)
class Choice:
    """A picture coded at the setting that was found."""

    variant: Variant
    setting: Setting
    data: bytes
    size: tuple[int, int]

    @cached_property
    def decoded(self) -> Image.Image:
        """The picture that comes out; a search by bytes alone never asks for it."""
        return self.variant.decode(self.data, self.size)

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
            data = self.variant.encode(self.image, setting).data
            self.made[position] = Choice(self.variant, setting, data, self.image.size)
        return self.made[position]


def _bytes(choice: Choice) -> int:
    return len(choice.data)


def smallest(variants: Sequence[Variant], image: Image.Image,
             enough: Callable[[Image.Image], bool]) -> Choice | None:
    """The choice of the fewest bytes whose picture is ``enough``; None if none is.

    By bisection for each variant: more bytes are taken to be never worse.
    """
    choices = []
    for variant in variants:
        coded = _Coded(variant, image)
        found = bisect_left(coded, True, key=lambda choice: enough(choice.decoded))
        if found < len(coded):
            choices.append(coded[found])
    return min(choices, key=_bytes, default=None)


def within(variants: Sequence[Variant], image: Image.Image, budgets: Sequence[int]
           ) -> list[Choice]:
    """For each budget the choice of at most so many bytes that is nearest in squared error.

    If nothing is as small as that, it is the smallest of all. What was coded on the way to one
    budget serves the others as well.
    """
    coded = [_Coded(variant, image) for variant in variants]
    pixels = np.asarray(image, np.float32)

    @cache
    def error(choice: Choice) -> float:
        return float(np.square(np.asarray(choice.decoded, np.float32) - pixels).mean())

    def best(budget: int) -> Choice:
        choices = [each[max(0, bisect_right(each, budget, key=_bytes) - 1)] for each in coded]
        if fitting := [choice for choice in choices if _bytes(choice) <= budget]:
            return min(fitting, key=error)
        return min(choices, key=_bytes)

    return [best(budget) for budget in budgets]
