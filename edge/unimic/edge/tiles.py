"""Large pictures in parts, so that memory stays bounded and time grows with the area.

Every tile is read with a halo of `HALO` cells around its core, farther than any network here sees,
and only the core is kept. So tiles give what the whole picture would have given, up to the rounding
of float sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimic.codec.runtime import Session, open_graph, session_options
from unimic.codec.store import ModelStore

HALO = 12  # cells of 16 pixels
CORE = 64

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Tile:
    """Windows of a tile, in cells.

    Attributes:
        core: in the grid, the cells that this tile is responsible for.
        read: in the grid, the core with its halo, cut at the grid's border.
        kept: the core within `read`.
    """

    core: Window
    read: Window

    @property
    def kept(self) -> Window:
        (core_y, core_x), (read_y, read_x) = self.core, self.read
        return (slice(core_y.start - read_y.start, core_y.stop - read_y.start),
                slice(core_x.start - read_x.start, core_x.stop - read_x.start))


def scaled(window: Window, cell: int) -> Window:
    """A window of cells in pixels, ``cell`` to each of their sides."""
    y, x = window
    return (slice(y.start * cell, y.stop * cell), slice(x.start * cell, x.stop * cell))


def covering(rows: int, columns: int) -> Iterator[Tile]:
    """Tiles that cover a grid, each core at most `CORE` on a side."""
    for core_y, read_y in _spans(rows):
        for core_x, read_x in _spans(columns):
            yield Tile((core_y, core_x), (read_y, read_x))


def planes(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """``(height, width, channels)`` as networks take it, ``(1, channels, height, width)``."""
    return values.astype(np.float32).transpose(2, 0, 1)[None]


def picture(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What a network gives, ``(1, 3, height, width)`` in [0, 1]; bytes ``(height, width, 3)``."""
    bytes_: NDArray[np.uint8] = np.rint(pixels[0] * 255).clip(0, 255).astype(np.uint8)
    return bytes_.transpose(1, 2, 0)


def load(store: ModelStore, threads: int | None, model: str, file: str) -> Session:
    """A network of a store that is run on tiles."""
    options = session_options(threads)
    # Tiles come in several shapes: plans kept for each of them would only cost memory.
    options.enable_mem_pattern = False
    return open_graph(store.path(model, file), options)


def _spans(length: int) -> Iterator[tuple[slice, slice]]:
    count = -(-length // CORE)
    for index in range(count):  # of nearly equal length: no thin tile that is mostly halo
        start, stop = index * length // count, (index + 1) * length // count
        yield slice(start, stop), slice(max(0, start - HALO), min(length, stop + HALO))
