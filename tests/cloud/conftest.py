"""Servers of fake models, in this process and in one of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_backend import fake_models, fake_server

from unimic.edge import AsyncClient


@asynccontextmanager
async def served(**options) -> AsyncIterator[str]:
    """A server on this event loop; its address."""
    server = fake_server(**options)
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(grace=0)


@asynccontextmanager
async def session(**options) -> AsyncIterator[AsyncClient]:
    """A server on this event loop and a client of it."""
    async with served(**options) as address, AsyncClient(address, models=fake_models()) as client:
        yield client


@pytest.fixture
def serve():
    return served


@pytest.fixture
def connect():
    return session


Started = tuple[str, subprocess.Popen[str]]


@pytest.fixture
def server_process() -> Callable[..., AbstractContextManager[Started]]:
    """Starts a server process: ``with server_process("--step-seconds", "1") as (address, it)``."""

    @contextmanager
    def start(*arguments: str) -> Iterator[Started]:
        with subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "fake_backend.py"), *arguments],
                stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                line = process.stdout.readline()
                assert line.startswith("listening on "), line
                yield line.removeprefix("listening on ").strip(), process
            finally:
                process.kill()

    return start
