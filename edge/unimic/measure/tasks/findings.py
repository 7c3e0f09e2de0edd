"""What a part of the measuring found, as lines for a terminal and as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unimic.measure.codecs import OURS
from unimic.measure.html import (
    AXES,
    Column,
    Point,
    legend,
    made_by,
    made_with,
    page,
    paragraph,
    plot,
    section,
    table,
)
from unimic.measure.terminal import aligned

Row = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """A table.

    Attributes:
        title: of it.
        about: what its columns mean.
        columns: the first names the rows.
        rows: their figures.
        failed: pictures that could not be read: ``picture``, ``error``.
        curve: the column to plot against bits per pixel; of it, higher is better.
        codecs: that failed, and how.
        losses: what a † in the titles means.
    """

    title: str
    about: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    failed: Sequence[Row]
    curve: str | None = None
    codecs: Mapping[str, str] = field(default_factory=dict)
    losses: str = ""

    def as_dict(self) -> Row:
        """For JSON."""
        return {"rows": self.rows, "failed": self.failed, "failed_codecs": dict(self.codecs)}

    @property
    def left_out(self) -> list[Row]:
        """Pictures and codecs that failed, ``name``, and why, ``error``."""
        return [*({"name": row["picture"], "error": row["error"]} for row in self.failed),
                *({"name": codec, "error": error} for codec, error in self.codecs.items())]


def text(findings: Sequence[Findings]) -> list[str]:
    """Tables for a terminal."""
    lines: list[str] = []
    for found in findings:
        lines += ["", found.title, *aligned(found.columns, found.rows)]
        lines += [f"  {found.losses}"] if found.losses else []
        lines += [f"  left out: {row['name']}: {row['error']}" for row in found.left_out]
    return lines[1:]


def html(findings: Sequence[Findings], command: str, machine: str,
         versions: Mapping[str, str]) -> str:
    """Tables and plots as a page."""
    names = list(dict.fromkeys(row["codec"] for found in findings if found.curve
                               for row in found.rows if row.get("share")))
    parts = [made_by(command, machine)]
    for found in findings:
        parts.append(section(found.title, paragraph(f"{found.about} {found.losses}"),
                             *_plots(found, names), table(found.columns, found.rows, OURS)))
        if found.left_out:
            parts.append(table([Column("name", "left out"), Column("error", "why", left=True)],
                               found.left_out))
    return page("UniMIC: tasks", [*parts, made_with(versions)])


def _plots(found: Findings, names: Sequence[str]) -> list[str]:
    """The curve against bits per pixel, of the rows that have a share."""
    if found.curve is None:
        return []
    title = next(column.title for column in found.columns if column.field == found.curve)
    curves = {name: sorted((
        Point(row["bpp"], row[found.curve], f"{name}: {row['bpp']:.4f} bpp, {row[found.curve]:.3f}")
        for row in found.rows if row["codec"] == name and row.get("share")),
        key=lambda point: point.x) for name in names}
    return [paragraph(AXES), legend(names), "<div class=plots>",
            plot(f"{title} (higher is better)", "bits per pixel", curves, bold=OURS, log_x=True),
            "</div>"]
