"""Lines and texture of the pixels around a hole, carried on into it by the refinement network.

The network (`unimic.cloud.models.refiner`) sees what the cloud does not: the pixels themselves.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from unimic.codec.reflection import reflection
from unimic.codec.store import IMAGE_REFINER, REFINER, ModelStore
from unimic.codec.tokens import Mask
from unimic.edge.regions import around
from unimic.edge.tiles import covering, load, picture, planes, scaled

Pixels = NDArray[np.uint8]

CELL = 16  # pixels a side of which the network takes whole numbers
CONTEXT = 48  # pixels around a hole that it learned to look at


class Refiner:
    """Refines new pixels; may be used from several threads.

    Args:
        store: holds the model ``image-refiner``; pixels stay as they are where it holds none.
        threads: CPU threads of the network; all cores by default.
    """

    def __init__(self, store: ModelStore, threads: int | None = None) -> None:
        self._known = IMAGE_REFINER in store.entries and store.fits(IMAGE_REFINER)
        self._network = cache(partial(load, store, threads, IMAGE_REFINER, REFINER))

    def __call__(self, shown: Pixels, decoded: Pixels, hole: Mask, pitch: int) -> Pixels:
        """``shown``, refined in the hole.

        Args:
            shown: uint8 ``(height, width, 3)``, new pixels in the hole and old ones around it.
            decoded: likewise, what the tokens show.
            hole: bool ``(height, width)``, at least one pixel.
            pitch: pixels on each side of a token; the first one begins where the arrays do.
        """
        if not self._known:
            return shown
        # It learned with one token in each cell. Where that cannot be, a hole shall begin with one.
        step = CELL if pitch == CELL else 1
        rows, columns = (slice(part.start // step * step, part.stop)
                         for part in around(hole, CONTEXT))
        cut = rows, columns
        height, width = hole[cut].shape
        beside = ((0, -height % CELL), (0, -width % CELL))
        where = np.pad(hole[cut], beside, mode="edge")
        pixels, tokens = (np.pad(x[cut], (*beside, (0, 0)), mode="edge") for x in (shown, decoded))
        seen = reflection(where)
        lost = pixels.astype(np.float32) / 255 - tokens.astype(np.float32) / 255
        refined = np.empty_like(pixels)
        for tile in covering(where.shape[0] // CELL, where.shape[1] // CELL):
            read, core, kept = (scaled(w, CELL) for w in (tile.read, tile.core, tile.kept))
            mirrored = lost[seen.rows[read], seen.columns[read]]
            (part,) = self._network().run(None, {
                "shown": planes(pixels[read]) / 255, "lost": planes(lost[read]),
                "mirrored": planes(mirrored), "close": planes(seen.closeness[read][..., None]),
                "hole": planes(where[read][..., None])})
            refined[core] = picture(part)[kept]
        whole = shown.copy()
        whole[cut][hole[cut]] = refined[:height, :width][hole[cut]]
        return whole
