"""The client for ordinary programs, as far as it needs no service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from unimic import edge
from unimic.edge import client


def test_many_threads_make_the_first_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    new_event_loop = asyncio.new_event_loop

    def slowly() -> asyncio.AbstractEventLoop:
        time.sleep(0.05)
        return new_event_loop()

    monkeypatch.setattr(client, "_loops", [])
    monkeypatch.setattr(asyncio, "new_event_loop", slowly)
    with ThreadPoolExecutor(8) as threads:
        loops = {loop.result() for loop in [threads.submit(client._background) for _ in range(8)]}
    assert len(loops) == 1
    loop, = loops
    loop.call_soon_threadsafe(loop.stop)


def test_help_shows_the_public_names() -> None:
    assert dir(edge) == sorted(edge.__all__)
    shown = subprocess.run([sys.executable, "-c", "import unimic.edge; help(unimic.edge)"],
                           capture_output=True, text=True, check=True).stdout
    assert "class AsyncClient" in shown
    assert "encode_image(" in shown
