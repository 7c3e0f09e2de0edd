"""The main job with real parts: shipped models, ``unimic serve`` in its own process, the SDK."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
from PIL import Image

from unimic.edge import AsyncClient, Client, Models

PROMPT = "ein roter Ball 🎈"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not entry_points(group="unimic.backends", name="compact"):
        pytest.skip("the distribution is not installed, so there are no entry points")
    with subprocess.Popen([sys.executable, "-m", "unimic.edge.cli", "serve", "--port", "0"],
                          stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        line = server.stdout.readline()
        assert line.startswith("listening on ")
        yield line.removeprefix("listening on ").strip()
        for _ in range(3):  # also while the interpreter is ending
            server.terminate()
            time.sleep(0.2)
        assert server.wait(30) == 0


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load()


def photo(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 3 % 256, y * 2 % 256, (x + y) % 256], -1).astype(np.uint8))


def test_a_session(address: str, models: Models) -> None:
    steps: list[tuple[int, int]] = []
    with Client(address, models=models, timeout=120) as cloud:
        original = photo(100, 70)
        shared = cloud.share(original)
        assert shared.stats.up.payload_bytes <= 5 * 7 * 13 / 8 + 1

        answer = cloud.ask(shared, "what is it?")
        assert answer.text
        assert 0 <= answer.confidence <= 1
        assert cloud.caption(shared).text

        edited = cloud.inpaint(shared, (30, 20, 60, 50), PROMPT, seed=3, steps=4,
                               on_progress=lambda *step: steps.append(step))
        assert steps[-1] == (4, 4)
        kept = np.ones((70, 100), bool)
        kept[20:50, 30:60] = False
        assert (np.asarray(edited.image)[kept] == np.asarray(original)[kept]).all()
        assert edited.stats.up.payload_bytes < shared.stats.up.payload_bytes

        wide = cloud.outpaint(edited, left=20, bottom=33, seed=3, steps=4)
        assert wide.image.size == (120, 103)
        assert (np.asarray(wide.image)[:70, 20:] == np.asarray(edited.image)).all()

        again = cloud.inpaint(wide, (0, 0, 30, 30), "", seed=3, steps=4)
        assert (np.asarray(again.image)[30:] == np.asarray(wide.image)[30:]).all()

        fresh = cloud.generate(PROMPT, 64, 48, seed=7, steps=4)
        assert fresh.image.size == (64, 48)
        assert fresh.stats.down.ideal_bits > 0
        assert (cloud.generate(PROMPT, 64, 48, seed=7, steps=4).grid.codes
                == fresh.grid.codes).all()


@pytest.mark.parametrize("how", [{}, {"quality": 70}, {"budget": 60}])
def test_nothing_depends_on_what_the_hole_hides(
        address: str, models: Models, how: dict[str, int]) -> None:
    """Though the tokenizer sees some tokens around each, and the client has the pixels."""
    box = (48, 32, 80, 80)
    with Client(address, models=models, timeout=120) as cloud:
        sent, made = [], []
        for colour in ("red", "white"):
            picture = photo(140, 120)
            picture.paste(colour, box)
            shared = cloud.share(picture, hole=box, **how)
            assert shared.image.getpixel((60, 60)) == picture.getpixel((60, 60))
            sent.append((shared.grid.codes, shared.grid.size, shared.stats.up))
            made.append(np.asarray(cloud.inpaint(shared, box, seed=1).image.crop(box)))
        (one, size, up), (other, *same) = sent
        assert (one == other).all()
        assert same == [size, up]
        assert len(np.unique(one)) > 10
        assert (made[0] == made[1]).all()


async def test_many_sessions_get_what_one_gets_alone(address: str, models: Models) -> None:
    async def work(number: int) -> list[np.ndarray]:
        async with AsyncClient(address, models=models, timeout=120) as cloud:
            shared = await cloud.share(photo(48, 32 + 16 * (number % 2)))
            edited = await cloud.inpaint(shared, (0, 0, 20, 20), PROMPT, seed=number, steps=3)
            fresh = await cloud.generate(str(number), 32, 32, seed=number, steps=3)
            return [edited.grid.codes, fresh.grid.codes]

    together = await asyncio.gather(*(work(number) for number in range(1, 6)))
    for number, results in enumerate(together, start=1):
        for one, alone in zip(results, await work(number), strict=True):
            assert (one == alone).all()


def test_without_common_entropy_models(address: str, models: Models) -> None:
    from unimic.codec.coder import Coder
    bare = replace(models, coder=Coder(models.coder.space, None, None))
    with Client(address, models=bare, timeout=120) as cloud:
        shared = cloud.share(photo(40, 40))
        assert shared.stats.up.payload_bytes == -(-9 * 13 // 8)
        edited = cloud.inpaint(shared, (0, 0, 8, 8), PROMPT, steps=2)
        assert (edited.grid.codes.reshape(-1)[1:] == shared.grid.codes.reshape(-1)[1:]).all()
        assert cloud.ask(edited, "what is it?").text


WITH_A_SERVICE = """
import argparse, sys, time
from unimic.edge import cli, demo

def run(args):
    with demo.service(None) as address:
        print(address, flush=True)
        time.sleep(100)

parser = argparse.ArgumentParser()
parser.set_defaults(run=run)
cli.build_parser = lambda argv: parser
sys.exit(cli.main([]))
"""


def test_a_terminated_command_ends_its_service(address: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WITH_A_SERVICE], stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout
        host, port = process.stdout.readline().strip().rsplit(":", 1)
        socket.create_connection((host, int(port))).close()
        process.terminate()
        assert process.wait(60) == 143
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
