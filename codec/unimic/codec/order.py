"""Which token is coded when: windows over the grid, groups inside a window.

A grid is cut into windows of at most 16×16 tokens, so that the cost grows linearly with the area. A
window sees the tokens up to 4 rows and columns around it that both sides hold by then: those above
it, to its left, and whatever is not coded at all. Windows that do not see each other are coded
together, a wave at a time. Inside a window the tokens are revealed in at most 10 groups, ever
denser: in the order of a Bayer matrix (Bayer 1973, the ordered-dither pattern), whose every prefix
is spread evenly. The order is part of the format: changing it breaks every stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimic.codec.frequencies import SKIP_ALL
from unimic.codec.tokens import Codes, Mask

WINDOW = 16
CONTEXT = 4
# How many tokens out of the last number are revealed after each group.
REVEALED = (2, 4, 8, 12, 16, 24, 32, 40, 48, 64)


def _bayer(size: int) -> NDArray[np.int64]:
    matrix = np.zeros((1, 1), np.int64)
    while matrix.shape[0] < size:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return matrix


_RANK = _bayer(WINDOW)


def reveal_groups(mask: Mask, revealed: Sequence[int] = REVEALED) -> Codes:
    """Group of every token of a window: 0 where ``mask`` is off, 1 … 10 in coding order.

    Args:
        mask: ``(rows, columns)``, at most 16 × 16; True where a token is coded.
        revealed: shares after each group; streams know the default alone.
    """
    rows, columns = mask.shape
    positions = np.flatnonzero(mask)
    order = positions[np.argsort(_RANK[:rows, :columns].ravel()[positions], kind="stable")]
    ends = [-(-positions.size * share // revealed[-1]) for share in revealed]
    groups = np.zeros(mask.size, np.int32)
    groups[order] = np.searchsorted(ends, np.arange(positions.size), side="right") + 1
    return groups.reshape(mask.shape)


def group_skip(skip: int, group: int) -> int:
    """How much of ``skip`` (0 … 256) falls on ``group`` (1 … 10), again 0 … 256.

    Later groups first: what they hold is framed by what was sent, so it is filled in well, whereas
    a guess in an early group misleads all that follow.
    """
    begins = 3 * SKIP_ALL // 4 * (len(REVEALED) - group) // (len(REVEALED) - 1)
    return min(SKIP_ALL, max(0, 4 * (skip - begins)))


@dataclass(frozen=True)
class Window:
    """A rectangle of a grid whose tokens are coded together; ``bottom`` and ``right`` excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def visible(self, mask: Mask, hole: Mask | None = None) -> Mask:
        """Tokens that both sides hold when the window's turn comes, as far as it may see them.

        Args:
            mask: ``(rows, columns)`` of the whole grid; True where a token is coded.
            hole: likewise; True where nobody holds one.

        Returns:
            A mask of the same shape: inside the window and up to `CONTEXT` tokens around it, what
            is not coded at all and what earlier windows coded.
        """
        held = ~mask
        held[:self.top] = True
        held[self.top:self.bottom, :self.left] = True
        near = np.zeros_like(mask)
        near[max(0, self.top - CONTEXT):self.bottom + CONTEXT,
             max(0, self.left - CONTEXT):self.right + CONTEXT] = True
        if hole is not None:
            held &= ~hole
        return held & near


def _cuts(length: int) -> list[int]:
    count = max(1, -(-length // WINDOW))
    return [length * i // count for i in range(count + 1)]


def waves(rows: int, columns: int) -> Iterator[list[Window]]:
    """Windows of a grid in coding order, as equal in size as can be; those of one wave together.

    A window sees its neighbours on the left and above, also those diagonally above. With two waves
    from row to row and one from column to column all of them belong to earlier waves.
    """
    across, down = _cuts(columns), _cuts(rows)
    wide, high = len(across) - 1, len(down) - 1
    for wave in range(wide + 2 * (high - 1)):
        places = ((i, wave - 2 * i) for i in range(high) if 0 <= wave - 2 * i < wide)
        yield [Window(down[i], across[j], down[i + 1], across[j + 1]) for i, j in places]
