"""How a grid grows when a picture is extended; both sides compute it, so it is never sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import Mask, TokenGrid, grid_shape


@dataclass(frozen=True)
class Margins:
    """Pixels added on each side, none negative.

    ``left`` and ``top`` are whole tokens: otherwise every old token would have to move by part of
    a token, that is, be made again.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def enlarge(grid: TokenGrid, margins: Margins) -> tuple[TokenGrid, Mask]:
    """The enlarged grid, zero where it is new, and the mask of what is new.

    A last column or row of old tokens that was partly padding becomes new where the picture goes
    on beyond it: its padding is now inside the picture.

    Raises:
        InvalidInput: the margins add nothing, or left or top are not whole tokens.
    """
    for field, pixels in (("left", margins.left), ("top", margins.top)):
        if pixels % grid.pitch:
            raise InvalidInput(f"margins.{field}", f"{pixels} pixels are not whole tokens",
                               f"use a multiple of {grid.pitch}")
    if margins == Margins():
        raise InvalidInput("margins", "all are 0", "extend at least one side")
    width = margins.left + grid.width + margins.right
    height = margins.top + grid.height + margins.bottom
    codes = np.zeros(grid_shape(width, height, grid.pitch), np.int32)
    mask = np.ones(codes.shape, bool)
    rows, columns = grid.codes.shape
    if margins.right:
        columns = grid.width // grid.pitch
    if margins.bottom:
        rows = grid.height // grid.pitch
    top, left = margins.top // grid.pitch, margins.left // grid.pitch
    old = (slice(top, top + rows), slice(left, left + columns))
    codes[old] = grid.codes[:rows, :columns]
    mask[old] = False
    return TokenGrid(codes, width, height, grid.pitch), mask
