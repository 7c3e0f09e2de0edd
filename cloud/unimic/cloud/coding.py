"""Entropy coding for sessions: together where they can, and only as long as somebody waits."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from unimic.cloud.backends.base import Cancelled
from unimic.codec.coder import Coder
from unimic.codec.lockstep import Job, advance
from unimic.codec.networks import ImageNetwork

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
            network = live[0][0]  # jobs of another one wait until this one's are done
            jobs = [job for own, job, _ in live if own is network]
            try:
                advance(network, jobs)
            except Exception as error:  # a network that fails, fails for all of them
                for job in jobs:
                    job.fail(error)
            for _, job, done in live:
                if job.done:
                    done.set()
            live = [entry for entry in live if not entry[1].done]


async def run_coding(threads: Executor, coder: Coder, work: Callable[[Coder], T]) -> T:
    """Run ``work`` in a thread; cancel the call to stop it, at its next window.

    A large photo is many windows of work.
    """
    stop = threading.Event()

    def check(done: int, total: int) -> None:
        if stop.is_set():
            raise Cancelled

    try:
        return await asyncio.get_running_loop().run_in_executor(
            threads, work, coder.watched(check))
    except asyncio.CancelledError:
        stop.set()
        raise
