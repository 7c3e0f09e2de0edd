"""The same session with each of several photos, and what they take in all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.progress import Progress
from unimic.edge.images import load_image, read_bytes
from unimic.edge.models import Models
from unimic.measure.codecs import OURS
from unimic.measure.journal import Journal
from unimic.measure.run import content, family
from unimic.measure.session import WAYS, Row, Settings, measure

NAME = "session"
"""In a journal, in place of a codec."""
BEST = "the best of each photo"


def measure_all(address: str, models: Models, photos: Sequence[Path], settings: Settings,
                journal: Journal | None,
                progress: Callable[[str], AbstractContextManager[Progress]]
                ) -> tuple[list[Row], list[Row]]:
    """Hold the session with each photo, but those that the journal has.

    Args:
        address: of a service.
        models: of the client.
        photos: files.
        settings: of all.
        journal: gets each session when it has ended.
        progress: makes a progress bar of a title.

    Returns:
        The sessions, what `session.measure` finds with ``image``, ``content``, ``codec`` (`NAME`)
        and ``setting`` (the quality); and the photos that cannot be measured, ``image`` and
        ``error``.

    Raises:
        UnimicError: that is all of them.
    """
    def session(path: Path, prefix: str) -> Row:
        data = read_bytes(path)
        row: Row = {"image": str(path), "content": content(data), "codec": NAME,
                    "setting": settings.quality}
        known = journal.rows.get((row["image"], NAME, settings.quality)) if journal else None
        if known and known["content"] == row["content"]:
            return known
        photo = load_image(data, name=str(path))
        row |= measure(address, models, photo, settings, lambda title: progress(prefix + title))
        if journal:
            journal.add(row)
        return row

    sessions: list[Row] = []
    errors: list[tuple[Path, UnimicError]] = []
    for number, path in enumerate(photos, start=1):
        try:
            sessions.append(session(path, f"{number}/{len(photos)}: " if len(photos) > 1 else ""))
        except UnimicError as error:
            errors.append((path, error))
    if not sessions:
        (path, first), *more = errors
        raise InvalidInput("photos", "none of them can be measured", f"the first, {path}: {first}"
                           ) if more else first
    return sessions, [{"image": str(path), "error": str(why)} for path, why in errors]


def totals(sessions: Sequence[Row]) -> list[Row]:
    """Bytes of all sessions together.

    Of codecs that were left out in one of them there are none: they would be of other photos.

    Returns:
        Rows with ``codec``, bytes by the names of `WAYS`, and but for ours, the first, how many
        times ours they are, as ``times_…``. With several sessions the last row has of each the
        codec that takes the fewest bytes there.
    """
    ours = sum(session["bytes"] for session in sessions)
    summed: dict[str, list[Row]] = {}
    for session in sessions:
        for other in session["others"]:
            summed.setdefault(family(other), []).append(taken(other))
    everywhere = {codec: rows for codec, rows in summed.items() if len(rows) == len(sessions)}
    if len(sessions) > 1 and all(session["others"] for session in sessions):
        everywhere[BEST] = [{way: min(taken(other)[way] for other in session["others"])
                             for way in WAYS} for session in sessions]
    found: list[Row] = [{"codec": OURS, **dict.fromkeys(WAYS, ours)}]
    for codec, rows in everywhere.items():
        in_all = {way: sum(row[way] for row in rows) for way in WAYS}
        found.append({"codec": codec, **in_all,
                      **{f"times_{way}": in_all[way] / ours for way in WAYS}})
    return found


def taken(other: Row) -> dict[str, int]:
    """Bytes of a session with another codec, by the names of `WAYS`."""
    return {way: sum(other[way]) for way in WAYS}
