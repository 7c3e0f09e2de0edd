"""What the service makes of a backend that somebody else wrote."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_backend import SPACE, EchoBackend
from PIL import Image

from unimic.cloud.backends import base
from unimic.cloud.backends.base import Answer, Sampling, load_backend
from unimic.codec.errors import InvalidInput, UnimicError, UnknownModel
from unimic.codec.store import ModelStore

STORE = object.__new__(ModelStore)
PHOTO = Image.fromarray(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3))


class Returning(EchoBackend):
    """Returns what it is told to."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def fill(self, requests, watch):
        return self.result

    answer = generate = fill


class Writing(EchoBackend):
    """Writes into its requests."""

    def fill(self, requests, watch):
        for request in requests:
            request.codes[request.mask] = 7
            if request.prompt == "all":
                request.codes[:] = 9
            request.mask[:] = True
        if len(requests) > 1:
            raise RuntimeError("one by one, please")
        return [request.codes for request in requests]

    def answer(self, requests, watch):
        answers = super().answer(requests, watch)
        for request in requests:
            request.codes[:] = 1
        return answers


async def test_requests_are_the_backends_own_to_write_into(connect):
    async with connect(backend=Writing()) as cloud:
        photo = await cloud.share(PHOTO)
        said = await cloud.ask(photo, "what?")
        for prompt in "", "all":
            edited = await cloud.inpaint(photo, (0, 0, 10, 10), prompt)
            assert edited.grid.codes[0, 0] == (9 if prompt else 7)
            assert (edited.grid.codes.ravel()[1:] == photo.grid.codes.ravel()[1:]).all()
            assert (await cloud.ask(photo, "what?")).text == said.text


async def test_the_example_of_the_page(connect):
    page = (Path(__file__).parents[2] / "docs/backends.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    backend = names["Smear"](SimpleNamespace(space=lambda: SPACE), "cpu", None)
    async with connect(backend=backend) as cloud:
        photo = await cloud.share(PHOTO)
        edited = await cloud.inpaint(photo, (0, 0, 10, 10))
        assert edited.grid.codes[0, 0] in photo.grid.codes.ravel()[1:]
        assert (await cloud.generate("a dog", 32, 32)).grid.codes.shape == (2, 2)
        with pytest.raises(InvalidInput, match="only paints"):
            await cloud.ask(photo, "what?")


@pytest.mark.parametrize("result", [
    [np.full((3, 3), 5, kind) for kind in (np.uint64,)], (np.full((3, 3), 5, np.int64),),
    np.full((1, 3, 3), 5, np.uint8), iter([[[5] * 3] * 3])])
async def test_codes_come_in_many_shapes(connect, result):
    async with connect(backend=Returning(result)) as cloud:
        photo = await cloud.share(PHOTO)
        edited = await cloud.inpaint(photo, (0, 0, 10, 10))
        assert edited.grid.codes[0, 0] == 5


@pytest.mark.parametrize(("result", "said"), [
    (None, "'NoneType' object is not iterable"), ([], "0 results of 1 requests"),
    ([np.zeros((3, 3), np.int32)] * 2, "2 results of 1 requests"),
    ([np.zeros((3, 3))], "float64"), ([np.zeros((3, 3), bool)], "bool"),
    ([np.zeros((3, 4), np.int32)], r"\(3, 4\) in place of"), ([None], "object"),
    ([np.full((3, 3), -1)], "from -1"), ([np.full((3, 3), SPACE.image_codes)], "to 256")])
async def test_grids_that_are_none(connect, caplog, result, said):
    async with connect(backend=Returning(result)) as cloud:
        photo = await cloud.share(PHOTO)
        with pytest.raises(UnimicError, match="internal error"):
            await cloud.inpaint(photo, (0, 0, 10, 10))
        assert "backend echo: " in caplog.text
        assert said.replace("\\", "") in caplog.text


@pytest.mark.parametrize(("answer", "said"), [
    ("a dog", "is no Answer"), (Answer(3, 0.5), "is no Answer"), (Answer("a dog", None), "float"),
    (Answer("a dog", float("nan")), "confidence of nan"), (Answer("a", 2.0), "confidence of 2.0"),
    (Answer("\ud800", 0.5), "surrogates")])
async def test_answers_that_are_none(connect, caplog, answer, said):
    async with connect(backend=Returning([answer])) as cloud:
        photo = await cloud.share(PHOTO)
        with pytest.raises(UnimicError, match="internal error"):
            await cloud.ask(photo, "what?")
        assert said in caplog.text


class Raising(EchoBackend):
    """Raises what it is told to."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def generate(self, requests, watch):
        raise self.error


class Bare(UnimicError):
    def __init__(self):
        pass


@pytest.mark.parametrize(("error", "said"), [
    (InvalidInput("task", "file \udcff is bad", "mend it"), r"task: file \? is bad; mend it"),
    (InvalidInput("task", "x" * 2_000_000, "mend it"), "task: x{1000}; mend it"),
    (InvalidInput(7, "is bad", "mend it"), "internal error"),
    (InvalidInput("task", None, "mend it"), "internal error"), (Bare(), "internal error")])
async def test_errors_of_many_kinds(connect, error, said):
    async with connect(backend=Raising(error)) as cloud:
        with pytest.raises(UnimicError, match=said):
            await cloud.generate("a", 32, 32)
        assert await cloud.share(PHOTO)


async def test_an_answer_that_is_too_long(connect, caplog):
    async with connect(backend=Returning([Answer("a" * 16_385, 0.5)])) as cloud:
        photo = await cloud.share(PHOTO)
        with pytest.raises(UnimicError, match="internal error"):
            await cloud.ask(photo, "what?")
        assert "16385 text tokens, over 16384" in caplog.text


@pytest.mark.parametrize("progress", [(2, 1), (-1, 1), (1, 1 << 40), ("a", 2), (0.5, 1)])
async def test_progress_that_is_none(connect, caplog, progress):
    class Watching(EchoBackend):
        def _work(self, prompts, requests, watch):
            watch(*progress)

    async with connect(backend=Watching()) as cloud:
        with pytest.raises(UnimicError, match="internal error"):
            await cloud.generate("a", 32, 32, on_progress=lambda done, all_: None)
        assert "watch" in caplog.text


def offer(monkeypatch, **factories):
    """Entry points, each of its own package."""
    points = [SimpleNamespace(name="mine", dist=SimpleNamespace(name=package),
                              load=lambda made=made: made)
              for package, made in factories.items()]
    monkeypatch.setattr(base, "entry_points", lambda group, name: points)


class Half(EchoBackend):
    max_tokens = None


class Freezing(EchoBackend):
    defaults = Sampling(seed=1, steps=4, temperature=float("nan"), guidance=2.0)


def leaving(store, device, weights):
    raise SystemExit(5)


def broken(store, device, weights):
    raise ModuleNotFoundError("No module named 'giant'")


def test_a_backend_that_is_offered(monkeypatch):
    made = EchoBackend()
    offer(monkeypatch, one=lambda store, device, weights: made)
    assert load_backend("mine", STORE, "cpu") is made


@pytest.mark.parametrize(("factory", "said"), [
    (broken, r"'mine' of one cannot be made \(ModuleNotFoundError: No module named 'giant'\)"),
    (lambda store: None, "cannot be made.*TypeError"), (7, "cannot be made.*TypeError"),
    (lambda *_: None, "'mine' of one is a NoneType, no Backend"),
    (leaving, r"cannot be made \(SystemExit: 5\)"),
    (lambda *_: Half(), "has None as max_tokens in place of int"),
    (lambda *_: Freezing(), "has nan as defaults.temperature in place of 0 or more")])
def test_backends_that_are_none(monkeypatch, factory, said):
    offer(monkeypatch, one=factory)
    with pytest.raises(UnknownModel, match=said):
        load_backend("mine", STORE, "cpu")


def test_two_packages_with_one_name(monkeypatch):
    offer(monkeypatch, two=broken, one=broken)
    with pytest.raises(InvalidInput, match="'mine' is offered by one and by two; uninstall"):
        load_backend("mine", STORE, "cpu")
