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


def smallest(variants: Sequence[Variant], image: Image.Image,
             enough: Callable[[Image.Image], bool]) -> Choice | None:
    """The choice of the fewest bytes whose picture is ``enough``; None if none is.

    By bisection for each variant: more bytes are taken to be never worse.
    """
    choices = []
    for variant in variants:
        code = _coder(variant, image)
        knob = range(len(variant.codec.knob))
        found = bisect_left(knob, True, key=lambda position: enough(code(position).decoded))
        if found < len(knob):
            choices.append(code(found))
    return min(choices, key=lambda choice: len(choice.data), default=None)


def within(variants: Sequence[Variant], image: Image.Image, budgets: Sequence[int]
           ) -> list[Choice]:
    """For each budget the choice of at most so many bytes that is nearest in squared error.

    If nothing is as small as that, it is the smallest of all. What was coded on the way to one
    budget serves the others as well.
    """
    coders = [_coder(variant, image) for variant in variants]
    knobs = [range(len(variant.codec.knob)) for variant in variants]
    pixels = np.asarray(image, np.float32)

    @cache
    def error(choice: Choice) -> float:
        return float(np.square(np.asarray(choice.decoded, np.float32) - pixels).mean())

    def best(budget: int) -> Choice:
        choices = []
        for code, knob in zip(coders, knobs, strict=True):
            above = bisect_right(knob, budget, key=lambda position: len(code(position).data))
            choices.append(code(max(0, above - 1)))
        if fitting := [choice for choice in choices if len(choice.data) <= budget]:
            return min(fitting, key=error)
        return min(choices, key=lambda choice: len(choice.data))

    return [best(budget) for budget in budgets]


def _coder(variant: Variant, image: Image.Image) -> Callable[[int], Choice]:
    """Codes at a position of the knob, at each only once."""
    @cache
    def code(position: int) -> Choice:
        setting = variant.codec.knob[position]
        return Choice(variant, setting, variant.encode(image, setting).data, image.size)
    return code
