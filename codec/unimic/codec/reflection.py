"""Where the pixels of a hole have their mirror images around it.

The edge carries on by it what is around a hole, and the training of what does so sees the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimic.codec.tokens import Mask

REACH = 64
"""Pixels from the border of a hole within which a mirror image says something."""


@dataclass(frozen=True)
class Reflection:
    """The mirror images of all pixels of a picture, most of which have none.

    Attributes:
        rows: int32 ``(height, width)``, of each pixel's mirror image.
        columns: likewise.
        closeness: float32 ``(height, width)``, from 1 at the border of the hole to 0 at `REACH`
            pixels from it; 0 where there is no mirror image, and outside of the hole.
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    closeness: NDArray[np.float32]


def reflection(hole: Mask) -> Reflection:
    """Mirror images in the nearest border above, below, to the left or to the right.

    Args:
        hole: bool ``(height, width)``; mirror images are never in it.
    """
    places = np.indices(hole.shape, np.int32)
    images = places.copy()
    distance = np.full(hole.shape, REACH, np.int32)
    for turns in range(4):  # the border is to the left, each time of another side
        turned, nearest = np.rot90(hole, turns), np.rot90(distance, turns)
        columns = np.arange(turned.shape[1], dtype=np.int32)
        border = np.maximum.accumulate(np.where(turned, -1, columns), 1)
        near = turned & (columns - border < nearest)
        rows, inside = np.nonzero(near & (border >= 0) & (2 * border + 1 >= columns))
        mirrored = 2 * border[rows, inside] + 1 - inside
        seen = ~turned[rows, mirrored]
        rows, inside, mirrored = rows[seen], inside[seen], mirrored[seen]
        nearest[rows, inside] = inside - border[rows, inside]
        for image, place in zip(images, places, strict=True):
            np.rot90(image, turns)[rows, inside] = np.rot90(place, turns)[rows, mirrored]
    closeness = np.where(hole, (1 - distance.astype(np.float32) / REACH) ** 2, 0)
    return Reflection(images[0], images[1], closeness.astype(np.float32))
