"""Comparing executors: the same frequencies, bit for bit, or how many differ.

The reference is ONNX Runtime with one thread, no optimisations and the unsigned weights that no
processor can get wrong, one sequence at a time. Windows are random in everything: shape, context,
tokens, mask, hole and prompt. The digest of its frequencies tells machines apart that disagree.

Sequences are looked at as a whole, as an encoder does. Some are also taken as a decoder does, bit
by bit with a growing memory, for which kernels may have other paths; the frequencies must be those
of the reference's look at the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from unimic.codec.errors import InvalidInput
from unimic.codec.frequencies import frequencies
from unimic.codec.image_rows import Integers, Layout, WindowPlan, plan_window
from unimic.codec.lockstep import Job, complete, known_logits
from unimic.codec.networks import (
    IMAGE_ENTROPY,
    ImageNetwork,
    OnnxImageNetwork,
    OnnxTextNetwork,
    TextNetwork,
)
from unimic.codec.order import CONTEXT, WINDOW, Window
from unimic.codec.progress import Progress
from unimic.codec.rangecoder import Frequencies
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes

ROUND = 64  # sequences compared at a time
TEXT_TOKENS = 48
DECODED = 4  # grids of a round that are taken as a decoder does
SIDE = WINDOW + CONTEXT  # of these: four windows

Tables = list[Frequencies]


@dataclass(frozen=True)
class Executor:
    """A way to run a network: ``batch`` sequences at a time."""

    software: str
    network: Any
    batch: int

    @property
    def name(self) -> str:
        return f"{self.software}, batch {self.batch}"


@dataclass
class Comparison:
    """Frequencies of one executor that were compared with the reference's, and that differ."""

    name: str
    compared: int = 0
    differing: int = 0


def onnx_executors(store: ModelStore, name: str) -> Iterator[Executor]:
    """ONNX Runtime: the reference; with 1 and 2 threads, optimisations off and on; in a batch.

    All but the first take the weights that are fastest here.
    """
    network = OnnxImageNetwork if name == IMAGE_ENTROPY else OnnxTextNetwork

    def software(threads: int, optimise: bool) -> str:
        return (f"ONNX Runtime, {threads} {'thread' if threads == 1 else 'threads'}, "
                f"optimisations {'on' if optimise else 'off'}")

    yield Executor(f"{software(1, False)}, unsigned weights", network(store, 1, False, True), 1)
    for threads in (1, 2):
        for optimise in (False, True):
            loaded = network(store, threads, optimise)
            yield Executor(software(threads, optimise), loaded, 1)
    yield Executor(software(threads, optimise), loaded, ROUND)


def device_executors(store: ModelStore, name: str, devices: Sequence[str]) -> Iterator[Executor]:
    """Executors of the network ``name`` on ``devices``, from the packages that have some.

    Raises:
        InvalidInput: a package that has misses others, or there is no such device.
    """
    for device in devices:
        for point in entry_points(group="unimic.executors"):
            try:
                executors = point.load()
            except ImportError as error:
                raise InvalidInput("--device", f"needs other packages: {error}".splitlines()[0],
                                   'pip install "unimic[cloud]"') from error
            yield from executors(store, name, device)


def compare(name: str, reference: Executor, others: Sequence[Executor], count: int,
            progress: Progress) -> tuple[list[Comparison], str]:
    """Run random sequences through all executors, until each has made ``count`` frequencies.

    Args:
        name: of the network.
        reference: whose frequencies count as right.
        others: executors of the same network.
        count: at least so many, in whole rounds of `ROUND` sequences.
        progress: called with the frequencies that each has made and ``count``.

    Returns:
        How the others compare, and the SHA-256 of the reference's frequencies of whole sequences as
        little-endian 32-bit integers. It is the same for the same weights and ``count`` everywhere.
    """
    rng, decoded = np.random.default_rng(0), np.random.default_rng(1)
    results = [Comparison(other.name) for other in others]
    made, digest = 0, hashlib.sha256()
    while made < count:
        progress(made, count)
        if name == IMAGE_ENTROPY:
            run = _image_round(reference.network.layout, rng)
            take = _image_decoded(reference.network.layout, decoded)
        else:
            run = _text_round(reference.network, rng)
            take = _text_decoded(reference.network, decoded)
        expected, whole = run(reference), take(reference, True)
        for table in expected:
            made += table.size
            digest.update(table.astype("<i4").tobytes())
        for result, other in zip(results, others, strict=True):
            for ours, theirs in zip(expected + whole, run(other) + take(other, False), strict=True):
                result.compared += ours.size
                result.differing += int((ours != theirs).sum())
    progress(count, count)
    return results, digest.hexdigest()


def _image_round(layout: Layout, rng: np.random.Generator) -> Callable[[Executor], Tables]:
    windows = [_random_window(layout, rng) for _ in range(ROUND)]

    def run(executor: Executor) -> Tables:
        network: ImageNetwork = executor.network
        tables: Tables = []
        for start in range(0, ROUND, executor.batch):
            for parts in known_logits(network, windows[start:start + executor.batch]):
                tables += [frequencies(part) for part in parts]
        return tables

    return run


def _random_window(layout: Layout, rng: np.random.Generator) -> tuple[WindowPlan, Codes]:
    top, left = (int(rng.integers(0, CONTEXT + 1)) for _ in range(2))
    high, wide = (int(rng.integers(1, WINDOW + 1)) if rng.random() < 0.3 else WINDOW
                  for _ in range(2))
    shape = (top + high, left + wide)
    codes = rng.integers(0, layout.upper * layout.lower, shape).astype(np.int32)
    mask = rng.random(shape) < rng.uniform(0.3, 1.5)
    mask[top, left] = True
    hole = ~mask & (rng.random(shape) < 0.5) if rng.random() < 0.3 else None
    prompt = None
    if rng.random() < 0.3:
        prompt = _random_prompt(layout, rng)
    return plan_window(layout, codes, mask, Window(top, left, *shape), prompt, hole), codes


def _random_prompt(layout: Layout, rng: np.random.Generator) -> Codes:
    return rng.integers(1, layout.text, int(rng.integers(1, 40))).astype(np.int32)


class _Told(Job):
    """Knows its tokens, and keeps the frequencies with which they would be coded."""

    def __init__(self, layout: Layout, codes: Codes, ahead: bool, **known: Any) -> None:
        super().__init__(codes, **known)
        self.ahead, self.tables = ahead, Tables()
        self._parts = layout.split(codes)

    def carry(self, table: Frequencies, rows: Integers, columns: Integers, part: int) -> Codes:
        self.tables.append(table)
        return self._parts[part][rows, columns].astype(np.int32)


def _image_decoded(layout: Layout, rng: np.random.Generator) -> Callable[[Executor, bool], Tables]:
    grids = [rng.integers(0, layout.upper * layout.lower, (SIDE, SIDE)).astype(np.int32)
             for _ in range(DECODED)]
    masks = [rng.random(grid.shape) < rng.uniform(0.3, 1.5) for grid in grids]
    prompts = [_random_prompt(layout, rng) for _ in grids]

    def take(executor: Executor, whole: bool) -> Tables:
        jobs = [_Told(layout, grid, whole, mask=mask, prompt=prompt)
                for grid, mask, prompt in zip(grids, masks, prompts, strict=True)]
        for start in range(0, DECODED, executor.batch):
            complete(executor.network, jobs[start:start + executor.batch])
        for job in jobs:
            job.check()
        return [table for job in jobs for table in job.tables if table.size]

    return take


def _random_texts(network: TextNetwork, rng: np.random.Generator, count: int, length: int
                  ) -> Integers:
    codes = network.step(np.zeros((1, 1), np.int64), 0, None)[0].shape[-1]
    ids = rng.integers(1, codes, (count, length))
    ids[:, 0] = 0
    return ids


def _text_round(network: TextNetwork, rng: np.random.Generator) -> Callable[[Executor], Tables]:
    ids = _random_texts(network, rng, ROUND, min(TEXT_TOKENS, network.positions))

    def run(executor: Executor) -> Tables:
        network: TextNetwork = executor.network
        parts = np.split(ids, range(executor.batch, ROUND, executor.batch))
        return [frequencies(rows) for part in parts for rows in network.step(part, 0, None)[0]]

    return run


def _text_decoded(network: TextNetwork, rng: np.random.Generator
                  ) -> Callable[[Executor, bool], Tables]:
    ids = _random_texts(network, rng, 1, network.positions)

    def take(executor: Executor, whole: bool) -> Tables:
        network: TextNetwork = executor.network
        length = ids.shape[1] if whole else 1
        tables, memory = Tables(), None
        for start in range(0, ids.shape[1], length):
            logits, memory = network.step(ids[:, start:start + length], start, memory)
            tables.append(frequencies(logits[0]))
        return [np.concatenate(tables)]

    return take
