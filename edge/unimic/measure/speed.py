"""How long coding takes, side by side in one run: what ``unimic measure speed`` prints.

On a device: the image encoder beside the entropy coder at 256×256 pixels. On a service: decoded
image packets a second, one at a time and together in a batch, as many sessions would have them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from unimic.codec.coder import Coder, load_coder
from unimic.codec.exactness import Executor
from unimic.codec.lockstep import DecodeJob, complete
from unimic.codec.networks import ImageNetwork
from unimic.codec.progress import Progress
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes
from unimic.edge.image_tokenizer import ImageTokenizer

SIDE = 256
BATCHES = (1, 8, 64)
REPEATS = 7



def edge_speed(store: ModelStore, pictures: Sequence[Image.Image], threads: int | None,
               progress: Progress) -> dict[str, float]:
    """Milliseconds of each step for one picture of 256×256 pixels; the least of some rounds.

    The steps take turns, so that a busy moment of the machine hits all of them.
    """
    images, coder = ImageTokenizer(store, threads), load_coder(store, threads=threads)
    picture = pictures[0].convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grid = images.encode(picture)
    payload = coder.encode_image(grid.codes).payload
    nothing = np.zeros_like(grid.codes)
    steps: dict[str, Callable[[], object]] = {
        "image_encoder_ms": lambda: images.encode(picture),
        "entropy_encode_ms": lambda: coder.encode_image(grid.codes),
        "entropy_decode_ms": lambda: coder.decode_image(payload, nothing),
        "image_decoder_ms": lambda: images.decode(grid),
    }
    best = dict.fromkeys(steps, float("inf"))
    for done in range(REPEATS):
        progress(done, REPEATS)
        for name, step in steps.items():
            best[name] = min(best[name], 1000 * _seconds(step))
    progress(REPEATS, REPEATS)
    both = best["entropy_encode_ms"] + best["entropy_decode_ms"]
    return best | {"entropy_over_image_encoder": both / best["image_encoder_ms"]}


@dataclass(frozen=True)
class Packets:
    """Grids of 16×16 tokens and their payloads."""

    grids: list[Codes]
    payloads: list[bytes]

    @classmethod
    def of(cls, store: ModelStore, coder: Coder, pictures: Sequence[Image.Image]) -> Packets:
        """As many as the largest batch, from the pictures in turn, mirrored or not."""
        images = ImageTokenizer(store)
        grids: list[Codes] = []
        for i in range(BATCHES[-1]):
            picture = pictures[i % len(pictures)].convert("RGB").resize((SIDE, SIDE))
            if i // len(pictures) % 2:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            grids.append(images.encode(picture).codes)
        return cls(grids, [coder.encode_image(codes).payload for codes in grids])


def service_speed(executors: Sequence[Executor], packets: Packets, progress: Progress,
                  ) -> dict[str, dict[str, Any]]:
    """Packets of 256×256 pixels decoded a second, by executor and batch.

    Raises:
        AssertionError: a decoded grid is not the one that was encoded.
    """
    found: dict[str, dict[str, Any]] = {executor.software: {} for executor in executors}
    total, done = len(executors) * len(BATCHES), 0
    for executor in executors:
        network = executor.network
        for batch in BATCHES:
            progress(done, total)
            decode = partial(_decode, network, packets, batch)
            decode()  # warm up
            seconds = min(_seconds(decode) for _ in range(1 if batch == BATCHES[-1] else 4))
            found[executor.software][f"batch_{batch}"] = batch / seconds
            done += 1
        rates = found[executor.software]
        rates["largest_over_one"] = rates[f"batch_{BATCHES[-1]}"] / rates["batch_1"]
    progress(total, total)
    return found


def _decode(network: ImageNetwork, packets: Packets, batch: int) -> None:
    jobs = [DecodeJob(payload, np.zeros_like(grid))
            for payload, grid in zip(packets.payloads[:batch], packets.grids[:batch], strict=True)]
    complete(network, jobs)
    for job, grid in zip(jobs, packets.grids[:batch], strict=True):
        job.check()
        assert np.array_equal(job.codes, grid)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
