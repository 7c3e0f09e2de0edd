"""The setting of a codec that reaches a quality, or that keeps a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

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
        found = _bisect(variant, image, lambda choice: enough(choice.decoded))
        if found < len(variant.codec.knob):
            choices.append(_code(variant, image, found))
    return min(choices, key=lambda choice: len(choice.data), default=None)


def within(variants: Sequence[Variant], image: Image.Image, budget: int) -> Choice:
    """The choice of at most ``budget`` bytes that is nearest to ``image`` in squared error.

    If nothing is as small as that, it is the smallest of all.
    """
    choices = []
    for variant in variants:
        above = _bisect(variant, image, lambda choice: len(choice.data) > budget)
        choices.append(_code(variant, image, max(0, above - 1)))
    fitting = [choice for choice in choices if len(choice.data) <= budget]
    if not fitting:
        return min(choices, key=lambda choice: len(choice.data))
    pixels = np.asarray(image, np.float32)
    return min(fitting, key=lambda choice: float(
        np.square(np.asarray(choice.decoded, np.float32) - pixels).mean()))


def _bisect(variant: Variant, image: Image.Image, reached: Callable[[Choice], bool]) -> int:
    """The first position of the knob where ``reached``; its length if nowhere."""
    low, high = 0, len(variant.codec.knob)
    while low < high:
        middle = (low + high) // 2
        if reached(_code(variant, image, middle)):
            high = middle
        else:
            low = middle + 1
    return low


def _code(variant: Variant, image: Image.Image, position: int) -> Choice:
    setting = variant.codec.knob[position]
    return Choice(variant, setting, variant.encode(image, setting).data, image.size)
