"""The exact networks, run by ONNX Runtime.

A network is a folder: ``weights.safetensors`` (integers, with the configuration and the bounds of
every sum in its metadata), ONNX graphs that refer to those very bytes, ``golden.npz`` with
inputs and the outputs they must give and, for images, ``histogram.npz`` with the counts of the
training tokens. `unimic.cloud.networks` runs the same folder by PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from unimic.codec.errors import ExactnessError
from unimic.codec.image_rows import FIELDS, Integers, Layout, Rows
from unimic.codec.proof import facts, prove
from unimic.codec.store import ModelStore

Floats = NDArray[np.float32]
IMAGE_ENTROPY, TEXT_ENTROPY = "image-entropy", "text-entropy"
WEIGHTS, GOLDEN, HISTOGRAM = "weights.safetensors", "golden.npz", "histogram.npz"
IMAGE_GRAPHS = ("content", "query", "tail")
TEXT_GRAPHS = ("step",)


class ImageNetwork(Protocol):
    """Executor of the image entropy model, on batches of rows ``(B, n)``.

    Only the network itself looks inside its memory.
    """

    layout: Layout

    def read(self, rows: Rows, memory: Any | None) -> Any:
        """The memory after content ``rows``."""

    def ask(self, rows: Rows, memory: Any) -> tuple[Floats, Any]:
        """Upper logits ``(B, n, upper)`` of query rows, and what `tail` needs."""

    def tail(self, hidden: Any, upper: Integers) -> Floats:
        """Lower logits ``(B, n, lower)`` given upper parts ``(B, n)``."""


class TextNetwork(Protocol):
    """Executor of the text entropy model."""

    positions: int

    def step(self, ids: Integers, position: int, memory: Any | None) -> tuple[Floats, Any]:
        """Logits ``(B, R, codes)`` after ids ``(B, R)`` at ``position`` …, and the new memory.

        A memory of more sequences than ``ids`` has is cut to its first ``B``.
        """


def configuration(weights: Path) -> dict[str, int]:
    """Sizes of the network, as its definition names them."""
    return facts(weights)["config"]


def image_layout(config: Mapping[str, int]) -> Layout:
    """The layout of an image network's embedding table."""
    return Layout(*(config[n] for n in ("upper", "lower", "text", "text_positions", "groups")))


class OnnxGraphs:
    """The graphs of one network as ONNX Runtime sessions.

    Args:
        store: that has the network.
        name: of the network.
        graphs: names of its graphs.
        threads: that one call may use; None leaves it to ONNX Runtime.
        optimise: whether graphs may be rewritten; results are the same either way.
    """

    def __init__(self, store: ModelStore, name: str, graphs: tuple[str, ...],
                 threads: int | None = None, optimise: bool = True) -> None:
        self.config = configuration(store.path(name, WEIGHTS))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        options.graph_optimization_level = (
            ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise
            else ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        self.sessions = {
            graph: ort.InferenceSession(str(store.path(name, f"{graph}.onnx")), options,
                                        providers=["CPUExecutionProvider"])
            for graph in graphs}

    def run(self, graph: str, *inputs: NDArray[Any]) -> list[Floats]:
        """Outputs of ``graph``, inputs in its own order."""
        session = self.sessions[graph]
        names = (i.name for i in session.get_inputs())
        outputs: list[Floats] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs


class OnnxImageNetwork:
    """`ImageNetwork` on ONNX Runtime. A memory is ``(keys and values, groups)``."""

    def __init__(self, store: ModelStore, threads: int | None = None,
                 optimise: bool = True) -> None:
        self._graphs = OnnxGraphs(store, IMAGE_ENTROPY, IMAGE_GRAPHS, threads, optimise)
        c = self._graphs.config
        self.layout = image_layout(c)
        self._layers, self._width = c["content_layers"] + c["query_layers"], c["width"]

    def read(self, rows: Rows, memory: tuple[Floats, Integers] | None,
             ) -> tuple[Floats, Integers]:
        batch = len(rows)
        old, groups = memory or (
            np.zeros((self._layers, batch, 2, 0, self._width), np.float32),
            np.zeros((batch, 0), np.int64))
        new, = self._graphs.run("content", *fields(rows), old, groups)
        return np.concatenate([old, new], 3), np.concatenate([groups, rows.group], 1)

    def ask(self, rows: Rows, memory: tuple[Floats, Integers]) -> tuple[Floats, Floats]:
        logits, hidden = self._graphs.run("query", *fields(rows), *memory)
        return logits, hidden

    def tail(self, hidden: Floats, upper: Integers) -> Floats:
        logits, = self._graphs.run("tail", hidden, upper)
        return logits


def fields(rows: Rows) -> list[Integers]:
    """The rows' fields in the order of the graphs' inputs."""
    return [getattr(rows, name) for name in FIELDS]


class OnnxTextNetwork:
    """`TextNetwork` on ONNX Runtime. A memory is keys and values of all rows so far."""

    def __init__(self, store: ModelStore, threads: int | None = None,
                 optimise: bool = True) -> None:
        self._graphs = OnnxGraphs(store, TEXT_ENTROPY, TEXT_GRAPHS, threads, optimise)
        c = self._graphs.config
        self.positions = c["positions"]
        self._shape = (c["layers"], 2, c["width"])

    def step(self, ids: Integers, position: int, memory: Floats | None) -> tuple[Floats, Floats]:
        batch, count = ids.shape
        layers, two, width = self._shape
        if memory is None:
            memory = np.zeros((layers, batch, two, 0, width), np.float32)
        memory = memory[:, :batch]
        places = np.broadcast_to(np.arange(position + count), (batch, position + count))
        logits, new = self._graphs.run("step", ids, np.ascontiguousarray(places[:, position:]),
                                       memory, np.ascontiguousarray(places[:, :position]))
        return logits, np.concatenate([memory, new], 3)


def check_bounds(store: ModelStore, name: str) -> None:
    """Prove from the weights of ``name`` that float32 adds its integers exactly.

    Raises:
        ExactnessError: a sum of some layer may leave the exact integers.
    """
    for bound in prove(store.path(name, WEIGHTS)):
        if not bound.holds:
            raise ExactnessError(name, f"a sum of {bound.layer} may reach {bound.largest}",
                                 "do not use this model for coding")


def check_golden(store: ModelStore, name: str, network: Any) -> None:
    """Run the golden inputs of ``name`` through ``network``.

    Raises:
        ExactnessError: an output differs from the stored one.
    """
    with np.load(store.path(name, GOLDEN)) as file:
        golden = dict(file)
    outputs = run_image_golden(network, golden) if name == IMAGE_ENTROPY else run_text_golden(
        network, golden)
    for key, value in outputs.items():
        if not np.array_equal(value, golden[key]):
            raise ExactnessError(
                name, f"{type(network).__name__} computes other {key} than the model's golden ones",
                "do not use this device or library version for coding; raw packets still work")


def run_image_golden(network: ImageNetwork, golden: Mapping[str, NDArray[Any]],
                     ) -> dict[str, Floats]:
    """Two groups read and asked in turn, as a decoder does."""
    def rows(part: str) -> Rows:
        return Rows(*(golden[f"{part}_{field}"].astype(np.int64)[None] for field in FIELDS))
    memory = network.read(rows("known"), None)
    memory = network.read(rows("coded"), memory)
    upper, hidden = network.ask(rows("asked"), memory)
    lower = network.tail(hidden, golden["given"].astype(np.int64)[None])
    return {"upper": upper[0], "lower": lower[0]}


def run_text_golden(network: TextNetwork, golden: Mapping[str, NDArray[Any]],
                    ) -> dict[str, Floats]:
    """A start and a continuation of some sequences."""
    ids = golden["ids"].astype(np.int64)
    half = ids.shape[1] // 2
    first, memory = network.step(ids[:, :half], 0, None)
    second, _ = network.step(ids[:, half:], half, memory)
    return {"logits": np.concatenate([first, second], 1)[:, ::4]}
