"""Work in threads ends with the calls that wait for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from unimic.codec.errors import LimitExceeded
from unimic.codec.progress import Progress, run_to_end, run_watched


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

    call = asyncio.create_task(run_watched(work))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(ended.wait, 30)


async def test_a_call_may_end_no_sooner_than_its_thread() -> None:
    """However often it is cancelled: else there would be more threads than calls."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work(watch: Progress) -> None:
        begun.set()
        go_on.wait(30)
        try:
            watch(0, 1)
        finally:
            ended.set()

    call = asyncio.create_task(run_to_end(work))
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0.01)
        assert not call.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_work_may_wait_for_other_work_however_much_there_is() -> None:
    all_here = threading.Barrier(100)

    def work(watch: Progress) -> None:
        all_here.wait(30)

    await asyncio.gather(*(run_to_end(work) for _ in range(100)))


@pytest.mark.parametrize("run", [run_watched, run_to_end])
async def test_no_more_threads(run: Callable[..., Coroutine[Any, Any, int]],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(LimitExceeded, match="threads: the system starts no more"):
        await run(lambda watch: 42)


async def test_work_that_is_waited_for_is_done() -> None:
    def work(watch: Progress, number: int, *, factor: int) -> int:
        watch(0, 1)
        return number * factor

    assert await run_watched(work, 6, factor=7) == 42


def test_work_of_a_daemon_is_no_daemon() -> None:
    """Python would end amid it."""
    kinds: list[bool] = []

    def work(watch: Progress) -> None:
        kinds.append(threading.current_thread().daemon)

    def loop() -> None:
        asyncio.run(run_watched(work))
        asyncio.run(run_to_end(work))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    thread.join(30)
    assert kinds == [False, False]


def test_work_begins_after_the_main_thread_has_ended() -> None:
    script = (
        "import asyncio, threading\n"
        "from unimic.codec.progress import run_watched\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    print(asyncio.run(run_watched(lambda watch: 'done')))\n"
        "threading.Thread(target=late).start()\n")
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("done\n", "")


async def test_work_whose_turn_comes_too_late_does_not_begin() -> None:
    begun, go_on = [], threading.Event()

    def work(watch: Progress) -> None:
        begun.append(threading.current_thread())
        go_on.wait(30)

    before = set(threading.enumerate())
    calls = [asyncio.create_task(run_watched(work)) for _ in range(100)]
    while not begun:
        await asyncio.sleep(0.01)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    at_work = len(begun)
    go_on.set()
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 30)
    assert len(begun) == at_work < 100
