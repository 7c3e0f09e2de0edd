"""The heart: the same frequencies, bit for bit, whatever runs the model and however.

On the shipped models. Each case compares integer tables, so a single differing bit fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from unimic.cloud.networks import load_image_network, load_text_network
from unimic.codec.coder import Coder, coder_of
from unimic.codec.errors import ExactnessError, UnknownModel
from unimic.codec.frequencies import frequencies
from unimic.codec.image_rows import COORDINATES, content_rows, plan_window, stack
from unimic.codec.limits import Limits
from unimic.codec.networks import (
    IMAGE_ENTROPY,
    PRODUCT,
    TEXT_ENTROPY,
    UNSIGNED,
    WEIGHTS,
    ImageNetwork,
    OnnxImageNetwork,
    OnnxTextNetwork,
    TextNetwork,
    check_golden,
)
from unimic.codec.order import REVEALED, waves
from unimic.codec.packets import pack_text, unpack_text
from unimic.codec.proof import METADATA, facts, prove
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
# Threads, optimisations, unsigned weights (None: only where this machine needs them).
ONNX = [(1, False, True), (1, True, None), (2, False, None), (2, True, True)]


def image_networks(store: ModelStore) -> Iterator[tuple[str, ImageNetwork]]:
    for way in ONNX:
        yield f"onnx {way}", OnnxImageNetwork(store, *way)
    for device in DEVICES:
        yield f"torch {device}", load_image_network(store, device)


def text_networks(store: ModelStore) -> Iterator[tuple[str, TextNetwork]]:
    for way in ONNX:
        yield f"onnx {way}", OnnxTextNetwork(store, *way)
    for device in DEVICES:
        yield f"torch {device}", load_text_network(store, device)


def random_grid(seed: int, shape: tuple[int, int] = (16, 16)) -> Codes:
    return np.random.default_rng(seed).integers(0, 8192, shape).astype(np.int32)


def tables(network: ImageNetwork, codes: Codes) -> list[np.ndarray]:
    mask = np.ones(codes.shape, np.bool_)
    out = []
    layout = network.layout
    for window in chain.from_iterable(waves(*codes.shape)):
        plan = plan_window(layout, codes, mask, window, np.arange(1, 8, dtype=np.int32))
        memory = network.read(stack([content_rows(layout, plan, codes)], layout), None)
        upper, hidden = network.ask(stack([plan.queries], layout), memory)
        given, _ = layout.split(codes[plan.rows, plan.columns])
        out += [frequencies(upper[0]), frequencies(network.tail(hidden, given[None])[0])]
    return out


def test_every_image_executor_gives_the_same_frequencies(store: ModelStore) -> None:
    grids = [random_grid(0), random_grid(1, (18, 5))]
    expected = None
    for name, network in image_networks(store):
        found = [table for grid in grids for table in tables(network, grid)]
        expected = expected or found
        for a, b in zip(expected, found, strict=True):
            assert np.array_equal(a, b), name


def test_as_many_rows_as_there_can_be(store: ModelStore) -> None:
    """A window with all of its context and the longest prompt, in one call."""
    rng = np.random.default_rng(0)
    keys = load_image_network(store, "cpu").network.config.keys
    codes = rng.integers(0, 128, (2, 1, keys))
    rows = np.concatenate([codes, rng.integers(0, COORDINATES**2, (1, 1, keys)),
                           rng.integers(0, len(REVEALED), (1, 1, keys))])
    asked = np.concatenate([rows[:3], np.full((1, 1, keys), len(REVEALED))])
    expected = None
    for name, network in image_networks(store):
        logits, _ = network.ask(asked, network.read(rows, None))
        expected = logits if expected is None else expected
        assert np.array_equal(expected, logits), name


@pytest.mark.parametrize("executor", ["onnx", *DEVICES])
@pytest.mark.parametrize("batch", [7, 16])
def test_a_batch_gives_each_what_it_gets_alone(store: ModelStore, executor: str, batch: int,
                                               ) -> None:
    network = (OnnxImageNetwork(store) if executor == "onnx"
               else load_image_network(store, executor))
    layout = network.layout
    grids = [random_grid(seed, (16 - seed % 3, 16)) for seed in range(batch)]
    plans = [plan_window(layout, g, np.ones(g.shape, np.bool_), next(waves(*g.shape))[0], None)
             for g in grids]
    contents = [content_rows(layout, p, g) for p, g in zip(plans, grids, strict=True)]
    logits, _ = network.ask(stack([p.queries for p in plans], layout),
                            network.read(stack(contents, layout), None))
    for together, plan, content in zip(logits, plans, contents, strict=True):
        alone, _ = network.ask(stack([plan.queries], layout),
                               network.read(stack([content], layout), None))
        assert np.array_equal(together[:len(plan.groups)], alone[0])


def test_every_text_executor_gives_the_same_frequencies(store: ModelStore) -> None:
    ids = np.random.default_rng(3).integers(1, 4096, (3, 20))
    expected = None
    for name, network in text_networks(store):
        whole, _ = network.step(ids, 0, None)
        found = [frequencies(rows) for rows in whole]
        expected = expected or found
        for a, b in zip(expected, found, strict=True):
            assert np.array_equal(a, b), name
        alone, _ = network.step(ids[1:2], 0, None)
        assert np.array_equal(frequencies(alone[0]), expected[1]), name


def test_a_stream_of_one_executor_is_read_by_the_other(store: ModelStore) -> None:
    def coder(image: ImageNetwork, text: TextNetwork) -> Coder:
        return Coder(store.space(), (b"image", image), (b"text", text))
    edge = coder(OnnxImageNetwork(store), OnnxTextNetwork(store))
    cloud = coder(load_image_network(store, "cpu"), load_text_network(store, "cpu"))
    grid = random_grid(9, (7, 19))
    mask = np.random.default_rng(1).random(grid.shape) < 0.3
    ids = np.random.default_rng(2).integers(1, 4096, 9).astype(np.int32)
    up = edge.encode_image(grid, prompt=ids)
    assert np.array_equal(cloud.decode_image(up.payload, np.zeros_like(grid), prompt=ids), grid)
    down = cloud.encode_image(grid, mask=mask)
    known = np.where(mask, 0, grid)
    assert np.array_equal(edge.decode_image(down.payload, known, mask=mask), grid)
    text = edge.encode_text(ids)
    assert np.array_equal(cloud.decode_text(text.payload, len(ids)), ids)


@pytest.mark.parametrize("name", [IMAGE_ENTROPY, TEXT_ENTROPY])
def test_graphs_hold_no_products_but_safe_ones(store: ModelStore, name: str) -> None:
    for file in store.entry(name).files:
        if not file.endswith(".onnx") or file == PRODUCT:
            continue
        graph = onnx.load(str(store.path(name, file)), load_external_data=False).graph
        makers = {output: node for node in graph.node for output in node.output}
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer
                     if t.data_location != onnx.TensorProto.EXTERNAL}
        constants |= {n.output[0]: onnx.numpy_helper.to_array(n.attribute[0].t)
                      for n in graph.node if n.op_type == "Constant"}
        products = {n.op_type for n in graph.node
                    if any(part in n.op_type for part in ("MatMul", "Gemm", "Integer", "QL"))}
        assert products <= {"MatMulIntegerToFloat", "QLinearMul"}
        for node in graph.node:
            if node.op_type == "MatMulIntegerToFloat":
                rows, weights, one, _, _, zero = node.input
                while makers[rows].op_type in ("Transpose", "Reshape"):
                    rows = makers[rows].input[0]
                assert makers[rows].op_type in ("QuantizeLinear", "QLinearMul")
                assert constants[one] == 1
                expected = np.uint8(128) if UNSIGNED in file else np.int8(0)
                assert constants[zero] == expected
                assert constants[zero].dtype == expected.dtype
                assert (makers[weights].op_type == "Cast") == (UNSIGNED in file)


@pytest.mark.parametrize("name", [IMAGE_ENTROPY, TEXT_ENTROPY])
def test_no_sum_can_leave_the_exact_integers(store: ModelStore, name: str) -> None:
    bounds = prove(store.path(name, WEIGHTS))
    assert len(bounds) > 10
    assert all(bound.holds for bound in bounds)


def test_the_proof_fails_where_a_sum_could_overflow(store: ModelStore, tmp_path: Path) -> None:
    path = store.path(TEXT_ENTROPY, WEIGHTS)
    with safe_open(path, framework="numpy") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    known = facts(path)

    def failing() -> list[str]:
        save_file(tensors, tmp_path / WEIGHTS, {METADATA: json.dumps(known)})
        return [bound.part for bound in prove(tmp_path / WEIGHTS) if not bound.holds]

    assert not failing()
    tensors["head.bias"][0] = 2**24
    assert failing() == ["head"]
    tensors["head.bias"][0] = 0
    known["mixture"]["keys"] = 2**24 // (known["mixture"]["weight"] * 127)
    known["mixture"]["value"] = 127
    assert not failing()
    known["mixture"]["value"] = 128
    assert failing() == ["mixture"]
    known["mixture"]["keys"] = 1
    known["logits"]["channels"] = 1024
    assert not failing()
    known["logits"]["key"] = 128
    assert failing() == ["logits"]
    known["logits"]["channels"] = 64
    tensors["layers.1.key.multiplier"][:] = 1
    assert failing() == ["layers.1.key, turned"]
    tensors["layers.1.key.multiplier"][:] = 2**12
    turned = ["layers.1.key, turned", "squares of all outputs together"]
    assert failing() == turned
    for broken in -2**12, np.nan:
        tensors["layers.1.key.multiplier"][:] = broken
        assert failing() == turned
    tensors["layers.1.key.multiplier"][:] = 2**-8
    assert not failing()
    tensors["head.bias"][0] = 2**24
    del known["input_bounds"]["head"]
    assert failing() == ["head"]


def test_an_executor_that_is_off_by_one_is_refused(store: ModelStore) -> None:
    class Broken(OnnxImageNetwork):
        def tail(self, hidden, upper):  # type: ignore[no-untyped-def]
            out = super().tail(hidden, upper)
            out[0, 3, 5] += 1
            return out
    check_golden(store, IMAGE_ENTROPY, OnnxImageNetwork(store))
    with pytest.raises(ExactnessError):
        check_golden(store, IMAGE_ENTROPY, Broken(store))


def test_an_executor_that_is_wrong_for_many_rows_is_refused(store: ModelStore) -> None:
    """As ONNX Runtime 1.23.2 is on processors with AMX: row 31 and keys over 128."""
    class Broken(OnnxImageNetwork):
        def ask(self, rows, memory):  # type: ignore[no-untyped-def]
            upper, hidden = super().ask(rows, memory)
            if upper.shape[1] > 31 and memory[0].shape[1] > 128:
                upper[:, 31] += 1
            return upper, hidden

    class BrokenText(OnnxTextNetwork):
        def step(self, ids, position, memory):  # type: ignore[no-untyped-def]
            logits, memory = super().step(ids, position, memory)
            if logits.shape[1] > 128:
                logits[:, 31] += 1
            return logits, memory

    for name, network in ((IMAGE_ENTROPY, Broken(store)), (TEXT_ENTROPY, BrokenText(store))):
        with pytest.raises(ExactnessError, match="many rows"):
            check_golden(store, name, network)


def test_what_is_not_exact_here_is_left_out(store: ModelStore, caplog: pytest.LogCaptureFixture,
                                            ) -> None:
    class Broken(OnnxTextNetwork):
        def step(self, ids, position, memory):  # type: ignore[no-untyped-def]
            logits, memory = super().step(ids, position, memory)
            return logits + 1, memory

    coder = coder_of(store, lambda: OnnxImageNetwork(store), lambda: Broken(store))
    assert coder.models == (store.entry(IMAGE_ENTROPY).id,)
    assert "computes other logits" in caplog.text
    ids = np.arange(9, dtype=np.int32)
    with pytest.raises(UnknownModel, match="raw"):
        coder.encode_text(ids)
    packet = pack_text(coder, ids, raw=True).packet
    np.testing.assert_array_equal(unpack_text(coder, packet, limits=Limits()), ids)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_the_programs_default_type_changes_nothing(store: ModelStore, kind: torch.dtype) -> None:
    """Set before or after loading."""
    before = load_image_network(store, "cpu"), load_text_network(store, "cpu")
    torch.set_default_dtype(kind)
    try:
        after = load_image_network(store, "cpu"), load_text_network(store, "cpu")
        for image, text in before, after:
            check_golden(store, IMAGE_ENTROPY, image)
            check_golden(store, TEXT_ENTROPY, text)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_autocast_around_it_changes_nothing(store: ModelStore) -> None:
    image, text = load_image_network(store, "cpu"), load_text_network(store, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_golden(store, IMAGE_ENTROPY, image)
        check_golden(store, TEXT_ENTROPY, text)
