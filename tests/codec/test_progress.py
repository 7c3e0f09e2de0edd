"""Work in threads ends with the calls that wait for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from unimic.codec.progress import Progress, run_watched


async def test_work_that_nobody_waits_for_ends() -> None:
    begun, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(watch: Progress) -> None:
        try:
            while True:
                watch(0, 1)
                loop.call_soon_threadsafe(begun.set)
        finally:
            ended.set()

    call = asyncio.create_task(run_watched(None, work))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(ended.wait, 30)


async def test_work_that_is_waited_for_is_done() -> None:
    def work(watch: Progress, number: int, *, factor: int) -> int:
        watch(0, 1)
        return number * factor

    assert await run_watched(None, work, 6, factor=7) == 42
