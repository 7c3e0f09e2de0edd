"""Masks in few bits: range coding with an adaptive context model.

Regions that people mark are rectangles and blobs, and the margins of an extended picture are bands.
A cell's context is its left, upper and upper-left neighbours; each context counts how often its
cells were set so far, beginning with counts that favour the plane prediction (left + upper −
upper-left, clipped). All of it is integer arithmetic, so both sides count the same.

Cells are coded along anti-diagonals: those of one depend only on the two diagonals before, so that
each is a few array operations, and counts are updated after each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unimic.codec.rangecoder import PRECISION, RangeDecoder, RangeEncoder, information
from unimic.codec.tokens import Mask

# Counts to begin with, for a context: of the predicted value, for one of the other. Where the three
# neighbours agree, as in the inside and outside of regions, the prediction is nearly sure.
_TRUST_INSIDE = 60
_TRUST_AT_EDGE = 6
_FIRST = 8  # the context of the first cell, which has no neighbours

MOST_DIAGONALS = 4096
"""More than this, of a thin grid, would take long and save little: its mask is written raw."""

Cells = tuple[NDArray[np.intp], NDArray[np.intp]]


def encode_mask(mask: Mask) -> tuple[bytes, float]:
    """Payload and ideal bits of ``mask``: bool ``(rows, columns)``, at least one cell."""
    encoder = RangeEncoder()
    bits = 0.0
    frame = np.pad(mask, ((1, 0), (1, 0))).astype(np.int32)
    model = _Model()
    for row, column in _diagonals(*mask.shape):
        symbols = frame[row + 1, column + 1]
        contexts = _contexts(frame, row, column)
        frequencies = model.frequencies(contexts)
        encoder.encode(symbols, frequencies)
        bits += float(information(symbols, frequencies).sum())
        model.update(contexts, symbols)
    return encoder.finish(), bits


def decode_mask(payload: bytes, rows: int, columns: int) -> Mask:
    """The mask of ``payload``: bool ``(rows, columns)``.

    Raises:
        CorruptData: the payload is not one of `encode_mask`.
    """
    decoder = RangeDecoder(payload)
    frame = np.zeros((rows + 1, columns + 1), dtype=np.int32)
    model = _Model()
    for row, column in _diagonals(rows, columns):
        contexts = _contexts(frame, row, column)
        symbols = decoder.decode(model.frequencies(contexts))
        frame[row + 1, column + 1] = symbols
        model.update(contexts, symbols)
    decoder.finish()
    return frame[1:, 1:].astype(np.bool_)


class _Model:
    """Counts of unset and set cells in each context."""

    def __init__(self) -> None:
        self._counts = np.ones((_FIRST + 1, 2), dtype=np.int64)
        for context in range(_FIRST):
            left, above, corner = context >> 2 & 1, context >> 1 & 1, context & 1
            trust = _TRUST_INSIDE if left == above == corner else _TRUST_AT_EDGE
            self._counts[context, int(left + above > corner)] = trust

    def frequencies(self, contexts: NDArray[np.int32]) -> NDArray[np.int32]:
        """Rows for the range coder, one for each of ``contexts`` ``(n,)``."""
        # No count is zero and none exceeds 2**24 cells, so no share is 0 or 2**24.
        share = (self._counts[:, 1] << PRECISION) // self._counts.sum(axis=1)
        table = np.stack([(1 << PRECISION) - share - 1, share - 1], axis=1)
        return table.astype(np.int32)[contexts]

    def update(self, contexts: NDArray[np.int32], symbols: NDArray[np.int32]) -> None:
        np.add.at(self._counts, (contexts, symbols), 1)


def _diagonals(rows: int, columns: int) -> Iterator[Cells]:
    for total in range(rows + columns - 1):
        row = np.arange(max(0, total - columns + 1), min(rows, total + 1))
        yield row, total - row


def _contexts(
    frame: NDArray[np.int32], row: NDArray[np.intp], column: NDArray[np.intp]
) -> NDArray[np.int32]:
    # The frame has a row and a column before the first. In the first row a cell's missing
    # neighbours count as its left one, in the first column as its upper one, so that a region that
    # touches the border costs no more there than inside.
    left, above, corner = frame[row + 1, column], frame[row, column + 1], frame[row, column]
    left = np.where(column == 0, above, left)
    above = np.where(row == 0, left, above)
    corner = np.where(row == 0, left, np.where(column == 0, above, corner))
    contexts: NDArray[np.int32] = left << 2 | above << 1 | corner
    contexts[(row == 0) & (column == 0)] = _FIRST
    return contexts
