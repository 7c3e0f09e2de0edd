"""What exactness costs and what it saves, on the grids of a test set.

Two questions about the image entropy model of a store. How many bits more does it take in integers
than the same weights in ordinary float32? And how many streams fail when one executor writes them
and another reads them? The writer is a device: ONNX Runtime, one grid at a time, all of its groups
in one look. It reads its own streams group by group, as any decoder must; a service reads them by
PyTorch, many together. The float network is the same definition with a softmax for its attention,
exported in memory.

    python -m unimic.cloud.training.evaluate_entropy --store MODELS --grids GRIDS/flickr-test.npz
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.networks import TorchImageNetwork, load_image_network
from unimic.cloud.training.command import command
from unimic.cloud.training.export import image_entropy_graphs
from unimic.cloud.training.grids import load_grids
from unimic.cloud.training.shipped import load_exact
from unimic.codec.errors import CorruptData
from unimic.codec.frequencies import LOGIT_SCALE
from unimic.codec.image_rows import Integers
from unimic.codec.lockstep import DecodeJob, EncodeJob, Job, complete
from unimic.codec.networks import (
    IMAGE_ENTROPY,
    WEIGHTS,
    Floats,
    ImageNetwork,
    OnnxImageNetwork,
    configuration,
    image_layout,
)
from unimic.codec.order import WINDOW
from unimic.codec.rangecoder import PRECISION, Frequencies
from unimic.codec.runtime import open_graph
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes

TOGETHER = 32


class FloatOnnxNetwork:
    """`ImageNetwork` of a float network on ONNX Runtime."""

    def __init__(self, network: ImageEntropyNet) -> None:
        self.layout = image_layout(asdict(network.config))
        self._network = network
        with tempfile.TemporaryDirectory() as folder:
            self._sessions = {
                name: open_graph(graph.SerializeToString())
                for name, graph in image_entropy_graphs(network, Path(folder)).items()}

    def _run(self, graph: str, *inputs: NDArray[Any]) -> list[Floats]:
        session = self._sessions[graph]
        names = (i.name for i in session.get_inputs())
        outputs: list[Floats] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    def read(self, rows: Integers, memory: list[Floats] | None) -> list[Floats]:
        if memory is None:
            memory = [tensor.numpy() for tensor in self._network.empty_memory(rows.shape[1])]
        return self._run("content", *rows, *memory)

    def ask(self, rows: Integers, memory: list[Floats]) -> tuple[Floats, Floats]:
        groups, *_, keys, values = memory
        logits, hidden = self._run("query", *rows, groups, keys, values)
        return logits, hidden

    def tail(self, hidden: Floats, upper: Integers) -> Floats:
        logits, = self._run("tail", hidden, upper)
        return logits


class _Float(Job):
    """A job whose frequencies are made as in an ordinary codec: a float softmax, rounded down."""

    def table(self, logits: Floats) -> Frequencies:
        weights = np.exp((logits - logits.max(1, keepdims=True)) / np.float32(LOGIT_SCALE))
        share = weights / weights.sum(1, keepdims=True)
        total = (1 << PRECISION) - logits.shape[1]
        out = np.floor(share * total).astype(np.int64)
        out[np.arange(len(out)), out.argmax(1)] += total - out.sum(1)
        return np.asarray(out, np.int32)


class FloatEncodeJob(_Float, EncodeJob):
    """Writes a grid with float frequencies."""


class FloatDecodeJob(_Float, DecodeJob):
    """Reads one with float frequencies."""


@dataclass(frozen=True)
class Arithmetic:
    """One arithmetic of the model: what writes, what reads, and how many grids at a time."""

    name: str
    encode: type[EncodeJob]
    decode: type[DecodeJob]
    writer: ImageNetwork
    readers: Mapping[str, tuple[ImageNetwork, int]]


def write(kind: Arithmetic, grid: Codes) -> tuple[bytes, float]:
    """A grid's payload and ideal bits."""
    job = kind.encode(kind.writer.layout, grid)
    complete(kind.writer, [job])
    job.check()
    return job.encoder.finish(), float(job.bits.sum())


def failures(kind: Arithmetic, network: ImageNetwork, grids: Sequence[Codes],
             payloads: Sequence[bytes]) -> int:
    """How many payloads, read together, are refused or become other grids."""
    jobs = [kind.decode(payload, np.zeros_like(grid))
            for grid, payload in zip(grids, payloads, strict=True)]
    complete(network, jobs)
    return sum(not _is(job, grid) for job, grid in zip(jobs, grids, strict=True))


def _is(job: DecodeJob, grid: Codes) -> bool:
    try:
        job.check()
        job.decoder.finish()
    except CorruptData:
        return False
    return np.array_equal(job.codes, grid)


def arithmetics(store: ModelStore) -> list[Arithmetic]:
    """Integers and floats of the store's image entropy model."""
    weights = store.path(IMAGE_ENTROPY, WEIGHTS)
    parent = ImageEntropyNet(ImageEntropyConfig(**configuration(weights))).eval()
    load_exact(weights, parent)
    found = []
    for name, jobs, onnx, torch in (
            ("integer", (EncodeJob, DecodeJob), OnnxImageNetwork(store),
             load_image_network(store, "cpu")),
            ("float", (FloatEncodeJob, FloatDecodeJob), FloatOnnxNetwork(parent),
             TorchImageNetwork(parent))):
        readers: dict[str, tuple[ImageNetwork, int]] = {
            "onnxruntime_one": (onnx, 1), "pytorch_together": (torch, TOGETHER)}
        found.append(Arithmetic(name, *jobs, onnx, readers))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    parser.add_argument("--grids", type=Path, required=True,
                        help="test grids of tokenize_images, of one shape, at most 16 × 16")
    parser.add_argument("--streams", type=int, default=1000)
    args = parser.parse_args(argv)

    grids = [codes for _, codes in load_grids(args.grids)][:args.streams]
    if any(g.shape != grids[0].shape or max(g.shape) > WINDOW for g in grids):
        raise SystemExit(f"--grids: not all of one shape of at most {WINDOW} × {WINDOW}")
    kinds = arithmetics(ModelStore(args.store))
    bits = dict.fromkeys((kind.name for kind in kinds), 0.0)
    failed = {kind.name: dict.fromkeys(kind.readers, 0) for kind in kinds}
    for start in tqdm(range(0, len(grids), TOGETHER), disable=None):
        part = grids[start:start + TOGETHER]
        for kind in kinds:
            written = [write(kind, grid) for grid in part]
            payloads = [payload for payload, _ in written]
            bits[kind.name] += sum(ideal for _, ideal in written)
            for reader, (network, count) in kind.readers.items():
                failed[kind.name][reader] += sum(
                    failures(kind, network, part[i:i + count], payloads[i:i + count])
                    for i in range(0, len(part), count))
    tokens = sum(g.size for g in grids)
    print(json.dumps({
        "streams": len(grids), "integer_bits_per_token": round(bits["integer"] / tokens, 4),
        "float_bits_per_token": round(bits["float"] / tokens, 4),
        "integer_over_float_percent": round(100 * (bits["integer"] / bits["float"] - 1), 3),
        "failed_by_reader": failed}))


if __name__ == "__main__":
    command(main)
