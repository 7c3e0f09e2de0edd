"""What ``unimic measure session`` found, as lines for a terminal and as a report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from unimic.measure.codecs import OURS
from unimic.measure.html import (
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
    table,
    titles,
)
from unimic.measure.metrics import METRICS, Metric, losses
from unimic.measure.run import family
from unimic.measure.session import WAYS, Row, drift_metrics
from unimic.measure.sessions import taken
from unimic.measure.terminal import aligned

_TOTAL_COLUMNS = [Column("codec", "codec"), *(column for way, title in WAYS.items() for column in (
    Column(way, f"{title}, bytes", 0), Column(f"times_{way}", "× ours", 1)))]


def text(facts: Row) -> list[str]:
    """The figures as lines for a terminal."""
    sessions, metric = facts["sessions"], _metric(facts)
    lines = [f"{_equal(sessions, metric)} Bytes: ours all on the wire, the others' the pictures "
             "alone.", *filter(None, [losses([metric])]), ""]
    if len(sessions) == 1:
        lines += aligned([Column("turn", "turn"), Column("up_bytes", "up", 0),
                          Column("down_bytes", "down", 0), *_codec_columns(sessions[0])],
                         _turns(sessions[0]))
    else:
        lines += aligned(_photo_columns(metric), _photos(facts))
    lines += ["", *aligned(_TOTAL_COLUMNS, _totals(facts)), "",
              "the left half, which nobody edits, against the original"
              + (", means over the photos:" if len(sessions) > 1 else ":"),
              *aligned(_drift_columns(metric), _drift(sessions, metric))]
    return [*lines, *(f"left out: {row['what']}: {row['why']}" for row in _left_out(facts))]


def html(facts: Row) -> str:
    """The figures as a report."""
    sessions, metric = facts["sessions"], _metric(facts)
    drift, left_out, titled = _drift(sessions, metric), _left_out(facts), _titles(facts)
    codecs = _names(drift)
    several = len(sessions) > 1
    return page("UniMIC: a session" if not several else "UniMIC: sessions", [
        made_by(facts["command"], facts["machine"]),
        section("The session in bytes" if not several else
                f"The same session with {len(sessions)} photos, in bytes", paragraph(
            "Ours: all that the TCP connection carried. The others: the pictures alone; nothing is "
            "counted for their questions, masks and headers. "
            f"{_equal(sessions, metric)} Changes alone: the service keeps pictures, and of each "
            "only what is new in it crosses, as of ours. Each picture once: it keeps pictures, and "
            "each crosses whole. In every turn: it keeps nothing, and the picture of every turn "
            f"goes again. {losses([metric])}"),
            table(_TOTAL_COLUMNS, _totals(facts), OURS)),
        *([section("Photo by photo", paragraph(
            "The codec that takes the fewest bytes, and how many times ours they are."),
            table(_photo_columns(metric), _photos(facts)))] if several else []),
        section("Turn by turn", paragraph(
            "Bytes. Ideal and payload are of tokens, text and mask; wire is the message as "
            "protobuf writes it; TCP is all that the connection carried, the first turn with the "
            "opening of the session. The other codecs with each picture once."),
            *(_turn_table(titled[session["image"]], session, several) for session in sessions)),
        section("Drift", paragraph(
            "The photo is edited again and again in its right half. Shown is the left half, which "
            "nobody edits, against the original: ours as the service holds it, in tokens; the "
            "others' coded anew in every turn. Value axes need not begin at 0." + (
                " Means over the photos, of the codecs that did it with all." if several else "")),
            legend(codecs), "<div class=plots>",
            *(drawing.figure() for drawing in _curves(drift, metric).values()), "</div>",
            table(_drift_columns(metric), drift, OURS)),
        *([section("What could not be measured", table(
            [Column("what", "what"), Column("why", "why", left=True)], left_out))]
          if left_out else []),
        made_with(facts["versions"]),
    ])


def plots(facts: Row) -> dict[str, str]:
    """The drift as SVG files, by metric."""
    drift = _drift(facts["sessions"], _metric(facts))
    return {f"drift-{metric}": drawing.file()
            for metric, drawing in _curves(drift, _metric(facts)).items()}


def _metric(facts: Row) -> Metric:
    return METRICS[facts["settings"]["equal"]]


def _equal(sessions: Sequence[Row], metric: Metric) -> str:
    """What the others' photo is not worse than."""
    if len(sessions) == 1:
        return f"Our photo's {metric.shown(sessions[0]['value'])}; the others' are not worse."
    return f"The others' photos are not worse than ours by {metric.marked}, each by itself."


def _titles(facts: Row) -> dict[str, str]:
    """Of all photos."""
    return titles(row["image"] for row in (*facts["sessions"], *facts["failed"]))


def _label(row: Row) -> str:
    """Codec and setting; ours has none."""
    return " ".join(str(row[name]) for name in ("codec", "setting") if name in row)


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────


def _totals(facts: Row) -> list[Row]:
    """Those of one session with the codecs' settings."""
    rows: list[Row] = facts["totals"]
    if len(facts["sessions"]) > 1:
        return rows
    names = {family(other): _label(other) for other in facts["sessions"][0]["others"]}
    return [{**row, "codec": names.get(row["codec"], row["codec"])} for row in rows]


def _photo_columns(metric: Metric) -> list[Column]:
    return [Column("image", "photo"), Column("value", f"our {metric.marked}", metric.digits),
            Column("bytes", "our bytes", 0), *(column for way, title in WAYS.items() for column in (
                Column(f"best_{way}", title, left=True), Column(f"times_{way}", "× ours", 1)))]


def _photos(facts: Row) -> list[Row]:
    """Each photo with the codecs of the fewest bytes."""
    rows, titled = [], _titles(facts)
    for session in facts["sessions"]:
        row = {**session, "image": titled[session["image"]]}
        for way in WAYS if session["others"] else ():
            least, best = min((taken(other)[way], _label(other)) for other in session["others"])
            row |= {f"best_{way}": best, f"times_{way}": least / session["bytes"]}
        rows.append(row)
    return rows


def _codec_columns(session: Row) -> list[Column]:
    return [Column(_label(other), _label(other), 0) for other in session["others"]]


def _turns(session: Row) -> list[Row]:
    """Ours turn by turn, and the others' with each picture once, by their labels."""
    return [{**turn, **{_label(other): other["keeps_pictures"][i] for other in session["others"]}}
            for i, turn in enumerate(session["turns"])]


def _turn_table(title: str, session: Row, folded: bool) -> str:
    found = table([Column("turn", "turn"), Column("up_ideal_bits", "up: ideal, bits", 0),
                   Column("up_payload_bytes", "payload", 0), Column("up_wire_bytes", "wire", 0),
                   Column("up_bytes", "TCP", 0), Column("down_ideal_bits", "down: ideal, bits", 0),
                   Column("down_payload_bytes", "payload", 0), Column("down_wire_bytes", "wire", 0),
                   Column("down_bytes", "TCP", 0), *_codec_columns(session)], _turns(session))
    return f"<details><summary>{escape(title)}</summary>{found}</details>" if folded else found


# ── drift ─────────────────────────────────────────────────────────────────────────────────────


def _drift_columns(metric: Metric) -> list[Column]:
    return [Column("codec", "codec"), Column("turns", "turns"),
            *(Column(each.name, each.marked, each.digits) for each in drift_metrics(metric)),
            Column("changed_tokens", "tokens changed")]


def _drift(sessions: Sequence[Row], metric: Metric) -> list[Row]:
    """Of one session by label; of several the means, by codec."""
    if len(sessions) == 1:
        return [{**row, "codec": _label(row)} for row in sessions[0]["drift"]]
    groups: dict[tuple[int, str], list[Row]] = {}
    for session in sessions:
        for row in session["drift"]:
            groups.setdefault((row["turns"], family(row)), []).append(row)
    return [{"turns": turns, "codec": codec,
             **{each.name: fmean(row[each.name] for row in rows)
                for each in drift_metrics(metric)},
             **({"changed_tokens": sum(row["changed_tokens"] for row in rows)}
                if codec == OURS else {})}
            for (turns, codec), rows in groups.items() if len(rows) == len(sessions)]


def _names(drift: Sequence[Row]) -> list[str]:
    """Of the codecs."""
    return list(dict.fromkeys(row["codec"] for row in drift))


def _curves(drift: Sequence[Row], metric: Metric) -> dict[str, Drawing]:
    curves = {each: {
        name: [Point(row["turns"], row[each.name],
                     f"{name}, {row['turns']} turns: {row[each.name]:.4f}")
               for row in drift if row["codec"] == name]
        for name in _names(drift)} for each in drift_metrics(metric)}
    return {each.name: drawing for each, lines in curves.items()
            if (drawing := draw(f"{each.marked} ({each.better} is better)", "turns", lines,
                                bold=OURS))}


def _left_out(facts: Row) -> list[Row]:
    """Codecs, with their photo where there are several, and photos."""
    sessions, titled = facts["sessions"], _titles(facts)
    rows = []
    for session in sessions:
        where = f"{titled[session['image']]}, " if len(sessions) > 1 else ""
        rows += [{"what": where + codec, "why": why} for codec, why in session["left_out"].items()]
    return [*rows, *({"what": titled[row["image"]], "why": row["error"]}
                     for row in facts["failed"])]
