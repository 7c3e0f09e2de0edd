"""What follows from the rows of measurements: means, rate-distortion curves, BD-rates."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from unimic.measure.codecs import Setting
from unimic.measure.metrics import Metric, kid
from unimic.measure.run import Row, family

SLACK = 0.1  # a tenth more bits than ours still is about our rate
BD_RATE = "BD-rate"
FIGURES = ("ideal_bits", "payload_bytes", "file_bytes", "bpp", "encode_seconds", "decode_seconds")


def averages(rows: Iterable[Row], originals: Mapping[str, Row], metrics: Sequence[Metric]
             ) -> list[Row]:
    """The mean of every figure for each codec and setting, over the pictures; KID is of all.

    Settings that failed for some picture are left out: their mean would be of other pictures.

    Args:
        rows: one a measurement.
        originals: what metrics of sets need of the original pictures, by name.
        metrics: what was measured.
    """
    groups: dict[tuple[str, Setting], list[Row]] = {}
    images = set()
    for row in rows:
        groups.setdefault((row["codec"], row["setting"]), []).append(row)
        if "error" not in row:
            images.add(row["image"])
    out = []
    for (codec, setting), group in groups.items():
        group = [row for row in group if "error" not in row]
        if not group or len(group) < len(images):
            continue
        mean = {name: _over(group, name) for name in FIGURES} | {
            metric.name: _distance(group, originals, metric.name) if metric.of_sets
            else _over(group, metric.name) for metric in metrics}
        out.append({"codec": codec, "setting": setting, "images": len(group), **mean})
    return out


def _over(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if len(values) == len(rows) else None


def _distance(rows: Sequence[Row], originals: Mapping[str, Row], name: str) -> float | None:
    pairs = [(originals.get(row["image"], {}).get(name), row.get(name)) for row in rows]
    if any(features is None for pair in pairs for features in pair):
        return None
    first, second = zip(*pairs, strict=True)
    return kid(first, second)


def front(rows: Iterable[Row], metric: str, higher: bool) -> list[Row]:
    """Of the rows of one codec those that no other beats in both rate and ``metric``, by rate."""
    best: list[Row] = []
    sign = 1 if higher else -1
    for row in sorted(rows, key=lambda row: (row["bpp"], -sign * row[metric])):
        if not best or sign * row[metric] > sign * best[-1][metric]:
            best.append(row)
    return best


def families(means: Iterable[Row], metric: str, higher: bool) -> Iterator[tuple[str, list[Row]]]:
    """Each codec with its `front` over all scalings, where ``metric`` is known."""
    groups: dict[str, list[Row]] = {}
    for row in means:
        if row[metric] is not None:
            groups.setdefault(family(row), []).append(row)
    for name, rows in groups.items():
        yield name, front(rows, metric, higher)


def below_best(at_our_rate: Iterable[Row], metric: str, ours: str) -> float | None:
    """By how many percent ours is below the best of the others.

    None without others, and where the best of them is at 0 or below: nothing is a share of that.

    Args:
        at_our_rate: of `at_rate`.
        metric: one of which lower is better.
        ours: our codec.
    """
    rows = {family(row): row for row in at_our_rate}
    own = rows.pop(ours, None)
    if own is None or not rows:
        return None
    best = min(float(row[metric]) for row in rows.values())
    return 100 * (1 - float(own[metric]) / best) if best > 0 else None


def missing() -> dict[str, str]:
    """What to install for BD-rates, by their name; nothing where it is there."""
    there = importlib.util.find_spec("bjontegaard")
    return {} if there else {BD_RATE: "pip install bjontegaard"}


def bd_rate(anchor: Sequence[Row], test: Sequence[Row], metric: str, higher: bool) -> float | None:
    """Bjøntegaard's rate difference in percent (VCEG-M33, Akima interpolation).

    None if a curve has fewer than four points or the two share less than a tenth of their range.
    Points of no bits are not counted: rates are logarithmic.
    """
    anchor, test = ([row for row in rows if row["bpp"] > 0] for rows in (anchor, test))
    if min(len(anchor), len(test)) < 4:
        return None
    from bjontegaard import bd_rate as compute

    sign = 1 if higher else -1
    curves = [([row["bpp"] for row in rows], [sign * row[metric] for row in rows])
              for rows in (anchor, test)]
    (_, first), (_, second) = curves
    shared = min(max(first), max(second)) - max(min(first), min(second))
    if shared < 0.1 * (max(*first, *second) - min(*first, *second)):
        return None
    value = float(compute(*curves[0], *curves[1], method="akima", require_matching_points=False,
                          min_overlap=0))
    return value if np.isfinite(value) else None


def at_rate(means: Sequence[Row], bpp: float, metric: str, higher: bool) -> list[Row]:
    """Each codec's best measured setting at about ``bpp``: one row a codec.

    That is the best of `SLACK` more at the most, or else the point of its front with the lowest
    rate above that. So the rate never speaks for us, unless all of a codec's rates are below ours;
    then it is its highest.
    """
    chosen = []
    for _, rows in families(means, metric, higher):
        enough = [row for row in rows if row["bpp"] >= bpp * (1 - 1e-9)]
        near = [row for row in enough if row["bpp"] <= bpp * (1 + SLACK)]
        chosen.append(near[-1] if near else enough[0] if enough else rows[-1])
    return chosen
