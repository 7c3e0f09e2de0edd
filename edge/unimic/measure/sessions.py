"""The same session with each of several photos, and what they take in all.

Results are handed out after each photo, so that whoever is interrupted can go on with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.progress import Progress
from unimic.edge.images import load_image
from unimic.edge.models import Models
from unimic.measure.codecs import Variant
from unimic.measure.metrics import METRICS
from unimic.measure.run import content, family
from unimic.measure.session import WAYS, Row, measure

OURS, BEST = "unimic", "the best of each photo"


def measure_all(address: str, models: Models, photos: Sequence[Path],
                families: Sequence[Sequence[Variant]], settings: Mapping[str, Any],
                known: Sequence[Row], progress: Callable[[str], AbstractContextManager[Progress]],
                done: Callable[[Sequence[Row], Sequence[Row]], None]) -> None:
    """Hold the session with each photo.

    A photo that cannot be measured is told with the others' results; the rest goes on.

    Args:
        address: of a service.
        models: of the client.
        photos: files.
        families: the variants of each codec.
        settings: ``quality``, ``equal`` (a metric), ``edits`` and ``seed``, see `session.measure`.
        known: sessions that need not be held again.
        progress: makes a progress bar of a title.
        done: called after each photo with all sessions so far, those of `session.measure` with
            ``image`` and ``content``, and with the photos that failed, ``image`` and ``error``.

    Raises:
        UnimicError: no photo could be measured.
    """
    by_content = {session["content"]: session for session in known}

    def session(path: Path, prefix: str) -> Row:
        photo, which = load_image(path), content(path)
        found = by_content.get(which) or measure(
            address, models, photo, settings["quality"], families, METRICS[settings["equal"]],
            settings["edits"], settings["seed"], lambda title: progress(prefix + title))
        return {**found, "image": str(path), "content": which}

    sessions: list[Row] = []
    failed: list[Row] = []
    first_error: UnimicError | None = None
    for number, path in enumerate(photos, start=1):
        try:
            sessions.append(session(path, f"{number}/{len(photos)}: " if len(photos) > 1 else ""))
        except UnimicError as error:
            first_error = first_error or error
            failed.append({"image": str(path), "error": str(error)})
        if sessions:
            done(sessions, failed)
    if first_error and not sessions:
        raise first_error


def earlier(path: Path, settings: Mapping[str, Any], versions: Mapping[str, str]) -> list[Row]:
    """The sessions in a file of results that the same settings and versions made.

    Args:
        path: of the file; there may be none.
        settings: by name.
        versions: by name.

    Raises:
        InvalidInput: it is no such file, or others made it.
    """
    if not path.exists():
        return []
    try:
        facts = json.loads(path.read_bytes())
        before = {**facts["settings"], **facts["versions"]}
        sessions = [{**session, "content": str(session["content"])}
                    for session in facts["sessions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(str(path), f"has no results of sessions ({error!r})",
                           "use another name, or -f to overwrite it") from error
    made_by = {**settings, **versions}
    for name in dict.fromkeys((*made_by, *before)):
        if before.get(name) != made_by.get(name):
            raise InvalidInput(str(path), f"was made with {name} {before.get(name)}, here it is "
                               f"{made_by.get(name)}", "use -f to begin anew")
    return sessions


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
    return [{"codec": OURS, **dict.fromkeys(WAYS, ours)}, *(
        {"codec": codec, **in_all, **{f"times_{way}": in_all[way] / ours for way in WAYS}}
        for codec, rows in everywhere.items()
        for in_all in [{way: sum(row[way] for row in rows) for way in WAYS}])]


def taken(other: Row) -> dict[str, int]:
    """Bytes of a session with another codec, by the names of `WAYS`."""
    return {way: sum(other[way]) for way in WAYS}
