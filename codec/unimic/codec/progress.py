"""How work tells how far it is, and how it learns that nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called as ``progress(done, all)``; what it raises ends the work."""


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


class Stopped(Exception):
    """Nobody waits for the work any more."""


async def run_watched(threads: Executor | None, work: Callable[Concatenate[Progress, P], T],
                      *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work(watch, ...)`` in a thread; cancel the call to stop it, where it calls ``watch``.

    Cancelling alone would leave the thread at work, and the program could not end before it.

    Args:
        threads: whose thread; None takes one of the event loop's own.
        work: a function.
        args, kwargs: its other arguments.
    """
    stop = threading.Event()

    def watch(done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped

    call = partial(contextvars.copy_context().run, work, watch, *args, **kwargs)
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, call)
    finally:
        stop.set()
