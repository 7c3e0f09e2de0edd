"""Small untrained networks through export: both executors, and the trainable twin's closeness."""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from unimic.cloud.models import refiner
from unimic.cloud.models.arithmetic import (
    ACTIVATION_MAX,
    SQUARED_MAX,
    ExactLinear,
    Mode,
    set_mode,
    to_exact,
)
from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.models.image_tokenizer import ImageTokenizer, TokenizerConfig
from unimic.cloud.models.refiner import Refiner
from unimic.cloud.models.text_entropy import TextEntropyConfig, TextEntropyNet
from unimic.cloud.networks import load_image_network, load_text_network
from unimic.cloud.training.cost import WindowRows, row_bits
from unimic.cloud.training.export import (
    export_graph,
    export_image_entropy,
    export_image_tokenizer,
    export_refiner,
    export_text_entropy,
    product,
    with_unsigned_weights,
)
from unimic.cloud.training.shipped import load_refiner
from unimic.codec.image_rows import plan_window
from unimic.codec.networks import (
    GOLDEN,
    IMAGE_ENTROPY,
    IMAGE_GRAPHS,
    PRODUCT,
    TEXT_ENTROPY,
    OnnxImageNetwork,
    OnnxTextNetwork,
    check_golden,
    image_layout,
    run_image_golden,
    run_text_golden,
    saturates,
)
from unimic.codec.order import waves
from unimic.codec.runtime import open_graph
from unimic.codec.store import IMAGE_TOKENIZER, TEXT_TOKENIZER, ModelStore, add_model

IMAGE = ImageEntropyConfig(width=64, heads=2, content_layers=2, query_layers=2, hidden=64, text=300)
TEXT = TextEntropyConfig(codes=300, width=64, heads=2, layers=2, hidden=64, positions=16)


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name in (IMAGE_TOKENIZER, TEXT_TOKENIZER, IMAGE_ENTROPY, TEXT_ENTROPY):
        (folder / name).mkdir()
        (folder / name / "placeholder").write_bytes(b"x")

    def add(name: str, identity: bytes | None, **sizes: int) -> None:
        add_model(folder, name, name, licence="none", data="none", command="none", figures={},
                  id=identity, sizes=sizes)

    add(IMAGE_TOKENIZER, None, image_codes=8192, patch=16)
    add(TEXT_TOKENIZER, None, text_codes=300)
    add(IMAGE_ENTROPY, export_image_entropy(ImageEntropyNet(IMAGE), folder / IMAGE_ENTROPY))
    add(TEXT_ENTROPY, export_text_entropy(TextEntropyNet(TEXT), folder / TEXT_ENTROPY))
    return ModelStore(folder)


@pytest.mark.parametrize(("threads", "optimise"), [(1, False), (2, True)])
@pytest.mark.parametrize("unsigned", [None, True])
def test_onnx_runtime_gives_what_pytorch_gives(small_store: ModelStore, threads: int,
                                               optimise: bool, unsigned: bool | None) -> None:
    with np.load(small_store.path(IMAGE_ENTROPY, GOLDEN)) as file:
        golden = dict(file)
    ours = run_image_golden(OnnxImageNetwork(small_store, threads, optimise, unsigned), golden)
    theirs = run_image_golden(load_image_network(small_store, "cpu"), golden)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
        np.testing.assert_array_equal(value, golden[name])
        assert np.array_equal(value, np.round(value))

    with np.load(small_store.path(TEXT_ENTROPY, GOLDEN)) as file:
        golden = dict(file)
    found = run_text_golden(OnnxTextNetwork(small_store, threads, optimise, unsigned), golden)
    expected = run_text_golden(load_text_network(small_store, "cpu"), golden)
    np.testing.assert_array_equal(found["logits"], expected["logits"])


def test_quantised_training_sees_what_is_exported() -> None:
    torch.manual_seed(1)
    trained = ImageEntropyNet(IMAGE)
    layout = image_layout(asdict(IMAGE))
    codes = np.random.default_rng(0).integers(0, 8192, (8, 8)).astype(np.int32)
    window = next(waves(*codes.shape))[0]
    plan = plan_window(layout, codes, np.ones(codes.shape, np.bool_), window, None)
    exact = copy.deepcopy(trained)
    to_exact(exact)
    set_mode(trained, Mode.QUANTISED)
    rows = WindowRows.of(layout, [plan], [codes])
    with torch.no_grad():
        a, b = row_bits(trained, rows), row_bits(exact, rows)
    assert float((a - b).abs().mean()) < 0.02 * float(b.mean())


class Places:
    """Files of a folder, as a store has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, file: str) -> Path:
        return self.folder / file


@pytest.mark.parametrize(("low", "high"), [(-ACTIVATION_MAX, ACTIVATION_MAX - 1), (0, SQUARED_MAX)])
def test_the_largest_bytes_do_not_saturate(tmp_path: Path, low: int, high: int) -> None:
    layer = ExactLinear(512, 40, max(-low, high), bias=False)
    runs = torch.arange(512)[None] >> torch.arange(10)[:, None] & 1
    layer.weight = torch.cat([254 * runs - 127, 127 - 254 * runs] * 2).to(torch.int8)
    rows = (low + (high - low) * torch.cat([runs, 1 - runs])).float()[None]
    expected = (rows.double() @ layer.weight.double().t()).numpy()
    assert np.abs(expected).max() > 2**22
    np.testing.assert_array_equal(layer(rows).numpy(), expected)
    graph = export_graph(tmp_path / "layer.onnx", layer, layer.forward, (rows,), ["x"], ["y"],
                         {"x": {1: "rows"}, "y": {1: "rows"}})
    onnx.save(product(), str(tmp_path / PRODUCT))
    models = [with_unsigned_weights(graph)]
    if not saturates(cast(ModelStore, Places(tmp_path)), ""):
        models.append(graph)
    for model in models:
        session = open_graph(model.SerializeToString())
        for part in (rows, rows[:, :1], rows[:, 3:7]):
            found, = session.run(None, {"x": part.numpy()})
            np.testing.assert_array_equal(found, layer(part).numpy())


@pytest.mark.parametrize("bits", [16, 31])
def test_a_machine_whose_products_saturate_is_found_out(tmp_path: Path, bits: int) -> None:
    model = product()
    model.graph.node[0].output[0] = "all"
    model.graph.initializer.append(onnx.numpy_helper.from_array(
        np.array(2**(bits - 1) - 1, np.int32), "most"))
    model.graph.node.append(onnx.helper.make_node("Min", ["all", "most"], ["sums"]))
    onnx.save(model, str(tmp_path / PRODUCT))
    assert saturates(cast(ModelStore, Places(tmp_path)), "") == (bits == 16)


def test_unsigned_weights_are_taken_where_products_saturate(
        small_store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = ModelStore(shutil.copytree(small_store.folder, tmp_path / "models"))
    for graph in IMAGE_GRAPHS:
        copied.path(IMAGE_ENTROPY, f"{graph}.onnx").write_bytes(b"not to be read")
    monkeypatch.setattr("unimic.codec.networks.saturates", lambda store, name: True)
    check_golden(copied, IMAGE_ENTROPY, OnnxImageNetwork(copied))


def as_trained() -> Refiner:
    torch.manual_seed(0)
    network = Refiner()
    for parameter in network.parameters():  # no two are alike
        parameter.data += 0.02 * torch.randn_like(parameter)
    network(*refiner_inputs())
    return network.eval()


def refiner_inputs() -> tuple[torch.Tensor, ...]:
    shown, lost, mirrored = torch.rand(3, 1, 3, 48, 80)
    close, hole = torch.rand(2, 1, 1, 48, 80).round()
    return shown, lost, mirrored, close, hole


def test_channels_of_the_refiner_stay_within_what_they_were_in_training() -> None:
    bounded = refiner.BoundedSiLU(2)
    usual = torch.tensor([[[[1.0, -9.0]], [[-1.0, -3.0]]]])
    assert torch.equal(bounded(usual), F.silu(usual))
    bounded.eval()
    assert torch.equal(bounded(usual), F.silu(usual).clamp(max=F.silu(torch.tensor(1.0))))
    assert bounded(torch.full_like(usual, 50)).flatten(2).amax(2).tolist() == [
        [pytest.approx(0.7311, abs=1e-4), 0]]
    bounded.train()
    for _ in range(3000):  # what was long ago is forgotten
        bounded(usual / 2)
    assert bounded.ceiling.flatten().tolist() == pytest.approx([0.3112, 0], abs=1e-3)


def test_the_refiner_as_the_edge_runs_it(tmp_path: Path) -> None:
    network, given = as_trained(), refiner_inputs()
    export_refiner(network, tmp_path)
    back = load_refiner(tmp_path)
    for name, weight in network.state_dict().items():
        assert (back.state_dict()[name] - weight).abs().max() <= weight.abs().max() / 254 + 1e-6
    session = open_graph(tmp_path / "refiner.onnx")
    names = [source.name for source in session.get_inputs()]
    (refined,) = session.run(None, {name: value.numpy() for name, value in
                                    zip(names, given, strict=True)})
    with torch.no_grad():
        np.testing.assert_allclose(refined, back(*given), atol=1e-4)


def test_a_widened_refiner_begins_where_the_narrow_one_ended(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as halved:
        for size in ("FINE", "MIDDLE", "COARSE"):
            halved.setattr(refiner, size, getattr(refiner, size) // 2)
        export_refiner(as_trained(), tmp_path)
        narrow = load_refiner(tmp_path)
    wide, given = load_refiner(tmp_path), refiner_inputs()
    assert wide.leave.in_channels == 2 * narrow.leave.in_channels
    with torch.no_grad():
        np.testing.assert_allclose(wide(*given), narrow(*given), atol=1e-4)


def test_a_better_decoder_leaves_the_token_space_alone(tmp_path: Path) -> None:
    sizes = {"stem": 8, "encoder_mid": 8, "encoder_top": 8, "encoder_depth": (1, 1),
             "decoder_top": 8, "decoder_mid": 8, "decoder_low": 8}
    first = ImageTokenizer(TokenizerConfig(**sizes, decoder_depth=(1, 1, 1)))
    export_image_tokenizer(first, tmp_path)
    encoder, decoder = ((tmp_path / f"{name}.onnx").read_bytes() for name in ("encoder", "decoder"))

    deeper = ImageTokenizer(TokenizerConfig(**sizes, decoder_depth=(1, 2, 1)))
    deeper.encoder = first.encoder
    export_image_tokenizer(deeper, tmp_path)
    assert (tmp_path / "encoder.onnx").read_bytes() == encoder
    assert (tmp_path / "decoder.onnx").read_bytes() != decoder

    export_image_tokenizer(ImageTokenizer(TokenizerConfig(**sizes)), tmp_path)
    assert (tmp_path / "encoder.onnx").read_bytes() != encoder
