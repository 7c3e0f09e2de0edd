"""``unimic serve``: its options."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_backend import EchoBackend, FakeCoder, FakeText, fake_models, reply

from unimic.cloud import cli
from unimic.cloud.backends.base import backend_names, load_backend
from unimic.codec.errors import InvalidInput, LimitExceeded, UnknownModel
from unimic.codec.limits import Limits
from unimic.codec.store import ModelStore
from unimic.codec.tokens import TokenGrid, TokenSpace
from unimic.edge import AsyncClient


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_serve(parser.add_subparsers())
    return parser.parse_args(["serve", *arguments])


@pytest.mark.parametrize(("arguments", "field"), [
    (("--port", "65536"), "--port"), (("--port", "-1"), "--port"),
    (("--metrics-port", "65536"), "--metrics-port"), (("--metrics-port", "0"), "--metrics-port"),
    (("--metrics-port", "50051"), "--metrics-port"),
    (("--workers", "0"), "--workers"), (("--sessions", "0"), "--sessions"),
    (("--grace", "-1"), "--grace"),
    (("--grace", "nan"), "--grace"), (("--device", "bogus"), "--device"),
    (("--device", "cuda:99"), "--device"), (("--device", "meta"), "--device"),
    (("--device", "hpu"), "--device"), (("--tls-cert", "a"), "--tls-cert"),
    (("--tls-key", "a"), "--tls-cert"), (("--tls-client-ca", "a"), "--tls-cert"),
    (("--limit", "max_objects"), "--limit"), (("--limit", "max_objects=0"), "--limit"),
    (("--limit", "objects=3"), "--limit"), (("--limit", "max_objects=" + 5000 * "1"), "--limit")])
def test_wrong_options(arguments, field):
    options = parse(*arguments)
    with pytest.raises(InvalidInput) as caught:
        options.run(options)
    assert caught.value.field == field


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs")
    script = Path(__file__).parent.parent.parent / "deploy" / "make-dev-certs.sh"
    subprocess.run([script, folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(("files", "field"), [
    (("gone.pem", "server.key", None), "--tls-cert"),
    (("server.pem", "gone.key", None), "--tls-key"),
    (("garbage.pem", "server.key", None), "--tls-cert"),
    (("server.pem", "client.key", None), "--tls-cert"),
    (("server.pem", "server.key", "garbage.pem"), "--tls-client-ca"),
    (("server.pem", "server.key", "empty.pem"), "--tls-client-ca")])
def test_wrong_tls_files(certificates, files, field):
    from unimic.cloud.server import ServerTls
    (certificates / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    (certificates / "empty.pem").touch()
    with pytest.raises(InvalidInput) as caught:
        ServerTls(*(name and certificates / name for name in files)).credentials()
    assert caught.value.field == field


def test_nobody_is_asked_for_a_password(certificates, capfd):
    """An encrypted key is refused: a service would wait at a prompt that nobody sees."""
    from unimic.cloud.server import ServerTls
    locked = certificates / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", certificates / "server.key", "-aes256", "-passout",
                    "pass:secret", "-out", locked], check=True, capture_output=True)
    with pytest.raises(InvalidInput, match="not encrypted"):
        ServerTls(certificates / "server.pem", locked).credentials()
    assert "pass phrase" not in capfd.readouterr().err


def test_limits():
    assert cli._limits([]) == Limits()
    changed = cli._limits(["max_objects=3", "max_tokens=7", "max_objects=4"])
    assert changed == Limits(max_objects=4, max_tokens=7)


def test_a_backend_that_goes_on_is_left():
    script = """
import time
from concurrent.futures import ThreadPoolExecutor
from unimic.cloud import cli
from unimic.cloud.batching import THREADS
pool = ThreadPoolExecutor(1, thread_name_prefix=THREADS)
pool.submit(time.sleep, 100)
pool.shutdown(wait=False)
cli._leave_the_backend()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert ended.returncode == 0
    assert b"its process is ended" in ended.stderr


def test_an_unknown_backend(monkeypatch):
    store = object.__new__(ModelStore)
    with pytest.raises(UnknownModel, match="installed are"):
        load_backend("nonesuch", store, "cpu")
    assert "nonesuch" not in backend_names()


@pytest.mark.parametrize("space", [
    TokenSpace(b"other---"), replace(EchoBackend.space, image_codes=100)])
async def test_models_of_another_space_are_refused(space):
    from unimic.cloud.server import Server, ServerOptions
    coder = FakeCoder()
    coder.space = space
    with pytest.raises(UnknownModel, match="token space"):
        Server(EchoBackend(), coder, FakeText(), Limits(), ServerOptions())


async def test_a_client_keeps_to_the_servers_limits(serve):
    from PIL import Image
    limits = Limits(max_message_bytes=2000, max_tokens=100, max_text_tokens=50)
    async with serve(limits=limits) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        with pytest.raises(LimitExceeded, match="110 tokens"):
            await cloud.share(Image.new("RGB", (160, 176)))
        photo = await cloud.share(Image.new("RGB", (160, 160)))
        with pytest.raises(LimitExceeded, match="question"):
            await cloud.ask(photo, "?" * 51)
        with pytest.raises(LimitExceeded, match="width"):
            await cloud.generate("", 16 * 32, 16 * 33)
        with pytest.raises(LimitExceeded, match="width"):
            await cloud.outpaint(photo, right=16 * 1024)
        assert await cloud.ask(photo, "?" * 50)
        coarse = await cloud.share(Image.new("RGB", (160, 160)), quality=50)
        with pytest.raises(LimitExceeded, match="300 tokens of 16 pixels"):
            await cloud.outpaint(coarse, right=320)  # 75 tokens, but too many pixels


@pytest.mark.parametrize(("arguments", "field"), [
    ({"seed": -1}, "seed"), ({"seed": 1 << 64}, "seed"), ({"steps": 0}, "steps"),
    ({"steps": 1001}, "steps"), ({"temperature": -0.1}, "temperature"),
    ({"guidance": float("nan")}, "guidance"), ({"width": 0}, "size"), ({"height": -3}, "size"),
    ({"prompt": "\ud800"}, "prompt")])
async def test_a_client_checks_what_it_sends(serve, arguments, field):
    async with serve() as address, AsyncClient(address, models=fake_models()) as cloud:
        with pytest.raises(InvalidInput) as caught:
            await cloud.generate(**{"prompt": "dogs", **arguments})
        assert caught.value.field == field


async def test_pictures_belong_to_their_session(serve):
    from PIL import Image
    async with serve() as address, AsyncClient(address, models=fake_models()) as one, \
            AsyncClient(address, models=fake_models()) as other:
        photo = await one.share(Image.new("RGB", (16, 16)))
        with pytest.raises(InvalidInput, match="another session"):
            await other.caption(photo)
        with pytest.raises(InvalidInput, match="share it first"):
            await one.caption("photo.jpg")
        with pytest.raises(InvalidInput, match="question"):
            await one.ask(photo, " ")
    with pytest.raises(InvalidInput, match="not connected"):
        await AsyncClient("localhost:1", models=fake_models()).caption(photo)


async def test_tokens_are_shared_as_they_are(serve):
    async with serve() as address, AsyncClient(address, models=fake_models()) as cloud:
        codes = np.arange(6).reshape(2, 3)
        shared = await cloud.share(TokenGrid(codes, 30, 17, 11))
        codes += 1  # the caller's own
        assert shared.grid.codes.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert (shared.image.size, shared.grid.pitch) == ((30, 17), 11)
        assert (await cloud.caption(shared)).text == reply("", shared.grid.codes)
        for source in shared, shared.grid:
            for name, value in ("quality", 140), ("budget", 500), ("hole", (0, 0, 9, 9)):
                with pytest.raises(InvalidInput, match=f"^{name}: is for pixels, and tokens are"):
                    await cloud.share(source, **{name: value})
        for grid, said in ((TokenGrid(codes + 250, 30, 17, 11), "codes: values from 251"),
                           (TokenGrid(codes, 30, 17), "codes: shape"),
                           (TokenGrid(codes / 2, 30, 17, 11), "codes: dtype float64")):
            with pytest.raises(InvalidInput, match=said):
                await cloud.share(grid)
        other = FakeCoder()
        other.space = TokenSpace(b"other---")
        shared.canvas.models = fake_models(other)
        with pytest.raises(InvalidInput, match=r"^image: its tokens are those of other"):
            await cloud.share(shared)
    async with serve(limits=Limits(max_tokens=5)) as address, \
            AsyncClient(address, models=fake_models()) as cloud:
        with pytest.raises(LimitExceeded, match="at most 5 are taken"):
            await cloud.share(TokenGrid(codes, 48, 32))
