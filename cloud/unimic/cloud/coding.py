"""Entropy coding for sessions: together where they can, and only as long as somebody waits."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from unimic.cloud.backends.base import Cancelled
from unimic.codec.coder import Coded, CodedImage, Coder
from unimic.codec.lockstep import Job, advance
from unimic.codec.networks import ImageNetwork
from unimic.codec.tokens import Codes, Distances, Mask

T = TypeVar("T")

MOST_TOGETHER = 64
"""Images coded in one batch, and so the threads that may wait for it."""


class Together:
    """Drives the image jobs of all sessions in one thread, one batch a wave.

    A job that arrives joins at the next wave, so a large photo holds up nobody for longer than
    one wave. To be used as the ``drive`` of a `Coder`.
    """

    def __init__(self) -> None:
        self._arrivals: queue.SimpleQueue[tuple[ImageNetwork, Job, threading.Event]]
        self._arrivals = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="coding-together")
        self._thread.start()

    def __call__(self, network: ImageNetwork, job: Job) -> None:
        done = threading.Event()
        self._arrivals.put((network, job, done))
        done.wait()

    def _work(self) -> None:
        live: list[tuple[ImageNetwork, Job, threading.Event]] = []
        while True:
            while not live or not self._arrivals.empty():
                live.append(self._arrivals.get())
            jobs = [job for _, job, _ in live]
            try:
                advance(live[0][0], jobs)
            except Exception as error:  # a network that fails, fails for all of them
                for job in jobs:
                    job.fail(error)
            for _, job, done in live:
                if job.done:
                    done.set()
            live = [entry for entry in live if not entry[1].done]


class StoppableCoder:
    """A coder, as packets need it, that raises `Cancelled` at its next window once ``stop`` is set.

    A large photo is many windows of work.
    """

    def __init__(self, coder: Coder, stop: threading.Event) -> None:
        self.space = coder.space
        self.image_model = coder.image_model
        self.text_model = coder.text_model
        self._coder = coder
        self._stop = stop

    def encode_image(self, codes: Codes, *, mask: Mask | None = None, hole: Mask | None = None,
                     prompt: Codes | None = None, skip: int = 0,
                     distances: Distances | None = None, price: float = 0.0) -> CodedImage:
        """See `Coder`, here and below."""
        return self._coder.encode_image(codes, mask=mask, hole=hole, prompt=prompt, skip=skip,
                                        distances=distances, price=price, watch=self._watch)

    def decode_image(self, payload: bytes, codes: Codes, *, mask: Mask | None = None,
                     hole: Mask | None = None, prompt: Codes | None = None, skip: int = 0,
                     ) -> Codes:
        return self._coder.decode_image(payload, codes, mask=mask, hole=hole, prompt=prompt,
                                        skip=skip, watch=self._watch)

    def encode_text(self, ids: Codes) -> Coded:
        return self._coder.encode_text(ids, watch=self._watch)

    def decode_text(self, payload: bytes, count: int) -> Codes:
        return self._coder.decode_text(payload, count, watch=self._watch)

    def _watch(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Cancelled


async def run_coding(threads: Executor, coder: Coder, work: Callable[[StoppableCoder], T]) -> T:
    """Run ``work`` in a thread; cancel the call to stop it."""
    stop = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(
            threads, work, StoppableCoder(coder, stop))
    except asyncio.CancelledError:
        stop.set()
        raise
