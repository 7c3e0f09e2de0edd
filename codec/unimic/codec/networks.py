"""The exact networks, run by ONNX Runtime.

A network is a folder: ``weights.safetensors`` (integers, with the configuration and the bounds of
every sum in its metadata), ONNX graphs that refer to those very bytes, ``golden.npz`` with
inputs and the outputs they must give and, for images, ``histogram.npz`` with the counts of the
training tokens. `unimic.cloud.networks` runs the same folder by PyTorch.

Every graph is there twice. The products of 8-bit integers are exact in ONNX Runtime for unsigned
weights on every processor, and several times faster for signed ones, where those are exact too:
`saturates` asks the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unimic.codec.errors import ExactnessError
from unimic.codec.image_rows import FIELDS, Integers, Layout, hide
from unimic.codec.proof import facts, prove
from unimic.codec.runtime import open_graph, session_options
from unimic.codec.store import ModelStore

Floats = NDArray[np.float32]
IMAGE_ENTROPY, TEXT_ENTROPY = "image-entropy", "text-entropy"
WEIGHTS, GOLDEN, HISTOGRAM = "weights.safetensors", "golden.npz", "histogram.npz"
IMAGE_GRAPHS = ("content", "query", "tail")
TEXT_GRAPHS = ("step",)
UNSIGNED = "-unsigned"  # what the names of the graphs with unsigned weights end in
FEW = 16  # keys come in multiples of it, and the check asks so many rows at a time
PRODUCT = "product.onnx"  # nothing but a product of 8-bit integers


class ImageNetwork(Protocol):
    """Executor of the image entropy model, on batches of rows ``(4, B, n)`` of `image_rows.stack`.

    Only the network itself looks inside its memory.
    """

    layout: Layout

    def read(self, rows: Integers, memory: Any | None) -> Any:
        """The memory after content ``rows``."""

    def ask(self, rows: Integers, memory: Any) -> tuple[Floats, Any]:
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


def saturates(store: ModelStore, name: str) -> bool:
    """Whether this machine's product of unsigned bytes with signed ones is not exact.

    x86 processors without VNNI add two products in 16 bits and cut off what does not fit. So the
    bytes here are as large as they can be, 0 and 255 with ±127, in runs of every length; the rows
    together, and each alone, for which there may be a kernel of its own.
    """
    session = open_graph(store.path(name, PRODUCT), session_options(1))
    runs = np.arange(256) >> np.arange(9)[:, None] & 1
    runs = np.concatenate([runs, 1 - runs])
    rows, weights = (255 * runs).astype(np.uint8), (254 * runs.T - 127).astype(np.int8)
    return any(not np.array_equal(session.run(None, {"rows": part, "weights": weights})[0],
                                  part.astype(np.int32) @ weights.astype(np.int32))
               for part in (rows, *rows[:, None]))


class OnnxGraphs:
    """The graphs of one network as ONNX Runtime sessions.

    Args:
        store: that has the network.
        name: of the network.
        graphs: names of its graphs.
        threads: that one call may use; None leaves it to ONNX Runtime.
        optimise: whether graphs may be rewritten; results are the same either way.
        unsigned: whether to take the graphs with unsigned weights; None: only where it must be.
    """

    def __init__(self, store: ModelStore, name: str, graphs: tuple[str, ...], threads: int | None,
                 optimise: bool, unsigned: bool | None) -> None:
        self.config = configuration(store.path(name, WEIGHTS))
        ending = UNSIGNED if unsigned or (unsigned is None and saturates(store, name)) else ""
        options = session_options(threads, optimise)
        self.sessions = {graph: open_graph(store.path(name, f"{graph}{ending}.onnx"), options)
                         for graph in graphs}
        self._inputs = {graph: [i.name for i in session.get_inputs()]
                        for graph, session in self.sessions.items()}

    def run(self, graph: str, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Outputs of ``graph``, inputs in its own order."""
        outputs: list[NDArray[Any]] = self.sessions[graph].run(
            None, dict(zip(self._inputs[graph], inputs, strict=True)))
        return outputs

    def empty(self, batch: int, heads: Sequence[int]) -> Memory:
        """Memory of no rows, for layers of so many heads."""
        channels = self.config["width"] // self.config["heads"]
        memory: Memory = [np.zeros((batch, 0), np.int64)]
        for count in heads:
            memory += [np.zeros((batch, count, channels, 0), np.int8),
                       np.zeros((batch, count, 0, channels), np.int8)]
        return memory


Memory = list[NDArray[Any]]
"""Groups or positions, int64 ``(B, K)``, then of every layer that reads, and of all that ask
together, keys ``(B, heads, channels, K)`` and values ``(B, heads, K, channels)``, int8."""


class OnnxImageNetwork:
    """`ImageNetwork` on ONNX Runtime."""

    def __init__(self, store: ModelStore, threads: int | None = None, optimise: bool = True,
                 unsigned: bool | None = None) -> None:
        self._graphs = OnnxGraphs(store, IMAGE_ENTROPY, IMAGE_GRAPHS, threads, optimise, unsigned)
        c = self._graphs.config
        self.layout = image_layout(c)
        self._heads = [*[c["heads"]] * c["content_layers"], c["heads"] * c["query_layers"]]

    def read(self, rows: Integers, memory: Memory | None) -> Memory:
        if memory is None:
            memory = self._graphs.empty(rows.shape[1], self._heads)
        if missing := -rows.shape[2] % FEW:  # see check_golden: so no product has a ragged end
            rows = np.pad(rows, ((0, 0), (0, 0), (0, missing)))
            hide(rows[..., -missing:], self.layout)
        return self._graphs.run("content", *rows, *memory)

    def ask(self, rows: Integers, memory: Memory) -> tuple[Floats, Floats]:
        groups, *_, keys, values = memory
        logits, hidden = self._graphs.run("query", *rows, groups, keys, values)
        return logits, hidden

    def tail(self, hidden: Floats, upper: Integers) -> Floats:
        logits, = self._graphs.run("tail", hidden, upper)
        return logits


class OnnxTextNetwork:
    """`TextNetwork` on ONNX Runtime."""

    def __init__(self, store: ModelStore, threads: int | None = None, optimise: bool = True,
                 unsigned: bool | None = None) -> None:
        self._graphs = OnnxGraphs(store, TEXT_ENTROPY, TEXT_GRAPHS, threads, optimise, unsigned)
        c = self._graphs.config
        self.positions, self._heads = c["positions"], [c["heads"]] * c["layers"]

    def step(self, ids: Integers, position: int, memory: Memory | None) -> tuple[Floats, Memory]:
        batch, count = ids.shape
        if memory is None:
            memory = self._graphs.empty(batch, self._heads)
        memory = [tensor[:batch] for tensor in memory]
        places = np.tile(np.arange(position, position + count, dtype=np.int64), (batch, 1))
        logits, *seen = self._graphs.run("step", ids, places, *memory)
        return logits, seen


def check_bounds(store: ModelStore, name: str) -> None:
    """Prove from the weights of ``name`` that float32 adds its integers exactly.

    Raises:
        ExactnessError: a sum of some layer may leave the exact integers.
    """
    for bound in prove(store.path(name, WEIGHTS)):
        if not bound.holds:
            raise ExactnessError(name, f"a sum of {bound.part} may reach {bound.largest}",
                                 "do not use this model for coding")


def check_golden(store: ModelStore, name: str, network: Any) -> None:
    """Run the golden inputs of ``name`` through ``network``, and longer ones in parts and whole.

    The latter since kernels have other paths for many rows and keys: ONNX Runtime 1.23.2 gets the
    last of 32 rows wrong on processors with AMX, where columns are over 128 and no multiple of 16.

    Raises:
        ExactnessError: an output differs from the stored one, or a whole from its parts.
    """
    with np.load(store.path(name, GOLDEN)) as file:
        golden = dict(file)
    run, in_parts = ((run_image_golden, _image_in_parts) if name == IMAGE_ENTROPY
                     else (run_text_golden, _text_in_parts))
    wrong = [f"other {key} than the model's golden ones"
             for key, value in run(network, golden).items()
             if not np.array_equal(value, golden[key])]
    if not wrong and not np.array_equal(*in_parts(network, golden)):
        wrong = ["other logits for many rows than for few"]
    if wrong:
        raise ExactnessError(
            name, f"{type(network).__name__} computes {wrong[0]}",
            "do not use this device or library version for coding; raw packets still work")


def _rows(golden: Mapping[str, NDArray[Any]], part: str) -> Integers:
    return np.stack([golden[f"{part}_{field}"].astype(np.int64)[None] for field in FIELDS])


def run_image_golden(network: ImageNetwork, golden: Mapping[str, NDArray[Any]],
                     ) -> dict[str, Floats]:
    """Two groups read and asked in turn, as a decoder does."""
    memory = network.read(_rows(golden, "known"), None)
    memory = network.read(_rows(golden, "coded"), memory)
    upper, hidden = network.ask(_rows(golden, "asked"), memory)
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


def _image_in_parts(network: ImageNetwork, golden: Mapping[str, NDArray[Any]],
                    ) -> tuple[Floats, Floats]:
    """Upper logits of many rows on many keys, asked together and `FEW` at a time."""
    memory, asked = None, _rows(golden, "asked")
    for part in ("known", "coded", "coded", "coded"):
        memory = network.read(_rows(golden, part), memory)
    parts = [network.ask(asked[..., i:i + FEW], memory)[0] for i in range(0, asked.shape[2], FEW)]
    return network.ask(asked, memory)[0], np.concatenate(parts, 1)


def _text_in_parts(network: TextNetwork, golden: Mapping[str, NDArray[Any]],
                   ) -> tuple[Floats, Floats]:
    """Logits of a long text, in one step and in steps of `FEW` ids."""
    ids = np.tile(golden["ids"][:1].astype(np.int64), 5)[:, :network.positions]
    parts, memory = [], None
    for i in range(0, ids.shape[1], FEW):
        logits, memory = network.step(ids[:, i:i + FEW], i, memory)
        parts.append(logits)
    return network.step(ids, 0, None)[0], np.concatenate(parts, 1)
