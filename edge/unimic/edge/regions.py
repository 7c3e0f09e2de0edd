"""Parts of a picture: as users name them, in pixels, and in whole tokens."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unimic.codec.canvas import Margins
from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import Mask, grid_shape
from unimic.edge.images import load_mask

Box = tuple[int, int, int, int]
MaskSource = Mask | Image.Image | Sequence[int]
"""Where to make an image anew: a bool array ``(height, width)`` in the picture's pixels or
``(rows, columns)`` in the tokens of its grid, a Pillow image of the picture's size (bright pixels
count, transparent ones do not), or a box of pixels (left, top, right, bottom)."""


@dataclass(frozen=True)
class View:
    """The part of a canvas, in pixels, that is the picture; see `Picture`."""

    left: int
    top: int
    width: int
    height: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Indices of the part in an array of the canvas."""
        return (slice(self.top, self.top + self.height), slice(self.left, self.left + self.width))


@dataclass(frozen=True)
class Region:
    """Part of a canvas, never empty.

    Attributes:
        pixels: bool ``(height, width)``, as the user drew it, and what the view does not show of
            its tokens.
        tokens: bool ``(rows, columns)``, every token that it touches.
    """

    pixels: Mask
    tokens: Mask


def find_region(mask: MaskSource, view: View, size: tuple[int, int, int], field: str = "mask"
                ) -> Region:
    """The region that a mask means.

    Args:
        mask: see `MaskSource`.
        view: where the picture is in its canvas.
        size: width and height of the canvas in pixels, and its pitch.
        field: what errors call the mask.

    Raises:
        InvalidInput: the mask has another type or size, or covers nothing of the picture.
    """
    width, height, pitch = size
    picture, tokens = (view.height, view.width), grid_shape(width, height, pitch)
    shown = np.zeros(picture, bool)
    if isinstance(mask, Image.Image):
        bright = load_mask(mask, name=field)
        if bright.size != picture[::-1]:
            raise InvalidInput(field, f"the mask has {bright.width}×{bright.height} pixels, the "
                               f"picture {view.width}×{view.height}", "make them equal")
        shown = np.asarray(bright) >= 128
    elif isinstance(mask, np.ndarray):
        if mask.dtype != np.bool_:
            raise InvalidInput(field, f"dtype {mask.dtype}", "pass a bool array")
        if mask.shape == picture:
            shown = mask
        elif mask.shape == tokens:
            shown = spread(mask, pitch)[view.window]
        else:
            raise InvalidInput(field, f"shape {mask.shape}",
                               f"pass {picture} for pixels or {tokens} for tokens")
    else:
        left, top, right, bottom = _box(field, mask)
        if not (0 <= left < right <= view.width and 0 <= top < bottom <= view.height):
            raise InvalidInput(field, f"the box {(left, top, right, bottom)} is empty or leaves "
                               f"the picture", f"stay within 0 … {view.width}, 0 … {view.height}")
        shown[top:bottom, left:right] = True
    if not shown.any():
        raise InvalidInput(field, "covers nothing", "paint in white what is meant" if isinstance(
            mask, Image.Image) else "set at least one pixel or token")
    pixels = np.zeros((height, width), bool)
    pixels[view.window] = shown
    touched = widen(pixels, tokens, pitch)
    unseen = spread(touched, pitch)[:height, :width]
    unseen[view.window] = False  # nothing of what was there is to show when it comes to be seen
    return Region(pixels | unseen, touched)


def grow(view: View, wanted: Margins, pitch: int) -> tuple[Margins, View]:
    """How a canvas grows so that its picture gains ``wanted``, and where the picture then is.

    Raises:
        InvalidInput: the margins add nothing or take something away.
    """
    if min(vars(wanted).values()) < 0 or not any(vars(wanted).values()):
        told = ", ".join(f"{side} {more}" for side, more in vars(wanted).items())
        raise InvalidInput("margins", told, "extend at least one side, shrink none")
    left, top = (
        -(-max(1, more - hidden) // pitch) * pitch if more else 0
        for more, hidden in ((wanted.left, view.left), (wanted.top, view.top)))
    return Margins(left, top, wanted.right, wanted.bottom), View(
        left + view.left - wanted.left, top + view.top - wanted.top,
        wanted.left + view.width + wanted.right, wanted.top + view.height + wanted.bottom)


def widen(pixels: Mask, grid: tuple[int, ...], pitch: int) -> Mask:
    """The tokens ``(rows, columns)`` that a pixel mask ``(height, width)`` touches."""
    rows, columns = grid
    whole = np.zeros((rows * pitch, columns * pitch), bool)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    touched: Mask = np.any(whole.reshape(rows, pitch, columns, pitch), axis=(1, 3))
    return touched


def around(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Rows and columns of what is set in a mask, at least one cell, and of ``margin`` around it.

    The ends may lie beyond the mask, the beginnings do not.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
            slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin))


def spread(tokens: Mask, pitch: int) -> Mask:
    """The pixels ``(rows · pitch, columns · pitch)`` of the tokens of a mask."""
    return tokens.repeat(pitch, 0).repeat(pitch, 1)


def _box(field: str, mask: Sequence[int]) -> Box:
    try:
        left, top, right, bottom = map(operator.index, mask)
    except (TypeError, ValueError):
        raise InvalidInput(field, f"this {type(mask).__name__} is not a mask", "pass a bool array, "
                           "a picture or a box of four whole numbers") from None
    return left, top, right, bottom
