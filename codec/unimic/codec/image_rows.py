"""What the image entropy model reads: integer rows for tokens, for the prompt and for queries.

The same rows feed training and coding, so that they cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimic.codec.order import CONTEXT, REVEALED, WINDOW, Window, reveal_groups
from unimic.codec.tokens import Codes, Mask

Integers = NDArray[np.int64]
COORDINATES = WINDOW + 2 * CONTEXT  # rows or columns of a window and its context


@dataclass(frozen=True)
class Rows:
    """Rows of the network's input, each array ``(n,)``.

    ``first`` and ``second`` index the embedding table; ``place`` is the position in the window and
    its context (`place`); ``group`` is when the row is revealed.
    """

    first: Integers
    second: Integers
    place: Integers
    group: Integers

    def __len__(self) -> int:
        return len(self.first)

    def part(self, which: NDArray[np.bool_] | slice) -> Rows:
        """The rows that ``which`` picks."""
        return Rows(*(getattr(self, name)[which] for name in FIELDS))


FIELDS = ("first", "second", "place", "group")
NEVER = 127
"""Group of the rows that fill up a batch: later than any, so that no other row sees them."""


def place_of(row: Integers, column: Integers) -> Integers:
    """The position of a token, counted from the first row and column of its context.

    Args:
        row, column: from those of the window itself.
    """
    return (row + CONTEXT) * COORDINATES + column + CONTEXT


def join(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in FIELDS))


def stack(parts: list[Rows], layout: Layout, multiple: int = 1) -> Integers:
    """Rows side by side, the shorter ones filled up: int64 ``(4, B, n)``, as `FIELDS`.

    ``n`` is the length of the longest, rounded up to a ``multiple``.
    """
    longest = -(-max(map(len, parts)) // multiple) * multiple
    out = np.zeros((len(FIELDS), len(parts), longest), np.int64)
    for i, part in enumerate(parts):
        out[:, i, :len(part)] = [getattr(part, name) for name in FIELDS]
        hide(out[:, i, len(part):], layout)
    return out


def hide(rows: Integers, layout: Layout) -> None:
    """Make zeros, int64 ``(4, …)``, rows that only fill up: nobody sees them."""
    rows[:2], rows[-1] = layout.empty_row, NEVER


@dataclass(frozen=True)
class Layout:
    """Where things stand in the embedding table; sizes as in the model's configuration."""

    upper: int
    lower: int
    text: int
    text_positions: int
    groups: int

    @property
    def start_row(self) -> int:
        return self.upper + self.lower + self.text + self.text_positions + self.groups

    @property
    def empty_row(self) -> int:
        return self.start_row + 1

    def split(self, codes: Codes) -> tuple[Integers, Integers]:
        """Upper and lower parts of codes."""
        wide = codes.astype(np.int64)
        return wide // self.lower, wide % self.lower

    def start(self, prompt: Codes | None) -> Rows:
        """The start row and the prompt's first ``text_positions`` tokens, all of group 0."""
        ids = np.zeros(0, np.int64) if prompt is None else prompt[:self.text_positions]
        text = self.upper + self.lower
        first = np.concatenate([[self.start_row], text + ids.astype(np.int64)])
        second = np.concatenate([[self.empty_row], text + self.text + np.arange(len(ids))])
        # Text has no place in the picture: all of it stands at the window's first position.
        nothing = np.zeros(len(first), np.int64)
        return Rows(first, second, place_of(nothing, nothing), nothing)

    def tokens(self, codes: Codes, place: Integers, group: Integers) -> Rows:
        """Content rows of known codes."""
        upper, lower = self.split(codes)
        return Rows(upper, self.upper + lower, place, group)

    def queries(self, place: Integers, group: Integers) -> Rows:
        """Rows that ask for the token at their position."""
        first = self.start_row - self.groups + group - 1
        second = np.full(len(place), self.empty_row, np.int64)
        return Rows(first, second, place, group)


@dataclass(frozen=True)
class WindowPlan:
    """How one window is coded.

    Attributes:
        known: content rows that both sides hold: start, prompt, context and visible tokens.
        rows, columns: int64 ``(n,)``: where in the grid the coded tokens are, in coding order.
        groups: int64 ``(n,)``, ascending: the group of each.
        queries: their query rows.
    """

    known: Rows
    rows: Integers
    columns: Integers
    groups: Integers
    queries: Rows


def content_rows(layout: Layout, plan: WindowPlan, codes: Codes) -> Rows:
    """All content rows that some query of ``plan`` may see, where ``codes`` are known."""
    needed = plan.groups < len(REVEALED)  # nobody sees the last group
    row, column = plan.rows[needed], plan.columns[needed]
    queries = plan.queries.part(needed)
    coded = layout.tokens(codes[row, column], queries.place, plan.groups[needed])
    return join([plan.known, coded])


def plan_window(layout: Layout, codes: Codes, mask: Mask, window: Window,
                prompt: Codes | None, hole: Mask | None = None) -> WindowPlan:
    """Plan of one window of a grid ``codes`` whose coded tokens are ``mask``.

    Codes in the hole are not read, nor those under the mask that earlier windows did not code.
    """
    row, column = (a.astype(np.int64) for a in np.nonzero(window.visible(mask, hole)))
    seen = layout.tokens(codes[row, column], place_of(row - window.top, column - window.left),
                         np.zeros(len(row), np.int64))

    group = reveal_groups(mask[window.top:window.bottom, window.left:window.right])
    row, column = (a.astype(np.int64) for a in np.nonzero(group))
    order = np.argsort(group[row, column], kind="stable")
    row, column = row[order], column[order]
    groups = group[row, column].astype(np.int64)
    queries = layout.queries(place_of(row, column), groups)
    return WindowPlan(join([layout.start(prompt), seen]), row + window.top, column + window.left,
                      groups, queries)
