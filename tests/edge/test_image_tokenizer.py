"""Pictures of any size to tokens and back; tiles are invisible."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.codec.tokens import TokenGrid
from unimic.edge import tiles
from unimic.edge.image_tokenizer import ImageTokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_store: Any) -> ImageTokenizer:
    return ImageTokenizer(tiny_store, threads=1)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 15), (1, 70), (333, 47)])
def test_any_size(tokenizer: ImageTokenizer, size: tuple[int, int]) -> None:
    grid = tokenizer.encode(noise(*size))
    assert (grid.width, grid.height) == size
    assert grid.codes.dtype == np.int32
    assert grid.codes.shape == (-(-size[1] // 16), -(-size[0] // 16))
    image = tokenizer.decode(grid)
    assert image.mode == "RGB"
    assert image.size == size


@pytest.mark.parametrize("size", [(1, 1), (70, 33), (333, 47)])
@pytest.mark.parametrize("pitch", [8, 13, 64])
def test_any_pitch(tokenizer: ImageTokenizer, size: tuple[int, int], pitch: int) -> None:
    photo = noise(*size)
    grid = tokenizer.encode(photo, pitch)
    assert (grid.width, grid.height, grid.pitch) == (*size, pitch)
    rows, columns = grid.codes.shape
    assert (rows, columns) == (-(-size[1] // pitch), -(-size[0] // pitch))
    image = tokenizer.decode(grid)
    assert image.size == size
    # The same as resampling by hand, which takes sizes of whole tokens.
    whole = np.pad(np.asarray(photo), ((0, rows * pitch - size[1]), (0, columns * pitch - size[0]),
                                       (0, 0)), mode="edge")
    seen = Image.fromarray(whole).resize((columns * 16, rows * 16), Image.Resampling.LANCZOS)
    plain = tokenizer.encode(seen)
    assert (plain.codes == grid.codes).all()
    shown = tokenizer.decode(plain).resize((columns * pitch, rows * pitch),
                                           Image.Resampling.LANCZOS)
    assert np.array_equal(shown.crop((0, 0, *size)), image)


def test_padding_repeats_the_edge(tokenizer: ImageTokenizer) -> None:
    small = noise(20, 30)
    padded = np.pad(np.asarray(small), ((0, 2), (0, 12), (0, 0)), mode="edge")
    whole = tokenizer.encode(Image.fromarray(padded))
    assert (tokenizer.encode(small).codes == whole.codes).all()


def test_tiles_are_invisible(tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(16 * 23 - 5, 16 * 14 - 9)
    whole = tokenizer.encode(image)
    drawn = tokenizer.decode(whole)
    assert len(np.unique(whole.codes)) > 100
    monkeypatch.setattr(tiles, "CORE", 5)
    monkeypatch.setattr(tiles, "HALO", 1)
    steps: list[tuple[int, int]] = []
    tiled = tokenizer.watched(lambda done, all_: steps.append((done, all_))).encode(image)
    assert steps == [(n, 15) for n in range(1, 16)]
    assert (tiled.codes == whole.codes).all()
    redrawn = tokenizer.decode(tiled)
    assert np.abs(np.asarray(redrawn, dtype=int) - np.asarray(drawn, dtype=int)).max() <= 1
    # The comparison notices a halo that is too small.
    monkeypatch.setattr(tiles, "HALO", 0)
    assert (tokenizer.encode(image).codes != whole.codes).any()


def test_who_watches_can_stop_it_after_each_tile(tokenizer: ImageTokenizer,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    def watch(done: int, total: int) -> None:
        if done == 2:
            raise Enough

    monkeypatch.setattr(tiles, "CORE", 5)
    grid = tokenizer.encode(noise(200, 90))
    watched = tokenizer.watched(watch)
    with pytest.raises(Enough):
        watched.encode(noise(200, 90))
    with pytest.raises(Enough):
        watched.decode(grid)
    assert tokenizer.decode(grid).size == (200, 90)  # the other one goes on


def test_copies_load_the_networks_once(tiny_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(tiny_store, "path", lambda name, file: (
        loaded.append(file) or tiny_store.folder / name / file))
    tokenizer = ImageTokenizer(tiny_store, threads=1)
    for _ in range(2):
        copy.copy(tokenizer).encode(noise(16, 16))
    assert loaded == ["encoder.onnx"]


@pytest.mark.parametrize("shape", [(1, 1), (64, 65), (200, 3), (188, 250)])
def test_tiles_cover_the_grid_once(shape: tuple[int, int]) -> None:
    covered = np.zeros(shape, dtype=int)
    for tile in tiles.covering(*shape):
        covered[tile.core] += 1
        assert np.zeros(shape)[tile.read][tile.kept].shape == np.zeros(shape)[tile.core].shape
    assert (covered == 1).all()


def test_wrong_grid(tokenizer: ImageTokenizer) -> None:
    with pytest.raises(InvalidInput, match="codes"):
        tokenizer.decode(TokenGrid(np.zeros((2, 2), dtype=np.int32), 33, 32))
    with pytest.raises(InvalidInput, match="8191"):
        tokenizer.decode(TokenGrid(np.full((1, 1), 8192, dtype=np.int32), 16, 16))


def test_halo_covers_the_sight_of_the_networks() -> None:
    torch = pytest.importorskip("torch")
    from unimic.cloud.models.image_tokenizer import ImageTokenizer as Network

    torch.manual_seed(0)
    network = Network()
    for parameter in network.parameters():  # blocks start at zero: make them see
        torch.nn.init.normal_(parameter, std=0.05)
    side = 2 * tiles.HALO + 5
    middle = side // 2

    pixels = torch.rand(1, 3, 16 * side, 16 * side, requires_grad=True)
    network.encoder(pixels)[..., middle, middle].sum().backward()
    seen = pixels.grad[0].abs().sum(0).nonzero()
    assert seen.min() >= 16 * (middle - tiles.HALO)
    assert seen.max() < 16 * (middle + tiles.HALO + 1)

    latents = torch.rand(1, 5, side, side, requires_grad=True)
    patch = slice(16 * middle, 16 * (middle + 1))
    network.decoder(latents)[..., patch, patch].sum().backward()
    seen = latents.grad[0].abs().sum(0).nonzero()
    assert seen.min() >= middle - tiles.HALO
    assert seen.max() <= middle + tiles.HALO


def test_the_nearest_code_is_the_token(store: ModelStore) -> None:
    grid = ImageTokenizer(store).encode(Image.effect_noise((90, 70), 60).convert("RGB"))
    assert grid.distances is not None
    upper, lower = grid.distances
    np.testing.assert_array_equal(upper.argmin(-1) * lower.shape[-1] + lower.argmin(-1), grid.codes)


def test_tiles_of_the_shipped_networks_are_invisible(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ImageTokenizer(store, threads=1)
    image = Image.effect_noise((16 * 22 - 5, 16 * 19 - 9), 60).convert("RGB")
    whole = tokenizer.encode(image)
    drawn = np.asarray(tokenizer.decode(whole), dtype=int)
    monkeypatch.setattr(tiles, "CORE", 8)
    # Rounding of float sums may differ with the shape of a tile, and move a code now and then.
    assert (tokenizer.encode(image).codes != whole.codes).mean() < 0.01
    assert np.abs(np.asarray(tokenizer.decode(whole), dtype=int) - drawn).max() <= 1
