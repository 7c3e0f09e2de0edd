"""A journal of measurements: lines of JSON, to go on from after an interruption.

Each line adds to what is known of one measurement. What metrics of sets need of a picture is too
much for a line; it is kept in a file beside the journal, and the line says where. Lines are ASCII:
names of files may be no UTF-8 at all, and a line that was cut is no worse than any other text.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from unimic.codec.errors import InvalidInput
from unimic.measure.codecs import Setting
from unimic.measure.metrics import METRICS, Features
from unimic.measure.outputs import as_json
from unimic.measure.run import Row, Task, family

if sys.platform != "win32":
    import fcntl

WIDTH = 2048  # features of a crop
FEATURES = ".features"  # of the file beside a journal


class Journal:
    """Rows in a file; each run also writes a line that says what makes its rows.

    Args:
        path: of the file.
        versions: of what all results depend on, by name.
        codecs: versions by codec; what another version of a codec made is left aside.
        resume: go on with a file that is there.
        force: begin anew where one is there.

    Attributes:
        rows: what is known of each measurement, by the key of its task.

    Raises:
        InvalidInput: the file exists, and neither is set, other versions made it, or another run
            writes it.
    """

    def __init__(self, path: Path, versions: Mapping[str, str],
                 codecs: Mapping[str, Mapping[str, str]], resume: bool, force: bool = False
                 ) -> None:
        self.rows: dict[tuple[str, str, Setting], Row] = {}
        self._path, self._features = path, path.with_suffix(FEATURES)
        self._made_by = {"made_by": versions, "codecs": codecs}
        self._file: TextIO | None = None
        self._begun = False
        self._anew = force
        if path.exists() and not force:
            if not resume:
                raise _exists(path)
            self._file = self._open("a")
            try:
                self._read(path, versions, codecs)
            except InvalidInput:
                self._file.close()
                raise

    def _read(self, path: Path, versions: Mapping[str, str],
              codecs: Mapping[str, Mapping[str, str]]) -> None:
        *whole, cut = path.read_bytes().split(b"\n")
        made: Mapping[str, Mapping[str, str]] = {}
        try:
            for row in map(json.loads, whole):
                if "made_by" in row:
                    _check(path, row["made_by"], versions)
                    made = row["codecs"]
                elif made.get(family(row)) == codecs.get(family(row), made.get(family(row))):
                    self._learn(self._found(row))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(str(path), f"is no journal of measurements ({error!r})",
                               "use another name, or -f to overwrite it") from error
        if cut:  # it was being written when the run ended
            os.truncate(path, path.stat().st_size - len(cut))

    def _learn(self, row: Row) -> None:
        key = row["image"], row["codec"], row["setting"]
        known = self.rows.get(key, {})
        other = "error" in known or "error" in row or known.get("content") != row.get("content")
        self.rows[key] = row if other else known | row

    def left(self, task: Task) -> Task | None:
        """What of ``task`` is still to do; None if nothing is."""
        row = self.rows.get(task.key)
        if row is None or "error" in row or row.get("content", "") != task.content:
            return task
        metrics = tuple(name for name in task.metrics if name not in row)
        keep = task.keep and "crop" not in row
        return replace(task, metrics=metrics, keep=keep) if metrics or keep else None

    def add(self, row: Row) -> None:
        """Keep a row; the first one makes the file, or takes the place of what was there."""
        if self._file is None:
            self._file = self._open("a" if self._anew else "x")
            self._file.truncate(0)
            self._features.unlink(missing_ok=True)
        if not self._begun:
            self._write(self._file, self._made_by)
            self._begun = True
        self._learn(row)
        self._write(self._file, {
            name: self._kept(value) if isinstance(value, np.ndarray) else value
            for name, value in row.items()})

    def _open(self, mode: Literal["a", "x"]) -> TextIO:
        """The file, for this run alone where the system can see to that."""
        try:
            file = self._path.open(mode, encoding="utf-8")
        except FileExistsError as error:  # another run was sooner
            raise _exists(self._path) from error
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise InvalidInput(str(self._path), "is being written by another run",
                                   "wait for it, or use another name") from error
        return file

    def _write(self, file: TextIO, line: Mapping[str, Any]) -> None:
        file.write(as_json(line) + "\n")
        file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    # Features in a line are {"first": row in the file of features, "count": rows, "crc32": …}. By
    # the checksum it is known that what lies there now is what was written, also after the file
    # was cut or lost and others took the place.

    def _kept(self, features: Features) -> dict[str, int]:
        data = features.astype("<f2").tobytes()
        with self._features.open("ab") as file:
            first = file.tell() // (2 * WIDTH)
            file.truncate(2 * WIDTH * first)  # a row that was being written when a run ended
            file.write(data)
        return {"first": first, "count": len(features), "crc32": zlib.crc32(data)}

    def _found(self, row: Row) -> Row:
        """A row as it was added, but for features that are lost."""
        found = {}
        for name, value in row.items():
            if name in METRICS and isinstance(value, dict):
                value = self._features_at(**value)
                if value is None:
                    continue
            found[name] = value
        return found

    def _features_at(self, first: int, count: int, crc32: int | None = None
                     ) -> Features | None:
        if not self._features.exists():
            return None
        values = np.fromfile(self._features, "<f2", count * WIDTH, offset=2 * WIDTH * first)
        return values.reshape(count, WIDTH) if zlib.crc32(values.tobytes()) == crc32 else None


def _exists(path: Path) -> InvalidInput:
    return InvalidInput(str(path), "exists", "use --resume to go on with it, or -f")


def _check(path: Path, made_by: Mapping[str, str], versions: Mapping[str, str]) -> None:
    for name, version in made_by.items():
        if versions.get(name, version) != version:
            raise InvalidInput(str(path), f"was made with {name} {version}, here is "
                               f"{versions[name]}", "use -f to begin anew")
