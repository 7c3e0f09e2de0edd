"""Show-o's tokens from end to end: exported for the edge, served over gRPC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnx")

from show_o_checkpoint import SIDE, write_checkpoint  # noqa: E402

from unimic.cloud.backends.show_o import load  # noqa: E402
from unimic.cloud.backends.show_o.magvit import load_magvit  # noqa: E402
from unimic.cloud.server import Server, ServerOptions  # noqa: E402
from unimic.cloud.training import export, tokenize_images, train_image_entropy  # noqa: E402
from unimic.cloud.training.export_show_o import export_show_o  # noqa: E402
from unimic.cloud.training.tokenize_images import load_tokenizer, tokenize  # noqa: E402
from unimic.codec.coder import load_coder  # noqa: E402
from unimic.codec.errors import UnimicError, UnknownModel  # noqa: E402
from unimic.codec.limits import Limits  # noqa: E402
from unimic.codec.store import ModelStore  # noqa: E402
from unimic.edge import AsyncClient, Client, Models  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), pickled=True)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory, store: ModelStore) -> ModelStore:
    folder = tmp_path_factory.mktemp("store")
    export_show_o(str(checkpoint), folder, store)
    return ModelStore(folder)


@pytest.fixture(scope="module")
def models(exported: ModelStore) -> Models:
    return Models.load(exported)


def photo(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 3 % 256, y * 5 % 256, (x + 2 * y) % 256], -1)
                           .astype(np.uint8))


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (33, 90)])
def test_edge_has_the_tokens_of_the_checkpoint(checkpoint, models, size):
    magvit = load_magvit(checkpoint.parent / "magvitv2")
    grid = models.images.encode(photo(*size))
    rows, columns = grid.codes.shape
    pixels = np.pad(np.asarray(photo(*size)), (
        (0, rows * 16 - size[1]), (0, columns * 16 - size[0]), (0, 0)), mode="edge")
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    assert (magvit.encode(pixels)[0].numpy() == grid.codes).all()
    decoded = magvit.decode(torch.from_numpy(grid.codes)[None].long())[0].permute(1, 2, 0) * 255
    shown = np.asarray(models.images.decode(grid))
    assert np.abs(decoded.numpy()[:size[1], :size[0]] - shown).max() <= 0.51


def test_training_images_become_the_same_tokens(checkpoint, models):
    image = np.asarray(photo(64, 48))
    ((name, codes),) = tokenize(load_tokenizer(checkpoint.parent / "magvitv2"),
                                [("photo", image)], fast=False)
    assert name == "photo"
    assert (codes == models.images.encode(photo(64, 48)).codes).all()


def test_an_entropy_model_for_its_tokens(
    checkpoint, exported, tiny_data, tmp_path, monkeypatch,
):
    magvit, grids, out = (str(checkpoint.parent / "magvitv2"), str(tmp_path / "grids"),
                          tmp_path / "runs")
    own = tmp_path / "store"
    shutil.copytree(exported.folder, own)
    text = str(own / "text-tokenizer" / "tokenizer.json")
    tokenize_images.main(["--data", str(tiny_data), "--tokenizer", magvit, "--out", grids])
    makers: list[ThreadPoolExecutor] = []

    def maker(threads: int) -> ThreadPoolExecutor:
        makers.append(ThreadPoolExecutor(threads))
        return makers[-1]

    monkeypatch.setattr(train_image_entropy, "ThreadPoolExecutor", maker)
    train_image_entropy.main([
        "--data", str(tiny_data), "--image-tokenizer", magvit, "--text-tokenizer", text,
        "--out", str(out), "--minutes", "0.001", "--batch", "2"])
    assert makers
    for ended in makers:
        with pytest.raises(RuntimeError, match="after shutdown"):
            ended.submit(int)
    export.main(["image-entropy", "--checkpoint", str(out / "checkpoint.pt"), "--grids", grids,
                 "--store", str(own), "--command", "test", "--data", "test"])
    coder = load_coder(ModelStore(own))
    assert coder.image_model
    codes = np.random.default_rng(0).integers(8192, size=(3, 5), dtype=np.int32)
    coded = coder.encode_image(codes)
    assert (coder.decode_image(coded.payload, np.zeros_like(codes)) == codes).all()


def test_tokens_are_a_space_of_their_own(exported, store):
    space = exported.space()
    assert space.id != store.space().id
    assert (space.image_codes, space.patch) == (8192, 16)


def test_exporting_again(checkpoint, exported):
    before = exported.space()
    export_show_o(str(checkpoint), exported.folder, exported)
    assert ModelStore(exported.folder).space() == before


def test_a_store_of_other_tokens_is_refused(checkpoint, store):
    with pytest.raises(UnknownModel, match="export_show_o"):
        load(store, "cpu", str(checkpoint))


def test_what_is_not_installed_is_named(store, monkeypatch):
    from unimic.cloud.backends import show_o
    for module in ("backend", "model"):
        monkeypatch.delitem(sys.modules, f"{show_o.__name__}.{module}")
        monkeypatch.delattr(show_o, module)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnknownModel, match=r"transformers.*unimic\[show-o\]"):
        load(store)


async def test_all_tasks(checkpoint, exported, models, store):
    backend = load(exported, "cpu", str(checkpoint))
    server = Server(backend, load_coder(exported), models.text, Limits(), ServerOptions(port=0))
    address = await server.start()
    try:
        async with AsyncClient(address, models=models, timeout=60) as cloud:
            await use(cloud)
        with pytest.raises(UnimicError, match="token space"):
            async with AsyncClient(address, models=Models.load(store)):
                pass
    finally:
        await server.stop(grace=0)


async def use(cloud: AsyncClient) -> None:
    original = photo(100, 70)
    shared = await cloud.share(original)
    assert shared.stats.up.payload_bytes == -(-5 * 7 * 13 // 8)  # fixed length

    assert 0 <= (await cloud.ask(shared, "what is it?")).confidence <= 1
    assert isinstance((await cloud.caption(shared)).text, str)

    steps: list[tuple[int, int]] = []
    edited = await cloud.inpaint(shared, (30, 20, 60, 50), "a red vase", seed=3, steps=4,
                                 on_progress=lambda *step: steps.append(step))
    assert steps[-1] == (4, 4)
    kept = np.ones((70, 100), bool)
    kept[20:50, 30:60] = False
    assert (np.asarray(edited.image)[kept] == np.asarray(original)[kept]).all()
    assert (edited.grid.codes != shared.grid.codes).any()

    wide = await cloud.outpaint(edited, left=20, bottom=33, seed=3, steps=4)
    assert wide.image.size == (120, 103)
    fresh = await cloud.generate("a red vase", 16 * SIDE, 16 * SIDE, seed=7, steps=4)
    again = await cloud.generate("a red vase", 16 * SIDE, 16 * SIDE, seed=7, steps=4)
    assert (fresh.grid.codes == again.grid.codes).all()


def test_serve_command(checkpoint, exported, models):
    if not entry_points(group="unimic.backends", name="show-o"):
        pytest.skip("the distribution is not installed, so there are no entry points")
    with subprocess.Popen(
            [sys.executable, "-m", "unimic.edge.cli", "serve", "--port", "0", "--backend",
             "show-o", "--weights", str(checkpoint)],
            env={**os.environ, "UNIMIC_MODELS": str(exported.folder)},
            stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        line = server.stdout.readline()
        assert line.startswith("listening on ")
        address = line.removeprefix("listening on ").strip()
        with Client(address, models=models, timeout=60) as cloud:
            assert cloud.generate("a cat", 32, 32, steps=2).image.size == (32, 32)
        server.terminate()
        assert server.wait(30) == 0
