"""Work in a thread that ends with the call that waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from unimic.codec.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")


class _Stopped(Exception):
    """Nobody waits for the work any more."""


async def run_watched(work: Callable[Concatenate[Progress, P], T], *args: P.args,
                      **kwargs: P.kwargs) -> T:
    """Run ``work(watch, ...)`` in a thread; cancel the call to stop it, where it calls ``watch``.

    Cancelling alone would leave the thread at work, and the program could not end before it.
    """
    stop = threading.Event()

    def watch(done: int, total: int) -> None:
        if stop.is_set():
            raise _Stopped

    try:
        return await asyncio.to_thread(work, watch, *args, **kwargs)
    finally:
        stop.set()
