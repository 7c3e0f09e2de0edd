"""Work in threads ends with the calls that wait for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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


async def test_a_call_ends_no_sooner_than_its_thread_of_a_pool() -> None:
    """However often it is cancelled: else there would be more threads than calls."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work(watch: Progress) -> None:
        begun.set()
        go_on.wait(30)
        try:
            watch(0, 1)
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as threads:
        call = asyncio.create_task(run_watched(threads, work))
        await asyncio.to_thread(begun.wait, 30)
        for _ in range(3):
            call.cancel()
            await asyncio.sleep(0.01)
            assert not call.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended.is_set()


async def test_work_that_is_waited_for_is_done() -> None:
    def work(watch: Progress, number: int, *, factor: int) -> int:
        watch(0, 1)
        return number * factor

    assert await run_watched(None, work, 6, factor=7) == 42


def test_work_begins_after_the_main_thread_has_ended() -> None:
    script = (
        "import asyncio, threading\n"
        "from unimic.codec.progress import run_watched\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    print(asyncio.run(run_watched(None, lambda watch: 'done')))\n"
        "threading.Thread(target=late).start()\n")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("done\n", "")
