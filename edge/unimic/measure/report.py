"""The report of ``unimic measure images`` as one HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from unimic.edge.images import load_image
from unimic.measure.codecs import ANY, ORIGINAL, OURS
from unimic.measure.curves import (
    BD_RATE,
    SLACK,
    at_rate,
    averages,
    bd_rate,
    below_best,
    families,
)
from unimic.measure.html import (
    AXES,
    Column,
    Drawing,
    Point,
    draw,
    legend,
    made_by,
    made_with,
    page,
    paragraph,
    section,
    shown,
    table,
    titles,
)
from unimic.measure.metrics import METRICS, SMALLEST, Metric, losses
from unimic.measure.run import Row, family, middle, webp_base64

FULL = 100  # the setting of ours that sends every token
_SIZES = [Column("ideal_bits", "ideal, bits", 0), Column("payload_bytes", "payload, bytes", 0),
          Column("file_bytes", "file, bytes", 0), Column("bpp", "bits per pixel", 4)]
_TIMES = [Column("encode_seconds", "encode, s", 3), Column("decode_seconds", "decode, s", 3)]


@dataclass(frozen=True)
class Context:
    """What a report says besides figures.

    Attributes:
        command: that made it.
        machine: and when.
        versions: of everything, by name.
        missing: codecs, metrics and figures that were skipped, and what to install.
        anchor: the codec that BD-rates compare with.
    """

    command: str
    machine: str
    versions: dict[str, str]
    missing: dict[str, str]
    anchor: str


def summary(rows: Sequence[Row], metrics: Sequence[Metric], context: Context) -> Row:
    """All that follows from the rows, those of the original pictures among them, for programs.

    ``at_our_rate``, ``below_best_percent`` and ``bd_rate_percent`` are by metric; of the last None
    means that the curves do not overlap enough, and it is empty where BD-rates are skipped.
    ``too_small`` are the pictures for which a metric has no mean, by metric.
    """
    originals = {row["image"]: row for row in rows if row["codec"] == ORIGINAL}
    measured = [row for row in rows if row["codec"] != ORIGINAL]
    means = averages(measured, originals, metrics)
    reference = _reference(means)
    not_for_json = {"crop", "token_bits",
                    *(metric.name for metric in METRICS.values() if metric.of_sets)}
    others = [row for row in means if family(row) != OURS]
    at_ours = {metric.name: [*(row for row in (reference,) if row[metric.name] is not None),
                             *at_rate(others, reference["bpp"], metric.name, metric.higher)]
               for metric in metrics} if reference else {}
    below = {metric.name: percent for metric in metrics if reference and not metric.higher
             and (percent := below_best(at_ours[metric.name], metric.name, OURS)) is not None}
    fronts = {metric.name: dict(families(means, metric.name, metric.higher)) for metric in metrics}
    return {
        "command": context.command, "machine": context.machine, "versions": context.versions,
        "missing": context.missing, "anchor": context.anchor,
        "training_losses": {metric.name: metric.training_loss for metric in metrics
                            if metric.training_loss},
        "averages": means,
        "at_our_rate": at_ours,
        "below_best_percent": below,
        "bd_rate_percent": {
            metric.name: {name: bd_rate(fronts[metric.name][context.anchor], front, metric.name,
                                        metric.higher)
                          for name, front in fronts[metric.name].items()}
            if context.anchor in fronts[metric.name] and BD_RATE not in context.missing else {}
            for metric in metrics},
        "too_small": {metric.name: small for metric in metrics if (small := list(dict.fromkeys(
            row["image"] for row in measured
            if "error" not in row and row.get(metric.name) is None)))},
        "errors": [row for row in rows if "error" in row],
        "rows": [{name: value for name, value in row.items() if name not in not_for_json}
                 for row in measured if "error" not in row],
    }


def html(rows: Sequence[Row], facts: Row, metrics: Sequence[Metric], context: Context) -> str:
    """The report of rows and what `summary` says of them."""
    means: list[Row] = facts["averages"]
    named = titles(row["image"] for row in rows)
    good = [row for row in rows if "error" not in row and row["codec"] != ORIGINAL]
    single = [metric for metric in metrics if not metric.of_sets]
    count = len({row["image"] for row in good})
    sections = [
        made_by(context.command, context.machine),
        paragraph(f"{count} {'picture' if count == 1 else 'pictures'}, {len(good):,} measurements. "
                  "Rates are whole files: JPEG, WebP and AVIF as written, JPEG 2000 and JPEG XL as "
                  "bare codestreams, AV1, HEVC and VVC as raw bitstreams, ours with its container. "
                  + losses(metrics)),
        _our_rate(facts, metrics),
        _rate_and_fidelity(means, metrics),
        _bd_rates(facts, metrics, context.anchor),
        _crops(good, means, single, named),
        _bits(good, named),
        _all_settings(means, metrics),
        _each_picture(good, single, named),
        _troubles(facts, metrics, named),
        made_with(context.versions,
                  *(paragraph(f"{metric.title}: {metric.source}.") for metric in metrics)),
    ]
    return page("UniMIC: rate and fidelity", [part for part in sections if part])


def text(facts: Row, metrics: Sequence[Metric]) -> list[str]:
    """Each codec at our rate as lines for a terminal; every setting where ours was not measured."""
    rows = {metric.name: {family(row): row for row in found}
            for metric, found in zip(metrics, facts["at_our_rate"].values(), strict=False)}
    names = list(dict.fromkeys(name for found in rows.values() for name in found))
    if not facts["averages"]:
        return ["nothing was measured with every picture"]
    if not names:
        lines = [f"{row['codec']:<10}{row['setting']!s:>6}{row['bpp']:>10.4f} bpp" + "".join(
            f"{metric.marked:>18} {shown(row[metric.name], metric.digits)}" for metric in metrics)
            for row in facts["averages"]]
        return [*lines, *filter(None, (losses(metrics),))]
    lines = [f"the best at our rate or up to {SLACK:.0%} more, or else the next above it (bits per "
             "pixel in brackets)",
             f"{'':<10}" + "".join(f"{metric.marked:>24}" for metric in metrics)]
    for name in sorted(names, key=lambda name: name != OURS):
        cells = [(shown(row[metric.name], metric.digits) + f" ({row['bpp']:.4f})"
                  if (row := rows[metric.name].get(name)) else "–") for metric in metrics]
        lines.append(f"{name:<10}" + "".join(f"{cell:>24}" for cell in cells))
    return [*lines, *filter(None, (_lead(facts, metrics), losses(metrics)))]


def without_mean(facts: Row, metrics: Sequence[Metric]) -> dict[str, str]:
    """Titles of metrics without means, and the pictures that are too small for them."""
    found = {}
    for metric in metrics:
        if names := [Path(image).name for image in facts["too_small"].get(metric.name, [])]:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            found[metric.title] = (f"no mean, for {names[0]}{more} "
                                   f"{'are' if more else 'is'} under {SMALLEST[metric.name]} "
                                   "pixels on a side")
    return found


def _metric_columns(metrics: Sequence[Metric]) -> list[Column]:
    return [Column(metric.name, f"{metric.marked} {'↑' if metric.higher else '↓'}", metric.digits)
            for metric in metrics]


def _reference(means: Sequence[Row]) -> Row | None:
    """The mean of ours with every token sent."""
    return next((row for row in means if row["codec"] == OURS and row["setting"] == FULL), None)


def _our_rate(facts: Row, metrics: Sequence[Metric]) -> str:
    """One line a codec: its best settings at our rate or just above."""
    lines: dict[str, Row] = {}
    for metric in metrics:
        for row in facts["at_our_rate"].get(metric.name, []):
            line = lines.setdefault(family(row), {"codec": family(row)})
            line[metric.name] = row[metric.name]
            line[f"{metric.name} at"] = (f"{row['codec']} {row['setting']}, {row['bpp']:.4f}")
    if not lines:
        return ""
    columns = [Column("codec", "codec")]
    for metric, column in zip(metrics, _metric_columns(metrics), strict=True):
        columns += [column, Column(f"{metric.name} at", "codec setting, bits per pixel", left=True)]
    order = sorted(lines.values(), key=lambda line: line["codec"] != OURS)
    return section("At our rate", paragraph(
        "For each codec and metric the best measured setting, with or without scaling, whose mean "
        f"rate is ours with every token sent or up to {SLACK:.0%} more; if there is none, the next "
        "above; the highest, where all are below. So look at the rate too."),
        table(columns, order, OURS), paragraph(_lead(facts, metrics)))


def _lead(facts: Row, metrics: Sequence[Metric]) -> str:
    """How ours stands against the best of the others, where lower is better."""
    below = facts["below_best_percent"]
    return "; ".join(
        f"{metric.marked} of ours is {abs(below[metric.name]):.1f} % "
        f"{'lower' if below[metric.name] >= 0 else 'higher'} than the best of the others"
        for metric in metrics if metric.name in below) + ("." if below else "")


def plots(facts: Row, metrics: Sequence[Metric]) -> dict[str, str]:
    """The curves as SVG files, by metric."""
    return {name: drawing.file() for name, drawing in _curves(facts["averages"], metrics).items()}


def _rate_and_fidelity(means: Sequence[Row], metrics: Sequence[Metric]) -> str:
    return section("Rate and fidelity", paragraph(
        "Means over the pictures. A curve is the best that a codec reaches over all its settings, "
        f"with and without scaling; point at a dot to see which it is. {AXES}"),
        legend(_names(means)), "<div class=plots>",
        *(drawing.figure() for drawing in _curves(means, metrics).values()),
        "</div>") if means else ""


def _all_settings(means: Sequence[Row], metrics: Sequence[Metric]) -> str:
    return section(
        "All settings", paragraph("Means over the pictures; a click on a title sorts."),
        table([Column("codec", "codec"), Column("setting", "setting"), *_SIZES,
               *_metric_columns(metrics), *_TIMES], means, OURS)) if means else ""


def _each_picture(rows: Sequence[Row], metrics: Sequence[Metric], titles: Mapping[str, str]
                  ) -> str:
    return section(
        "Picture by picture", "<details><summary>Show the table</summary>",
        table([Column("codec", "codec"), Column("setting", "setting"),
               Column("image", "picture", left=True), *_SIZES, *_metric_columns(metrics), *_TIMES],
              [row | {"image": titles[row["image"]]} for row in rows], OURS),
        "</details>") if rows else ""


def _names(means: Sequence[Row]) -> list[str]:
    """Of the codecs, ours first."""
    return sorted(dict.fromkeys(map(family, means)), key=lambda name: name != OURS)


def _curves(means: Sequence[Row], metrics: Sequence[Metric]) -> dict[str, Drawing]:
    drawings = {}
    for metric in metrics:
        fronts = dict(families(means, metric.name, metric.higher))
        curves = {name: [Point(row["bpp"], row[metric.name],
                               f"{row['codec']} {row['setting']}: {row['bpp']:.4f} bpp, "
                               f"{row[metric.name]:.{metric.digits}f}")
                         for row in fronts.get(name, [])]
                  for name in _names(means)}
        if drawing := draw(f"{metric.marked} ({metric.better} is better)", "bits per pixel (file)",
                           curves, bold=OURS, log_x=True):
            drawings[metric.name] = drawing
    return drawings


def _bd_rates(facts: Row, metrics: Sequence[Metric], anchor: str) -> str:
    names = list(dict.fromkeys(name for by in facts["bd_rate_percent"].values() for name in by))
    if not names:
        return ""
    rows = [{"codec": name} | {metric.name: facts["bd_rate_percent"][metric.name].get(name)
                               for metric in metrics} for name in names]
    return section(f"BD-rate against {anchor}", paragraph(
        "Bits that a codec needs more (+) or less (−) than the anchor for equal fidelity, in "
        "percent, between the curves above (Bjøntegaard, Akima interpolation). A dash: fewer than "
        "four points, or curves that hardly overlap."),
        table([Column("codec", "codec"),
               *(Column(metric.name, metric.marked + ", %", 1, signed=True) for metric in metrics)],
              sorted(rows, key=lambda row: row["codec"] != OURS), OURS))


# ── pictures ──────────────────────────────────────────────────────────────────────────────────

def _crops(rows: Sequence[Row], means: Sequence[Row], metrics: Sequence[Metric],
           titles: Mapping[str, str]) -> str:
    """The middle of each picture that was kept, beside each codec's best at about our rate."""
    if _reference(means) is None:
        return ""
    judge = next((m for m in reversed(metrics) if not m.training_loss), None)
    kept: dict[str, list[Row]] = {}
    for row in rows:
        if "crop" in row and judge and row.get(judge.name) is not None:
            kept.setdefault(row["image"], []).append(row)
    parts = []
    for image, group in kept.items():
        own = _reference(group)
        if own is None or judge is None:
            continue
        chosen = sorted(at_rate(group, own["bpp"], judge.name, judge.higher),
                        key=lambda row: row["codec"] != OURS)
        original = webp_base64(middle(load_image(image)))
        parts += ["<div class=crops>", _figure(original, titles[image], "original"), *(
            _figure(row["crop"], f"{row['codec']} {row['setting']}",
                    f"{row['file_bytes']:,} bytes{_more(row, own)}, {row['bpp']:.4f} bpp, "
                    f"{judge.title} {shown(row[judge.name], judge.digits)}")
            for row in chosen), "</div>"]
    return section("Side by side at our rate or the next above", paragraph(
        "The middle of the picture. Each codec at the setting chosen as under “At our rate”, for "
        f"this picture, by {judge.title}; in brackets how many bytes more (+) or fewer (−) than "
        "ours."), *parts) if parts and judge else ""


def _more(row: Row, own: Row) -> str:
    """How much longer its file is than ours of the same picture."""
    if row is own:
        return ""
    return f" ({shown(100 * (row['file_bytes'] / own['file_bytes'] - 1), 0, signed=True)} %)"


def _figure(picture: str, title: str, note: str, kind: str = "") -> str:
    return (f"<figure class='{kind}'><img alt='' src='data:image/webp;base64,{picture}'>"
            f"<figcaption><b>{escape(title)}</b><br>{escape(note)}</figcaption></figure>")


def _bits(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Where the bits of ours go, and a map of them for the pictures that were kept."""
    full = [row for row in rows if row["codec"] == OURS and row["setting"] == FULL]
    if not full:
        return ""
    names = list(dict.fromkeys(name for row in full for name in row["parts"]))
    total = sum(8 * row["file_bytes"] for row in full)
    tokens = {name: sum(row["parts"].get(name, 0.0) for row in full) for name in names}
    lines = [{"part": name, "bits": bits / len(full), "share": 100 * bits / total}
             for name, bits in tokens.items()]
    maps = [_bit_map(row, titles[row["image"]]) for row in full if "token_bits" in row]
    return section("Where our bits go", paragraph(
        "With every token sent. Tokens are coded in ten groups, from a sparse lattice to a "
        "dense one; the later, the more of the picture is known."),
        table([Column("part", "part"), Column("bits", "bits a picture", 1),
               Column("share", "of the file, %", 1)], lines),
        paragraph("Bits of each token over the picture: dark is cheap, bright is dear.")
        if maps else "", "<div class=crops>", *maps, "</div>")


def _bit_map(row: Row, title: str) -> str:
    """Beside its picture."""
    bits = np.array(row["token_bits"])
    level = np.clip(bits / bits.max() if bits.max() else bits, 0, 1)
    ramp = np.array([[20, 16, 48], [120, 28, 109], [229, 92, 48], [252, 240, 160]], float)
    colours = np.stack([np.interp(level, np.linspace(0, 1, len(ramp)), channel)
                        for channel in ramp.T], -1)
    file = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).save(file, "WEBP", lossless=True)
    picture = load_image(row["image"])
    picture.thumbnail((400, 400))
    return "".join(("<div class=pair>", _figure(webp_base64(picture), title, "original"),
                    _figure(base64.b64encode(file.getvalue()).decode(), "bits a token",
                            f"{bits.min():.1f} … {bits.max():.1f}, mean {bits.mean():.2f}", "map"),
                    "</div>"))


def _troubles(facts: Row, metrics: Sequence[Metric], titles: Mapping[str, str]) -> str:
    rows = [{"what": name, "why": f"skipped: {why}"} for name, why in facts["missing"].items()]
    rows += [{"what": title, "why": why} for title, why in without_mean(facts, metrics).items()]
    rows += [{"what": (f"{row['codec']} {row['setting']}, " if row["codec"] != ANY else "")
              + titles[row["image"]], "why": row["error"]} for row in facts["errors"]]
    return section("What could not be measured", table(
        [Column("what", "what"), Column("why", "why", left=True)], rows)) if rows else ""
