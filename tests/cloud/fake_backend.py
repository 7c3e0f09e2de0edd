"""Models without networks, and a server of them; run as a program, it is a server process."""

from __future__ import annotations

import argparse
import asyncio
import copy
import socket
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unimic.cloud.backends.base import Answer, Backend, Cancelled, Sampling
from unimic.cloud.metrics import Metrics
from unimic.cloud.server import Server, ServerOptions, ServerTls
from unimic.codec.errors import CorruptData, InvalidInput
from unimic.codec.limits import Limits
from unimic.codec.tokens import TokenGrid, TokenSpace, grid_shape
from unimic.edge.models import Models

SPACE = TokenSpace(b"fakefake", image_codes=256, text_codes=257)


@dataclass(frozen=True)
class FakeCoded:
    payload: bytes
    ideal_bits: float


@dataclass(frozen=True)
class FakeCodedImage(FakeCoded):
    codes: np.ndarray

    @property
    def token_bits(self) -> np.ndarray:
        return np.full(self.codes.shape, self.ideal_bits / self.codes.size)


class FakeCoder:
    """Bytes that can be decoded only with what the encoder knew."""

    space = SPACE

    def __init__(self, image_model: bytes | None = b"image---",
                 text_model: bytes | None = b"text----") -> None:
        self.image_model = image_model
        self.text_model = text_model
        self.models = tuple(model for model in (image_model, text_model) if model)
        self.threads: set[str] = set()

    def watched(self, watch):
        other = copy.copy(self)
        other.watch = watch
        return other

    def encode_image(self, codes, *, mask=None, hole=None, prompt=None, skip=0, distances=None,
                     price=0.0):
        mask = np.ones(codes.shape, bool) if mask is None else mask
        coded = self._encode(codes[mask], _context(codes, mask, prompt))
        return FakeCodedImage(coded.payload, coded.ideal_bits, codes)

    def decode_image(self, payload, codes, *, mask=None, hole=None, prompt=None, skip=0):
        mask = np.ones(codes.shape, bool) if mask is None else mask
        decoded = codes.copy()
        decoded[mask] = self._decode(payload, int(mask.sum()), _context(codes, mask, prompt))
        return decoded

    def encode_text(self, ids):
        return self._encode(ids, 0)

    def decode_text(self, payload, count):
        return self._decode(payload, count, 0)

    def _encode(self, codes, context):
        self.threads.add(threading.current_thread().name)
        payload = zlib.compress((codes.astype("<i4") ^ context).tobytes(), 9)
        return FakeCoded(payload, 8.0 * len(payload))

    def _decode(self, payload, count, context):
        self.threads.add(threading.current_thread().name)
        try:
            codes = np.frombuffer(zlib.decompress(payload), "<i4") ^ context
        except (zlib.error, ValueError) as error:
            raise CorruptData("payload", str(error), "send it again") from error
        if codes.size != count:
            raise CorruptData("payload", f"{codes.size} tokens, not {count}", "send it again")
        return codes.astype(np.int32)


def _context(codes, mask, prompt) -> int:
    known = np.where(mask, 0, codes).astype("<i4").tobytes()
    return zlib.crc32(known + (b"" if prompt is None else prompt.tobytes())) & 0xFFFF


class FakeText:
    """A token for each byte."""

    longest = 1

    def encode(self, text: str):
        try:
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 1
        except UnicodeEncodeError as error:
            raise InvalidInput("text", "lone surrogate", "use Unicode text") from error

    def decode(self, ids) -> str:
        return (ids - 1).astype(np.uint8).tobytes().decode()


class FakeImages:
    """The token of a patch is its mean grey; it is drawn in that grey."""

    space = SPACE

    def watched(self, watch):
        other = copy.copy(self)
        other.watch = watch
        return other

    def encode(self, image: Image.Image, pitch: int = 16, hole: object = None) -> TokenGrid:
        rows, columns = grid_shape(image.width, image.height, pitch)
        grey = np.asarray(image.convert("L"))
        below, beside = rows * pitch - image.height, columns * pitch - image.width
        padded = np.pad(grey, ((0, below), (0, beside)), mode="edge")
        codes = padded.reshape(rows, pitch, columns, pitch).mean((1, 3)).astype(np.int32)
        return TokenGrid(codes, image.width, image.height, pitch)

    def decode(self, grid: TokenGrid) -> Image.Image:
        grid.check(SPACE)
        grey = grid.codes.astype(np.uint8).repeat(grid.pitch, 0).repeat(grid.pitch, 1)
        return Image.fromarray(grey[: grid.height, : grid.width]).convert("RGB")


def fake_models(coder: FakeCoder | None = None) -> Models:
    return Models(FakeImages(), FakeText(), coder or FakeCoder(),
                  lambda shown, decoded, hole, pitch: shown)


UNPROMPTED = Sampling(seed=6, steps=1, temperature=0.0, guidance=2.0)


UNEXPECTED = {"boom": RuntimeError("boom"), "stop": StopIteration(), "exit": SystemExit(3),
              "interrupt": KeyboardInterrupt(), "cancel": asyncio.CancelledError(),
              "give up": Cancelled(), "close": GeneratorExit()}


class EchoBackend(Backend):
    """Results that depend on the request and on nothing else.

    A prompt or question may ask for trouble: one of `UNEXPECTED`, "refuse" (an expected error),
    "wrong" (a result of the wrong shape).
    """

    name = "echo"
    space = SPACE
    defaults = Sampling(seed=1, steps=4, temperature=1.0, guidance=2.0)
    max_tokens = 1024
    max_batch = 8

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds = step_seconds
        self.batches: list[int] = []
        self.steps = 0
        self.cancelled = 0

    def generate(self, requests, watch):
        self._work([request.prompt for request in requests], requests, watch)
        return [draw(request.prompt, request.sampling.seed, request.shape) for request in requests]

    def fill_defaults(self, prompt, seed):
        """Others where the request says nothing."""
        return self.defaults if prompt or seed else UNPROMPTED

    def fill(self, requests, watch):
        self._work([request.prompt for request in requests], requests, watch)
        return [np.where(request.mask, draw(request.prompt, request.sampling.seed, request.shape),
                         request.codes) for request in requests]

    def answer(self, requests, watch):
        self._work([request.question for request in requests], requests, watch)
        return [Answer(reply(request.question, request.codes), 0.5) for request in requests]

    def _work(self, prompts, requests, watch):
        self.batches.append(len(requests))
        for prompt in prompts:
            if prompt in UNEXPECTED:
                raise UNEXPECTED[prompt]
        if "refuse" in prompts:
            raise InvalidInput("prompt", "is not nice", "be nice")
        steps = requests[0].sampling.steps
        assert all(request.sampling.steps == steps for request in requests)
        assert all(request.shape == requests[0].shape for request in requests)
        try:
            for step in range(steps):
                time.sleep(self.step_seconds)
                self.steps += 1
                watch(step + 1, steps)
        except Cancelled:
            self.cancelled += 1
            raise


def draw(prompt: str, seed: int, shape: tuple[int, int]):
    if prompt == "wrong":
        shape = (1, 1)
    random = np.random.default_rng([seed, zlib.crc32(prompt.encode())])
    return random.integers(0, SPACE.image_codes, shape, dtype=np.int32)


def reply(question: str, codes) -> str:
    return f"{question or 'a picture'} → {zlib.crc32(codes.astype('<i4').tobytes()):08x}"


def fake_server(backend: EchoBackend | None = None, coder: FakeCoder | None = None,
                limits: Limits | None = None, metrics: Metrics | None = None,
                **options) -> Server:
    return Server(backend or EchoBackend(), coder or FakeCoder(), FakeText(), limits or Limits(),
                  ServerOptions(**{"port": 0, **options}), metrics)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--mutual", action="store_true")
    args = parser.parse_args()
    tls = args.tls and ServerTls(args.tls / "server.pem", args.tls / "server.key",
                                 args.tls / "ca.pem" if args.mutual else None)
    asyncio.run(_serve(args, tls))


async def _serve(args: argparse.Namespace, tls: ServerTls | None) -> None:
    server = fake_server(EchoBackend(args.step_seconds), tls=tls, grace=args.grace)
    await server.run_until_signal(lambda address: print(f"listening on {address}", flush=True))


if __name__ == "__main__":
    main()
