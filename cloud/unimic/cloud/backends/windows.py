"""What a backend takes at once: windows of a large grid, and requests of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unimic.cloud.backends.base import FillRequest, Watch
from unimic.codec.errors import LimitExceeded
from unimic.codec.tokens import Codes, Mask

MOST_WINDOWS = 64
MOST_STEPS = 2048
"""Of all windows of a request together."""

Draw = Callable[[list[FillRequest], list[torch.Generator], Watch], list[Codes]]
"""Fills the masks of grids of one shape that fit the model, as `Backend.fill`; each has a source of
chance of its own."""


def fill_by_windows(requests: Sequence[FillRequest], whole: int, window: int, draw: Draw,
                    watch: Watch) -> list[Codes]:
    """`Backend.fill` for grids of any size.

    Args:
        requests: of one shape and one number of steps.
        whole: rows and columns of the largest grid that is filled at once.
        window: rows and columns of the windows of larger ones, see `windows`.
        draw: fills one window of each request.
        watch: as in `Backend`; every window has all steps.

    Raises:
        LimitExceeded: a mask needs too many windows, or steps.
    """
    plans = [windows(r.mask, whole, window) for r in requests]
    results = [r.codes.astype(np.int32) for r in requests]
    left_over = [r.mask.copy() for r in requests]
    # Noise comes from one generator for each request, so a result is its own seed's alone.
    chances = [torch.Generator().manual_seed(r.sampling.seed) for r in requests]
    rounds, steps = max(map(len, plans), default=0), requests[0].sampling.steps
    if rounds > 1 and rounds * steps > MOST_STEPS:
        raise LimitExceeded("task.sampling.steps", f"{steps} in each of {rounds} windows are over "
                            f"{MOST_STEPS}", f"use at most {MOST_STEPS // rounds} for this image")
    size = whole if max(requests[0].shape) <= whole else window
    for turn in range(rounds):
        def watch_turn(step: int, of: int, before: int = turn * steps) -> None:
            watch(before + step, rounds * of)

        busy = [i for i, plan in enumerate(plans) if turn < len(plan)]
        places = [(slice(top, top + size), slice(left, left + size))
                  for top, left in (plans[i][turn] for i in busy)]
        parts = [FillRequest(results[i][place], left_over[i][place], requests[i].prompt,
                             requests[i].sampling)
                 for i, place in zip(busy, places, strict=True)]
        drawn = draw(parts, [chances[i] for i in busy], watch_turn)
        for i, place, codes in zip(busy, places, drawn, strict=True):
            results[i][place] = codes
            left_over[i][place] = False
    return results


def batches(count: int, device: torch.device) -> list[slice]:
    """Parts of ``count`` requests: all at once on an accelerator, one by one on a CPU.

    A CPU gains little from a batch, and alone a result is the same to the last bit whatever else is
    asked for.
    """
    size = 1 if device.type == "cpu" else max(count, 1)
    return [slice(i, i + size) for i in range(0, count, size)]


def windows(mask: Mask, whole: int, window: int) -> list[tuple[int, int]]:
    """Corners of windows that together cover the mask, in the order in which they are filled.

    A grid that fits is one window. Else one window lies around the mask if the mask fits in it, or
    windows lie half a window apart; the one that shows most known tokens always comes next.
    """
    if not mask.any():
        return []
    if max(mask.shape) <= whole:
        return [(0, 0)]
    tops, lefts = (_starts(np.flatnonzero(mask.any(1 - axis)), mask.shape[axis], window)
                   for axis in (0, 1))
    left_over = mask.copy()
    order: list[tuple[int, int]] = []
    while left_over.any():
        hidden = {(top, left): np.count_nonzero(left_over[top:top + window, left:left + window])
                  for top in tops for left in lefts}
        top, left = min((corner for corner in hidden if hidden[corner]),
                        key=lambda corner: (hidden[corner], corner))
        left_over[top:top + window, left:left + window] = False
        order.append((top, left))
        if len(order) > MOST_WINDOWS:
            raise LimitExceeded("task", f"it takes more than {MOST_WINDOWS} windows of {window} × "
                                f"{window} tokens", "make a smaller part, or image")
    return order


def _starts(used: NDArray[np.intp], size: int, window: int) -> list[int]:
    """Where windows start on an axis of ``size`` tokens, of which those at ``used`` are hidden."""
    first, end, window = int(used[0]), int(used[-1]) + 1, min(size, window)
    if end - first <= window:
        return [min(max((first + end - window) // 2, 0), size - window)]
    starts = range(max(first - window // 4, 0), end - window // 2, window // 2)
    return sorted({min(start, size - window) for start in starts})
