"""Entropy coding of the images of all sessions together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import NamedTuple

from unimic.codec.lockstep import Job, advance
from unimic.codec.networks import ImageNetwork

MOST_TOGETHER = 64
"""Windows coded in one batch: more would not be faster for each, and the others would wait."""


class _Call(NamedTuple):
    """A job, and the thread that waits for it."""

    network: ImageNetwork
    job: Job
    done: threading.Event


class Together:
    """Drives the image jobs of all sessions in one thread, in batches.

    A batch is a wave of each of some jobs, of as many as `MOST_TOGETHER` windows allow; the others
    have the next turn. Who comes is first, so large photos hold up nobody for longer than a batch.
    To be used as the ``drive`` of a `Coder`.
    """

    def __init__(self) -> None:
        self._arrivals: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="coding-together")
        self._thread.start()

    def __call__(self, network: ImageNetwork, job: Job) -> None:
        call = _Call(network, job, threading.Event())
        self._arrivals.put(call)
        call.done.wait()

    def _work(self) -> None:
        live: list[_Call] = []
        while True:
            while not live or not self._arrivals.empty():
                live.insert(0, self._arrivals.get())
            turn = _turn(live)
            try:
                advance(turn[0].network, [call.job for call in turn])
            except Exception as error:  # a network that fails, fails for all of them
                for call in turn:
                    call.job.fail(error)
            live = [call for call in live if call not in turn]
            for call in turn:
                if call.job.done:
                    call.done.set()
                else:
                    live.append(call)


def _turn(live: Sequence[_Call]) -> list[_Call]:
    """The first call, and those after it that fit into one batch with it."""
    chosen, windows = [live[0]], live[0].job.width
    for call in live[1:]:
        if call.network is live[0].network and windows + call.job.width <= MOST_TOGETHER:
            chosen.append(call)
            windows += call.job.width
    return chosen
