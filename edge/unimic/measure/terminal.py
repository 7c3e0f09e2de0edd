"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unimic.measure.html import Column, shown


def aligned(columns: Sequence[Column], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Lines of a table: its titles, then the rows; names to the left, figures to the right."""
    cells = [[column.title for column in columns],
             *([shown(row.get(column.field), column.digits) for column in columns]
               for row in rows)]
    left = [i == 0 or column.left for i, column in enumerate(columns)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) if to_left else cell.rjust(width)
                             for cell, width, to_left in zip(line, widths, left, strict=True)
                             ).rstrip() for line in cells]
