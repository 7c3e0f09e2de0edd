"""What a backend takes at once: windows of a large grid, and requests of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from unimic.cloud.backends.base import FillRequest, Watch
from unimic.codec.errors import LimitExceeded
from unimic.codec.tokens import Codes, Mask

MOST_WINDOWS = 64
MOST_STEPS = 2048
"""Of all windows of a request together."""
MARGIN = 4
"""How near to unknown tokens that a window does not see its own ones are not kept (at most a
quarter of the window)."""

Draw = Callable[[list[FillRequest], list[torch.Generator], Watch], list[Codes]]
"""Fills the masks of grids of one shape that fit the model, as `Backend.fill`; each has a source of
chance of its own."""
Pair = tuple[int, int]
"""Of rows and columns."""
Place = tuple[slice, slice]
"""Rows and columns of a grid."""


@dataclass(frozen=True)
class Window:
    """A part of a grid that is filled at once.

    Attributes:
        place: where it is.
        kept: bool, of the size of ``place``: what of it is kept; it may hide more than that.
    """

    place: Place
    kept: Mask


def fill_by_windows(requests: Sequence[FillRequest], side: int, draw: Draw, watch: Watch
                    ) -> list[Codes]:
    """`Backend.fill` for grids of any size.

    Args:
        requests: of one shape and one number of steps.
        side: rows and columns of the largest grid that is filled at once; larger ones are filled by
            `windows`.
        draw: fills one window of each request.
        watch: as in `Backend`; every window has all steps.

    Raises:
        LimitExceeded: a mask needs too many windows, or steps.
    """
    plans = [windows(r.mask, side) for r in requests]
    results = [r.codes.astype(np.int32) for r in requests]
    left_over = [r.mask.copy() for r in requests]
    # Noise comes from one generator for each request, so a result is its own seed's alone.
    chances = [torch.Generator().manual_seed(r.sampling.seed) for r in requests]
    rounds, steps = max(map(len, plans), default=0), requests[0].sampling.steps
    if rounds > 1 and rounds * steps > MOST_STEPS:
        raise LimitExceeded("task.sampling.steps", f"{steps} in each of {rounds} windows are over "
                            f"{MOST_STEPS}", f"use at most {MOST_STEPS // rounds} for this image")
    for turn in range(rounds):
        def watch_turn(step: int, of: int, before: int = turn * steps) -> None:
            watch(before + step, rounds * of)

        busy = {i: plan[turn] for i, plan in enumerate(plans) if turn < len(plan)}
        parts = [FillRequest(results[i][w.place], left_over[i][w.place], requests[i].prompt,
                             requests[i].sampling) for i, w in busy.items()]
        drawn = draw(parts, [chances[i] for i in busy], watch_turn)
        for (i, w), codes in zip(busy.items(), drawn, strict=True):
            results[i][w.place][w.kept] = codes[w.kept]
            left_over[i][w.place][w.kept] = False
    return results


def batches(count: int, device: torch.device) -> list[slice]:
    """Parts of ``count`` requests: all at once on an accelerator, one by one on a CPU.

    A CPU gains little from a batch, and alone a result is the same to the last bit whatever else is
    asked for.
    """
    size = 1 if device.type == "cpu" else max(count, 1)
    return [slice(i, i + size) for i in range(0, count, size)]


def windows(mask: Mask, side: int) -> list[Window]:
    """Windows of at most ``side`` × ``side`` tokens, in which a mask is filled one after the other.

    Of what a window makes, the tokens near others that are hidden and out of its sight are not
    kept: later windows that see both sides make them, and no lines show where windows end. Each
    piece of the mask has windows of its own, one around it if it fits in one. Next always comes the
    window with least that is unknown in it and around it.

    Raises:
        LimitExceeded: there are too many.
    """
    height, width = (min(length, side) for length in mask.shape)
    shape, margin = (height, width), min(MARGIN, side // 4)
    corners = {corner for rows, columns in _pieces(mask, margin) for corner in product(
        _starts(rows, mask.shape[0], height, margin),
        _starts(columns, mask.shape[1], width, margin))}
    left_over = mask.copy()
    plan: list[Window] = []
    while left_over.any():
        if len(plan) == MOST_WINDOWS:
            raise LimitExceeded("task", f"it takes more than {MOST_WINDOWS} windows of {side} × "
                                f"{side} tokens", "make a smaller part, or image")
        unknown = {corner: np.count_nonzero(left_over[_around(corner, shape, margin)])
                   for corner in corners}
        best = sorted((count, corner) for corner, count in unknown.items() if count)
        window = next(w for w in (_window(left_over, corner, shape, margin) for _, corner in best)
                      if w.kept.any())
        left_over[window.place][window.kept] = False
        plan.append(window)
    return plan


def _pieces(mask: Mask, margin: int, place: Place = np.s_[:, :]) -> Iterator[Place]:
    """Parts of a mask with more than ``margin`` rows or columns of known tokens between them.

    They are found by cuts along rows and columns in turns (Nagy and Seth, "Hierarchical
    representation of optically scanned documents", ICPR 1984).
    """
    for axis in (0, 1):
        used = np.flatnonzero(mask[place].any(1 - axis)) + (place[axis].start or 0)
        parts = np.split(used, np.flatnonzero(np.diff(used) > margin) + 1) if used.size else []
        cuts = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        if cuts != [place[axis]]:
            for cut in cuts:
                yield from _pieces(mask, margin, (cut, place[1]) if axis == 0 else (place[0], cut))
            return
    yield place


def _starts(piece: slice, size: int, window: int, margin: int) -> list[int]:
    """Where the windows of a piece start on an axis of ``size`` tokens.

    If there are several, what lies ``margin`` tokens inside of them leaves no gap.
    """
    if piece.stop - piece.start <= window:
        return [min(max((piece.start + piece.stop - window) // 2, 0), size - window)]
    first, last = max(piece.start - margin, 0), min(piece.stop + margin, size) - window
    count = -(-(last - first) // (window - 2 * margin))
    return [first + (last - first) * i // count for i in range(count + 1)]


def _around(corner: Pair, shape: Pair, margin: int) -> Place:
    """The window at a corner, and ``margin`` tokens around it."""
    rows, columns = (slice(max(start - margin, 0), start + length + margin)
                     for start, length in zip(corner, shape, strict=True))
    return rows, columns


def _window(hidden: Mask, corner: Pair, shape: Pair, margin: int) -> Window:
    """Keeps what is hidden in it, but near what is hidden out of its sight."""
    place, outer = _around(corner, shape, 0), _around(corner, shape, margin)
    top, left = (part.start - wide.start for part, wide in zip(place, outer, strict=True))
    inner = np.s_[top:top + shape[0], left:left + shape[1]]
    unseen = torch.from_numpy(hidden[outer]).float()
    unseen[inner] = 0
    near = F.max_pool2d(unseen[None], 2 * margin + 1, 1, margin)[0].numpy() > 0
    return Window(place, hidden[place] & ~near[inner])
