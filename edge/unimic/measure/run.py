"""Every picture through every codec at every setting, in parallel.

One measurement is one picture, one codec, one setting; its outcome is one row. Whatever a codec or
a picture does wrong becomes such a row too, and the rest goes on.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from numbers import Integral
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.edge.images import load_image
from unimic.measure import codecs
from unimic.measure.codecs import ANY, ORIGINAL, Encoded, Setting, Variant
from unimic.measure.metrics import Judge, features

CROP = 256  # pixels on each side of the part that is kept to be looked at
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        image: a file.
        codec: name of a variant, or `ORIGINAL`.
        setting: of its codec.
        metrics: names.
        fast: whether networks may compute in bfloat16.
        keep: whether a crop of what was decoded and, where there are any, the bits of each token
            are kept for a report.
        content: of the file, by `content`.
    """

    image: Path
    codec: str
    setting: Setting
    metrics: tuple[str, ...]
    fast: bool
    keep: bool
    content: str = ""

    @property
    def key(self) -> tuple[str, str, Setting]:
        """What tells measurements of one journal apart."""
        return str(self.image), self.codec, self.setting

    @property
    def row(self) -> Row:
        """The fields that all rows begin with."""
        return {"image": str(self.image), "content": self.content, "codec": self.codec,
                "setting": self.setting}


def content(data: bytes) -> str:
    """What tells the contents of files apart, 16 characters."""
    return hashlib.sha256(data).hexdigest()[:16]


def family(row: Row) -> str:
    """The codec of a row, whatever its scaling."""
    return str(row["codec"]).partition("/")[0]


def measure(task: Task) -> Row:
    """Do one measurement; see docs/measure.md for the fields. Errors become the field ``error``.

    A metric of sets has its `Features` as its field.
    """
    try:
        return task.row | _measure(task)
    except (Exception, SystemExit) as error:  # a codec may raise anything, and may want to exit
        return task.row | {"error": codecs.reason(error)}


def _measure(task: Task) -> Row:
    original, judge = _original(task.image, task.metrics, task.fast)
    if task.codec == ORIGINAL:
        return features(original, task.metrics)
    variant = _variant(task.codec)
    began = perf_counter()
    coded = variant.encode(original, task.setting)
    encoded = perf_counter()
    _check(coded)
    decoded = variant.decode(coded.data, original.size)
    ended = perf_counter()
    pixels = original.width * original.height
    row: Row = {
        "width": original.width, "height": original.height,
        "ideal_bits": coded.ideal_bits, "payload_bytes": coded.payload_bytes,
        "file_bytes": len(coded.data), "bpp": 8 * len(coded.data) / pixels,
        "encode_seconds": round(encoded - began, 4), "decode_seconds": round(ended - encoded, 4),
        **judge(decoded), **features(decoded, task.metrics),
    }
    if coded.parts:
        row["parts"] = {name: round(bits, 2) for name, bits in coded.parts.items()}
    if task.keep:
        row["crop"] = webp_base64(middle(decoded))
        if coded.token_bits is not None:
            row["token_bits"] = np.round(coded.token_bits, 1).tolist()
    return row


def _check(coded: Encoded) -> None:
    """Refuse figures that are none, of a codec that counts wrongly."""
    bits, size = coded.ideal_bits, coded.payload_bytes
    if bits is not None and not 0 <= bits < math.inf:
        raise InvalidInput("ideal_bits", f"{bits}", "give a finite number from 0 up, or None")
    if size is not None and not (isinstance(size, Integral) and int(size) >= 0):
        raise InvalidInput("payload_bytes", f"{size!r}", "give a whole number from 0 up, or None")
    for name, figures in ("parts", [*coded.parts.values()]), ("token_bits", coded.token_bits):
        if figures is not None and not np.isfinite(figures).all():
            raise InvalidInput(name, "not all are finite", "give finite numbers, or leave it out")


def unreadable(path: Path) -> Row | None:
    """A row that says why a picture cannot be measured at all; None if it can."""
    try:
        load_image(path)
    except UnimicError as error:
        return {"image": str(path), "codec": ANY, "setting": "", "error": str(error)}
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
def _original(path: Path, metrics: tuple[str, ...], fast: bool) -> tuple[Image.Image, Judge]:
    image = load_image(path)
    return image, Judge(image, metrics, fast)


# ── many of them ──────────────────────────────────────────────────────────────────────────────


def measure_all(tasks: Sequence[Task], jobs: int, done: Callable[[Row], None]) -> None:
    """Do all measurements in ``jobs`` processes; ``done`` gets each row as it comes.

    Of the measurements that were under way when a process died, each is done once more by itself.
    An exception, as an interrupt is, ends the processes, whatever they are doing.
    """
    left = deque(tasks)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes: each keeps to one core
    while True:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _leave_be) as pool:
            running: dict[Future[Row], Task] = {}
            try:
                while left:
                    with _interrupts_later():  # submitting may start a process
                        future = pool.submit(measure, left[0])
                    running[future] = left.popleft()
                    if len(running) >= jobs:
                        _collect(running, done)
                while running:
                    _collect(running, done)
                return
            except BrokenProcessPool:
                wait(running)  # those that ended well, too, may not have been collected
                for future, task in running.items():
                    if not future.exception():
                        done(future.result())
                    elif len(running) == 1:
                        done(task.row | {"error": "its process died (out of memory?)"})
                    else:  # it may be another one's fault
                        measure_all([task], 1, done)
            except BaseException:
                for process in list(pool._processes.values()):  # a codec may hang
                    process.kill()
                raise


def _collect(running: dict[Future[Row], Task], done: Callable[[Row], None]) -> None:
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        row = future.result()
        del running[future]
        done(row)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Processes that begin meanwhile get no interrupts, so before `_leave_be`, too."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_be() -> None:
    """An interrupt is for the process that started the others; if that is killed, so are they."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)  # from a thread; nobody is there to read what is under way
