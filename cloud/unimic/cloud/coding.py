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
    have the next turn. In every second turn who comes is first, so large photos hold up nobody for
    longer than two batches, and who keeps coming does not hold up them. Jobs that nobody waits for
    any more end before the next turn. To be used as the ``drive`` of a `Coder`.
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
        in_front = False
        while True:
            new: list[_Call] = []
            while not (live or new) or not self._arrivals.empty():
                new.append(self._arrivals.get())
            in_front = not in_front
            live = [*reversed(new), *live] if in_front else [*live, *new]
            for call in live:
                call.job.heed()
            live = _going_on(live)
            if not live:
                continue
            turn = _turn(live)
            try:
                advance(turn[0].network, [call.job for call in turn])
            except Exception as error:  # a network that fails, fails for all of them
                for call in turn:
                    call.job.fail(error)
            live = _going_on([*(call for call in live if call not in turn), *turn])


def _going_on(calls: Sequence[_Call]) -> list[_Call]:
    """Those whose jobs are not done; the others are told."""
    for call in calls:
        if call.job.done:
            call.done.set()
    return [call for call in calls if not call.job.done]


def _turn(live: Sequence[_Call]) -> list[_Call]:
    """The first call, and those after it that fit into one batch with it."""
    chosen, windows = [live[0]], live[0].job.width
    for call in live[1:]:
        if call.network is live[0].network and windows + call.job.width <= MOST_TOGETHER:
            chosen.append(call)
            windows += call.job.width
    return chosen
