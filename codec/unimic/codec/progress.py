"""How work tells how far it is, and how it learns that nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from unimic.codec.errors import LimitExceeded

P = ParamSpec("P")
T = TypeVar("T")

_busy = threading.Semaphore((os.cpu_count() or 1) + 4)

Progress = Callable[[int, int], None]
"""Called as ``progress(done, all)``; what it raises ends the work."""


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


class Stopped(Exception):
    """Nobody waits for the work any more."""


async def run_watched(work: Callable[Concatenate[Progress, P], T],
                      *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work(watch, ...)`` in a thread; cancel the call to stop it, where it calls ``watch``.

    Cancelling alone would leave the thread at work, and the program could not end before it. Each
    call has a thread; a few of them work at a time, the others wait for their turn. (The threads of
    an event loop take no work any more when the main thread has ended, though others live on.)

    Args:
        work: a function.
        args, kwargs: its other arguments.

    Raises:
        LimitExceeded: the system starts no more threads.
    """
    stop, call = _stoppable(work, *args, **kwargs)
    try:
        return await asyncio.wrap_future(_started(call, _busy))
    finally:
        stop.set()


async def run_to_end(work: Callable[Concatenate[Progress, P], T],
                     *args: P.args, **kwargs: P.kwargs) -> T:
    """As `run_watched`, but the call ends, also when it is cancelled, no sooner than the work.

    So there are as many threads as calls. All of them work at a time, since some of the work is to
    wait for other work.
    """
    stop, call = _stoppable(work, *args, **kwargs)
    working = asyncio.wrap_future(_started(call, contextlib.nullcontext()))
    try:
        return await asyncio.shield(working)
    finally:
        stop.set()
        await _ended(working)


def _stoppable(work: Callable[Concatenate[Progress, P], T],
               *args: P.args, **kwargs: P.kwargs) -> tuple[threading.Event, Callable[[], T]]:
    """An event, and a call of ``work`` that ends where it calls ``watch`` once that is set, or does
    not begin."""
    stop = threading.Event()

    def watch(done: int, total: int) -> None:
        if stop.is_set():
            raise Stopped

    def call() -> T:
        watch(0, 0)  # its turn may have come too late
        return work(watch, *args, **kwargs)

    return stop, partial(contextvars.copy_context().run, call)


async def _ended(working: asyncio.Future[Any]) -> None:
    """Wait for it, whatever it comes to, and however often somebody says not to."""
    while not working.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((working,))
    if not working.cancelled():
        working.exception()  # is known


def _started(call: Callable[[], T], turn: AbstractContextManager[object]) -> Future[T]:
    """What ``call`` comes to, in ``turn``, in a thread of its own."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on nobody but the thread ends it

    def run() -> None:
        try:
            with turn:
                result = call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    try:
        # No daemon, though that of an event loop may be one: an interpreter that ends would stop
        # it amid foreign code, which ends the process with an abort.
        threading.Thread(target=run, name="unimic-work", daemon=False).start()
    except RuntimeError as error:
        raise LimitExceeded("threads", "the system starts no more of them",
                            "try again later, or allow the process more") from error
    return outcome
