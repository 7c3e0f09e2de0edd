"""How work tells how far it is, and how it learns that nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_busy = threading.Semaphore((os.cpu_count() or 1) + 4)

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
        threads: whose thread; the call then ends, also when it is cancelled, no sooner than the
            work, so that as many threads are taken as there are calls. None starts one, of which a
            few work at a time. (Those of an event loop take no work any more when the main thread
            has ended, though others live on.)
        work: a function.
        args, kwargs: its other arguments.
    """
    stop = threading.Event()

    def watch(done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped

    call = partial(contextvars.copy_context().run, work, watch, *args, **kwargs)
    working = (asyncio.wrap_future(_started(call)) if threads is None else
               asyncio.get_running_loop().run_in_executor(threads, call))
    try:
        return await (working if threads is None else asyncio.shield(working))
    finally:
        stop.set()
        if threads is not None:
            await _ended(working)


async def _ended(working: asyncio.Future[Any]) -> None:
    """Wait for it, whatever it comes to, and however often somebody says not to."""
    while not working.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((working,))
    if not working.cancelled():
        working.exception()  # is known


def _started(call: Callable[[], T]) -> Future[T]:
    """What ``call`` comes to, in a thread of its own."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on nobody but the thread ends it

    def run() -> None:
        try:
            with _busy:
                result = call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name="unimic-work").start()
    return outcome
