"""Parts of a self-contained HTML report: page, sortable tables, plots. No network, light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

# For a light and a dark ground, with a contrast of 3 at least. No two are nearer than 15 by
# CIEDE2000, nor as protanopes and deuteranopes see them, and 11 for tritanopes (Machado et al.,
# 2009). Thin lines want more than that, so nobody needs the colours: the dashes differ, too.
_COLOURS = (("#0b62c4", "#5aa9ff"), ("#e72374", "#e596b2"), ("#056150", "#c9f7c7"),
            ("#0a9182", "#03fcfd"), ("#502863", "#a06781"), ("#5a2f0c", "#6e7e49"),
            ("#b08d18", "#eff303"), ("#806221", "#93a80d"), ("#2c96f4", "#4f6dd3"))
_DASHES = ("none", "7 4", "2 3", "18 4", "10 3 2 3", "6 10", "18 4 6 4", "2 8",
           "10 3 2 3 2 3")
_LIGHT, _DARK = ("".join(f"--series-{i}:{colours[ground]};" for i, colours in enumerate(_COLOURS))
                 for ground in (0, 1))

_DRAWN = f":root{{{_LIGHT}}}@media (prefers-color-scheme: dark){{:root{{{_DARK}}}}}" + """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2430; --faint: #5b6675;
  --line: #d9dee5; --band: #f4f6f9; --strong: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181e; --text: #e6eaf0; --faint: #9aa5b3;
  --line: #333c47; --band: #1c222a; --strong: #5aa9ff; } }
text { fill: var(--faint); font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.title { fill: var(--text); font-size: 14px; font-weight: 600; }
.axis { stroke: var(--line); fill: none; }
"""

_STYLE = _DRAWN + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 78rem; background: var(--ground);
  color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; }
p { max-width: 52rem; margin: .4rem 0; } .faint, figcaption { color: var(--faint); }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em;
  overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 90vh; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; white-space: normal;
  overflow-wrap: anywhere; min-width: 6rem; max-width: 30rem; }
th:first-child, td:first-child { min-width: 8rem; }
th { position: sticky; top: 0; background: var(--ground); font-weight: 600; vertical-align: bottom;
  white-space: normal; }
th button { all: unset; display: block; width: 100%; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--strong); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
tbody tr:hover { background: var(--band); } tr.ours td { color: var(--strong); font-weight: 600; }
.plots { display: grid; gap: 1.4rem;
  grid-template-columns: repeat(auto-fill, minmax(min(31rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.plots figure { overflow-x: auto; } .plots svg { width: 100%; min-width: 30rem; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0; }
.legend label { cursor: pointer; display: inline-flex; align-items: center; gap: .35rem; }
.crops { display: flex; flex-wrap: wrap; gap: .8rem; margin: .6rem 0 1.4rem; }
.crops figure { width: 13rem; } .crops img { width: 100%; display: block; border-radius: 3px; }
.crops .pair { display: flex; gap: .8rem; max-width: 100%; }
.crops .map img { image-rendering: pixelated; }
summary { cursor: pointer; color: var(--strong); margin: .6rem 0; }
@media print {
  .scroll { overflow: visible; max-height: none; } th { position: static; }
  table { font-size: .6rem; } th, td { padding: .15rem .35rem; }
  .left { min-width: 4rem; } th:first-child, td:first-child { min-width: 6rem; }
  h2, h2 + p, .legend, summary { break-after: avoid; } tr, figure { break-inside: avoid; }
}
"""

_SCRIPT = """
const sort = th => {
  const body = th.closest("table").tBodies[0], at = th.cellIndex;
  const up = th.getAttribute("aria-sort") !== "ascending";
  for (const other of th.parentNode.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const text = row => row.cells[at].textContent;
  const compare = (a, b) => {
    const m = Number(a.cells[at].dataset.sort), n = Number(b.cells[at].dataset.sort);
    if (isNaN(m) !== isNaN(n)) return isNaN(m) ? 1 : -1;      // what has no value comes last
    return (up ? 1 : -1) *
      (isNaN(m) ? text(a).localeCompare(text(b), undefined, {numeric: true}) : m - n);
  };
  body.append(...[...body.rows].sort(compare));
};
for (const th of document.querySelectorAll("th")) {
  const button = document.createElement("button");            // keys reach it
  button.append(...th.childNodes);
  button.onclick = () => sort(th);
  th.append(button);
}
const boxes = document.querySelectorAll(".legend input");
for (const box of boxes) box.onchange = () => {
  for (const other of boxes) if (other.value === box.value) other.checked = box.checked;
  for (const part of document.querySelectorAll("[data-series]"))
    if (part.dataset.series === box.value) part.style.display = box.checked ? "" : "none";
};
"""

AXES = "Rates are logarithmic; value axes need not begin at 0."
"""What to know of curves against rates."""


@dataclass(frozen=True)
class Column:
    """A column of a table: the field of its rows, its title, digits behind the point.

    ``signed`` ones are differences and have a plus, too.
    """

    field: str
    title: str
    digits: int | None = None
    left: bool = False
    signed: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a curve and what a pointer on it shows."""

    x: float
    y: float
    label: str


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document."""
    return (f"<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport "
            f'content="width=device-width"><title>{escape(title)}</title>'
            f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n"
            + "\n".join(sections) + f"\n<script>{_SCRIPT}</script>\n")


def section(title: str, *content: str) -> str:
    """A heading and what stands under it."""
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(content)


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p class=faint>{escape(text)}</p>"


def titles(images: Iterable[str]) -> dict[str, str]:
    """What pictures are called: their files, with as many folders as tell them apart."""
    parts = {image: Path(image).parts for image in images}
    deepest = max(map(len, parts.values()), default=1)
    for depth in range(1, deepest + 1):
        found = {image: "/".join(names[-depth:]) for image, names in parts.items()}
        if len({*found.values()}) == len(found):
            break
    return found


def shown(value: object, digits: int | None = None, *, signed: bool = False) -> str:
    """A value as tables show it; an unknown one as a dash."""
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = f"{value:+,.{digits}f}" if digits is not None else f"{value:+,}"
        return number.replace("-", "−") if signed else number.removeprefix("+")
    return str(value)


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, object]], ours: str = "") -> str:
    """A table that sorts by a click on a title; rows whose first field is ``ours`` stand out."""
    head = "".join(f"<th{' class=left' if c.left else ''}>{escape(c.title)}</th>" for c in columns)
    body = []
    for row in rows:
        cells = []
        for column in columns:
            value = row.get(column.field)
            key = f' data-sort="{float(value)!r}"' if isinstance(value, (int, float)) else ""
            cells.append(f"<td{' class=left' if column.left else ''}{key}>"
                         f"{escape(shown(value, column.digits, signed=column.signed))}</td>")
        mark = " class=ours" if ours and row.get(columns[0].field) == ours else ""
        body.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return (f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>"
            + "\n".join(body) + "</tbody></table></div>")


def made_by(command: str, machine: str) -> str:
    """What a report begins with: the command that made it, and the machine."""
    return f"<p class=faint><code>{escape(command)}</code><br>{escape(machine)}</p>"


def made_with(versions: Mapping[str, str], *content: str) -> str:
    """What a report ends with: the versions of everything, by name, and more."""
    return section("Made with", table(
        [Column("name", "what"), Column("version", "version", left=True)],
        [{"name": name, "version": version} for name, version in versions.items()]), *content)


def legend(series: Sequence[str]) -> str:
    """Names of the curves; a click hides one in all plots."""
    return "<div class=legend>" + "".join(
        f"<label><input type=checkbox checked value='{escape(name)}'>"
        f'<svg width="{KEY}" height="6" aria-hidden="true">{_key(i, 0, 3)}</svg>'
        f"{escape(name)}</label>"
        for i, name in enumerate(series)) + "</div>"


def _key(index: int, x: int, y: int) -> str:
    """A piece of the line of a series."""
    return f'<path d="M{x} {y}h{KEY}" {_line(index)} stroke-width="{3 if index == 0 else 2}"/>'


def _line(index: int) -> str:
    """How the line of a series is drawn."""
    # Colours repeat from the tenth on, with other dashes.
    dashes = _DASHES[(index + index // len(_COLOURS)) % len(_DASHES)]
    return f'fill="none" stroke="{_colour(index)}" stroke-dasharray="{dashes}"'


def _colour(index: int) -> str:
    return f"var(--series-{index % len(_COLOURS)})"


# ── plots ─────────────────────────────────────────────────────────────────────────────────────

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 350, 58, 34, 14, 44
KEY = 48  # the width of a key: all that a line's dashes have


@dataclass(frozen=True)
class Drawing:
    """Curves as SVG.

    Attributes:
        title: of the drawing.
        content: of the ``svg`` element, which is `WIDTH` × `HEIGHT`.
        names: of the curves, by their place in the legend.
    """

    title: str
    content: str
    names: Mapping[int, str]

    def figure(self) -> str:
        """For a page, whose `legend` names the curves."""
        return f"<figure>{self._svg(f'0 0 {WIDTH} {HEIGHT}', self.content)}</figure>"

    def file(self) -> str:
        """For a file of its own, light and dark, which names the curves."""
        names, x, y = [], LEFT, HEIGHT + 18
        for i, name in self.names.items():
            width = KEY + 24 + 7 * len(name)
            if x + width > WIDTH:
                x, y = LEFT, y + 20
            names.append(f'{_key(i, x, y - 4)}<text x="{x + KEY + 6}" y="{y}">'
                         f"{escape(name)}</text>")
            x += width
        width, height = WIDTH + 32, y + 30
        ground = f'<rect x="-16" y="-16" width="{width}" height="{height}" fill="var(--ground)"/>'
        return self._svg(
            f'-16 -16 {width} {height}" width="{width}" height="{height}',
            f"<style>{_DRAWN}</style>{ground}{self.content}{''.join(names)}"
        ) + "\n"

    def _svg(self, box: str, content: str) -> str:
        return (f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
                f'aria-label="{escape(self.title)}" viewBox="{box}">{content}</svg>')


def plot(title: str, x_title: str, curves: Mapping[str, Sequence[Point]], *,
         bold: str = "", log_x: bool = False) -> str:
    """What `draw` draws, for a page; nothing where there are no points."""
    drawing = draw(title, x_title, curves, bold=bold, log_x=log_x)
    return drawing.figure() if drawing else ""


def draw(title: str, x_title: str, curves: Mapping[str, Sequence[Point]], *,
         bold: str = "", log_x: bool = False) -> Drawing | None:
    """Curves with labelled axes; the value axis spans the data and says so by its labels.

    None where there are no points.

    Args:
        title: above it: what the value axis shows.
        x_title: below it.
        curves: points by series, in the order of x; the series in the order of the legend, which
            gives each its colour and dashes, so those without points too.
        bold: the series drawn thicker.
        log_x: whether x is logarithmic; points at 0 have no place there and are left out.
    """
    if log_x:
        curves = {name: [p for p in curve if p.x > 0] for name, curve in curves.items()}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return None
    low, high = min(p.x for p in points), max(p.x for p in points)
    xs = _log_ticks(low, high) if log_x else _ticks(low, high)
    ys = _ticks(min(p.y for p in points), max(p.y for p in points))
    place = math.log if log_x else float

    def x(value: float) -> float:
        first, last = place(min(xs[0], low)), place(max(xs[-1], high))
        return LEFT + (place(value) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="title" x="0" y="16">{escape(title)}</text>',
             f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
             f'{escape(x_title)}</text>']
    for tick in ys:
        parts.append(f'<path class="axis" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/><text '
                     f'x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in xs:
        parts.append(f'<path class="axis" d="M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/><text '
                     f'x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
                     f'{tick:g}</text>')
    drawn = {i: name for i, (name, curve) in enumerate(curves.items()) if curve}
    for i, name in drawn.items():
        curve = curves[name]
        line = "M" + "L".join(f"{x(p.x):.1f} {y(p.y):.1f}" for p in curve)
        size, width = (4, 3) if name == bold else (2.8, 1.6)
        dots = "".join(f'<circle cx="{x(p.x):.1f}" cy="{y(p.y):.1f}" r="{size}">'
                       f"<title>{escape(p.label)}</title></circle>" for p in curve)
        parts.append(f'<g data-series="{escape(name)}" fill="{_colour(i)}"><path d="{line}" '
                     f'{_line(i)} stroke-linejoin="round" stroke-width="{width}"/>{dots}</g>')
    return Drawing(title, "".join(parts), drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about six, that enclose low … high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Few digits times powers of ten within low … high, or around it if there are too few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 7)
    marks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    inside = [mark for mark in marks if low <= mark <= high]
    if len(inside) >= 2:
        return inside
    first, last = (max(m for m in marks if m <= low),
                   min(m for m in marks if m >= high * (1 + 1e-9)))
    return [mark for mark in marks if first <= mark <= last]
