"""Every picture through every codec at every setting, in parallel, with a journal to resume from.

One measurement is one picture, one codec, one setting; its outcome is one line of JSON. Whatever a
codec or a picture does wrong becomes such a line too, and the rest goes on.
"""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

import numpy as np
from PIL import Image

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.edge.images import load_image
from unimic.measure import codecs
from unimic.measure.codecs import Setting, Variant
from unimic.measure.metrics import Judge

CROP = 256  # pixels on each side of the part that is kept to be looked at
Row = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        image: a file.
        codec: name of a variant.
        setting: of its codec.
        metrics: names.
        keep: whether a crop of what was decoded and, where there are any, the bits of each token
            are kept for a report.
    """

    image: Path
    codec: str
    setting: Setting
    metrics: tuple[str, ...]
    keep: bool

    @property
    def key(self) -> tuple[str, str, Setting]:
        """What tells measurements of one journal apart."""
        return str(self.image), self.codec, self.setting


def measure(task: Task) -> Row:
    """Do one measurement; see docs/measure.md for the fields. Errors become the field ``error``."""
    row: Row = {"image": str(task.image), "codec": task.codec, "setting": task.setting}
    try:
        return row | _measure(task)
    except UnimicError as error:
        return row | {"error": str(error)}
    except Exception as error:  # a codec may raise anything
        return row | {"error": f"{type(error).__name__}: {error}"}


def _measure(task: Task) -> Row:
    original, judge = _original(task.image, task.metrics)
    variant = _variant(task.codec)
    began = perf_counter()
    coded = variant.encode(original, task.setting)
    encoded = perf_counter()
    decoded = variant.decode(coded.data, original.size)
    ended = perf_counter()
    pixels = original.width * original.height
    row: Row = {
        "width": original.width, "height": original.height,
        "ideal_bits": coded.ideal_bits, "payload_bytes": coded.payload_bytes,
        "file_bytes": len(coded.data), "bpp": 8 * len(coded.data) / pixels,
        "encode_seconds": round(encoded - began, 4), "decode_seconds": round(ended - encoded, 4),
        **judge(decoded),
    }
    if coded.parts:
        row["parts"] = {name: round(bits, 2) for name, bits in coded.parts.items()}
    if task.keep:
        row["crop"] = webp_base64(middle(decoded))
        if coded.token_bits is not None:
            row["token_bits"] = np.round(coded.token_bits, 1).tolist()
    return row


def unreadable(path: Path) -> Row | None:
    """A row that says why a picture cannot be measured at all; None if it can."""
    try:
        load_image(path)
    except UnimicError as error:
        return {"image": str(path), "codec": "any", "setting": "", "error": str(error)}
    return None


def middle(image: Image.Image) -> Image.Image:
    """The middle of a picture, at most `CROP` pixels on each side."""
    width, height = min(CROP, image.width), min(CROP, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def webp_base64(image: Image.Image) -> str:
    """A picture for a report: WebP at a quality where it adds nothing to see."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90)
    return base64.b64encode(file.getvalue()).decode()


@cache
def _variant(name: str) -> Variant:
    found, missing = codecs.find([name])
    if missing:
        raise InvalidInput(name, "is not installed here", *missing.values())
    return found[0]


@lru_cache(maxsize=1)  # tasks come picture by picture
def _original(path: Path, metrics: tuple[str, ...]) -> tuple[Image.Image, Judge]:
    image = load_image(path)
    return image, Judge(image, metrics)


# ── many of them ──────────────────────────────────────────────────────────────────────────────


def measure_all(tasks: Sequence[Task], jobs: int, done: Callable[[Row], None]) -> None:
    """Do all measurements in ``jobs`` processes; ``done`` gets each row as it comes.

    A process that dies takes only the measurements with it that were under way.
    """
    left = iter(tasks)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes: each keeps to one core
    while True:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _leave_be) as pool:
            running: dict[Future[Row], Task] = {}
            try:
                for task in left:
                    running[pool.submit(measure, task)] = task
                    if len(running) >= jobs:
                        _collect(running, done)
                while running:
                    _collect(running, done)
                return
            except BrokenProcessPool:
                for task in running.values():
                    done({"image": str(task.image), "codec": task.codec, "setting": task.setting,
                          "error": "the process that measured it died (out of memory?)"})
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _collect(running: dict[Future[Row], Task], done: Callable[[Row], None]) -> None:
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        row = future.result()
        del running[future]
        done(row)


def _leave_be() -> None:
    """An interrupt is for the process that started the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Journal:
    """Rows in a file of JSON lines; each run also writes a line that says what makes its rows.

    Args:
        path: of the file.
        made_by: versions of what results depend on, by name.
        resume: go on with a file that is there.

    Raises:
        InvalidInput: the file exists, and ``resume`` is not set or other versions made it.
    """

    def __init__(self, path: Path, made_by: Mapping[str, str], resume: bool) -> None:
        self.rows: dict[tuple[str, str, Setting], Row] = {}
        if path.exists():
            if not resume:
                raise InvalidInput(str(path), "exists", "use --resume to go on with it, or -f")
            self._read(path, made_by)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._write({"made_by": made_by})

    def _read(self, path: Path, made_by: Mapping[str, str]) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        try:
            for row in map(json.loads, whole):
                if "made_by" not in row:
                    self.rows[_key(row)] = row
                    continue
                for name, version in row["made_by"].items():
                    if made_by.get(name, version) != version:
                        raise InvalidInput(str(path), f"was made with {name} {version}, here is "
                                           f"{made_by[name]}", "use -f to begin anew")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(str(path), f"is no journal of measurements ({error!r})",
                               "use another name, or -f to overwrite it") from error
        if len(whole) < len(lines):  # the last line was being written when the run ended
            path.write_text("".join(whole), encoding="utf-8")

    def has(self, task: Task) -> bool:
        """Whether the outcome of ``task`` is there, whole and without error."""
        row = self.rows.get(task.key, {"error": "not measured"})
        return ("error" not in row and all(name in row for name in task.metrics)
                and ("crop" in row or not task.keep))

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows[_key(row)] = row
        self._write(row)

    def _write(self, row: Row) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _key(row: Row) -> tuple[str, str, Setting]:
    return row["image"], row["codec"], row["setting"]


# ── what follows from the rows ────────────────────────────────────────────────────────────────

FIGURES = ("ideal_bits", "payload_bytes", "file_bytes", "bpp", "encode_seconds", "decode_seconds")


def averages(rows: Iterable[Row], metrics: Sequence[str]) -> list[Row]:
    """The mean of every figure for each codec and setting, over the pictures.

    Settings that failed for some picture are left out: their mean would be of other pictures.
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
        if len(group) < len(images):
            continue
        mean = {name: None if any(row.get(name) is None for row in group)
                else float(np.mean([row[name] for row in group])) for name in (*FIGURES, *metrics)}
        out.append({"codec": codec, "setting": setting, "images": len(group), **mean})
    return out


def family(row: Row) -> str:
    """The codec of a row, whatever its scaling."""
    return str(row["codec"]).partition("/")[0]


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


def bd_rate(anchor: Sequence[Row], test: Sequence[Row], metric: str, higher: bool) -> float | None:
    """Bjøntegaard's rate difference in percent (VCEG-M33, Akima interpolation).

    None if a curve has fewer than four points or the two share less than a tenth of their range.
    """
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

    That is the point of its front with the lowest rate that is not below ``bpp``, so that the rate
    never speaks for us; the highest rate where all are below.
    """
    chosen = []
    for _, rows in families(means, metric, higher):
        enough = [row for row in rows if row["bpp"] >= bpp * (1 - 1e-9)]
        chosen.append(enough[0] if enough else rows[-1])
    return chosen
