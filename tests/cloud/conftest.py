"""Servers of fake models, in this process and in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from fake_backend import fake_models, fake_server
from PIL import Image

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


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A folder with as little as the trainings need of every set that they read."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, gradient in ("photo", Image.linear_gradient), ("other", Image.radial_gradient):
        gradient("L").resize((224, 224)).convert("RGB").save(folder / f"{name}.png")
    shards = {"flickr8k-00": ["a", "b", "c"], "daquar-00": ["d", "e"], "kodak": ["f"],
              **{f"{name}-00": [name] for name in ("imagenette", "photos", "imagenet-sample",
                                                   "bsds500")}}
    for shard, names in shards.items():
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for name in names:
                tar.add(folder / f"{'other' if shard.startswith(name) else 'photo'}.png",
                        f"{name}.png")
    (folder / "flickr8k-captions.jsonl").write_text("".join(
        json.dumps({"image": name, "split": split, "captions": ["a photo"]}) + "\n"
        for name, split in zip("abc", ("train", "dev", "test"), strict=True)))
    for split, name in (("train", "d"), ("eval", "e")):
        (folder / f"daquar-{split}.csv").write_text(
            f"question,answer,image_id\nwhat is this ?,chair,{name}\n")
    return folder
