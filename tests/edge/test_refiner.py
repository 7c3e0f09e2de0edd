"""The refinement network on pictures of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unimic.codec.store import ModelStore
from unimic.edge import tiles
from unimic.edge.refiner import CELL, CONTEXT, Refiner
from unimic.edge.seams import SHADE, adjusted, fitted, joined

SHAPE = (141, 230)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


def hole(*box: int) -> np.ndarray:
    made = np.zeros(SHAPE, bool)
    top, left, bottom, right = box
    made[top:bottom, left:right] = True
    return made


@pytest.fixture(scope="module")
def refiner(tiny_store: Any) -> Refiner:
    return Refiner(tiny_store, threads=1)


@pytest.mark.parametrize("made", [hole(32, 48, 80, 96), hole(0, 0, 141, 40), hole(128, 0, 141, 230),
                                  np.ones(SHAPE, bool)])
def test_only_the_hole_changes(refiner: Refiner, made: np.ndarray) -> None:
    shown, decoded = noise(1), noise(2)
    refined = refiner(shown, decoded, made, CELL)
    assert (refined[~made] == shown[~made]).all()
    assert (refined[made] != shown[made]).mean() > 0.9
    assert (shown == noise(1)).all()


def test_it_looks_as_far_around_as_it_learned_to(refiner: Refiner) -> None:
    made, decoded = hole(64, 96, 80, 112), noise(2)
    near, far = noise(1), noise(1)
    far[:, : 96 - CONTEXT] = 0
    unseen = refiner(far, decoded, made, CELL)[made]
    assert (refiner(near, decoded, made, CELL)[made] == unseen).all()
    near[:, 95] = 0
    assert (refiner(near, decoded, made, CELL)[made] != unseen).any()


@pytest.fixture
def told(refiner: Refiner, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """What a network that changes nothing was last given."""
    given: dict[str, np.ndarray] = {}

    class Network:
        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            given.update(inputs)
            return [inputs["shown"]]

    monkeypatch.setattr(refiner, "_network", Network)
    return given


def test_the_network_is_told_what_tokens_lost(refiner: Refiner, told: dict[str, np.ndarray]
                                              ) -> None:
    shown, decoded, made = noise(1), noise(2), hole(64, 96, 80, 112)
    assert (refiner(shown, decoded, made, CELL) == shown).all()
    cut = slice(64 - CONTEXT, 80 + CONTEXT), slice(96 - CONTEXT, 112 + CONTEXT)
    lost = (shown[cut].astype(float) - decoded[cut]) / 255
    np.testing.assert_allclose(told["lost"][0], lost.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(told["hole"][0, 0], made[cut])


@pytest.mark.parametrize(("pitch", "top", "left"), [(16, 16, 48), (12, 22, 52)])
def test_cells_lie_on_tokens_of_their_size_and_else_on_the_hole(
        refiner: Refiner, told: dict[str, np.ndarray], pitch: int, top: int, left: int) -> None:
    made = hole(70, 100, 90, 120)
    refiner(noise(1), noise(2), made, pitch)
    given = told["hole"][0, 0]
    shape = given.shape[0] // CELL * CELL, given.shape[1] // CELL * CELL
    assert given.shape == shape
    expected = np.pad(made, 64)[top + 64:, left + 64:][:shape[0], :shape[1]]
    np.testing.assert_array_equal(given, expected)


def test_tiles_are_invisible(refiner: Refiner, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, decoded, made = noise(1), noise(2), hole(16, 16, 141, 200)
    whole = refiner(shown, decoded, made, CELL).astype(int)
    monkeypatch.setattr(tiles, "CORE", 3)
    monkeypatch.setattr(tiles, "HALO", 1)
    assert np.abs(refiner(shown, decoded, made, CELL) - whole).max() <= 1
    monkeypatch.setattr(tiles, "HALO", 0)  # the comparison notices a halo that is too small
    assert np.abs(refiner(shown, decoded, made, CELL) - whole).max() > 1


def test_a_store_without_it_leaves_pictures_as_they_are(tiny_store: Any, tmp_path: Path) -> None:
    bare = type(tiny_store)(tmp_path)
    shown = noise(1)
    assert (Refiner(bare)(shown, noise(2), hole(0, 0, 16, 16), CELL) == shown).all()


def test_new_pixels_are_adjusted_and_then_refined(refiner: Refiner) -> None:
    new, old, made = noise(1), noise(2), hole(32, 48, 80, 96)
    shown = np.where(made[..., None], adjusted(new, old, made), old)
    assert (joined(new, old, made, made, CELL, refiner) == refiner(shown, new, made, CELL)).all()


def test_a_region_amid_tokens_is_fitted_and_refined_at_its_own_border(refiner: Refiner) -> None:
    new, old, made, region = noise(1), noise(2), hole(32, 48, 80, 96), hole(35, 50, 70, 90)
    shifted = np.where(made[..., None], adjusted(new, old, made), old)
    shown = np.where(region[..., None], fitted(shifted, old, region), old)
    decoded = new.copy()
    beside = made & ~region  # what is farther from the old pixels is no loss of tokens
    low, high = (old[beside].astype(int) + shade for shade in (-SHADE, SHADE))
    decoded[beside] = new[beside].clip(low, high)
    together = joined(new, old, made, region, CELL, refiner)
    assert (together == refiner(shown, decoded, region, CELL)).all()
    assert (together[~region] == old[~region]).all()


def test_halo_covers_the_sight_of_the_network() -> None:
    torch = pytest.importorskip("torch")
    from unimic.cloud.models.refiner import Refiner as Network

    torch.manual_seed(0)
    network = Network()
    for parameter in network.parameters():  # parts start at zero: make them see
        torch.nn.init.normal_(parameter, std=0.05)
    side = 16 * (2 * tiles.HALO + 5)
    cell = slice(side // 32 * 16, side // 32 * 16 + 16)
    shown = torch.rand(1, 3, side, side, requires_grad=True)
    lost, everywhere = torch.rand(1, 3, side, side), torch.ones(1, 1, side, side)
    network(shown, lost, lost, everywhere, everywhere)[..., cell, cell].sum().backward()
    seen = shown.grad[0].abs().sum(0).nonzero()
    assert seen.min() >= cell.start - 16 * tiles.HALO
    assert seen.max() < cell.stop + 16 * tiles.HALO


def test_the_shipped_network_changes_holes_a_little(store: ModelStore) -> None:
    """Where tokens lost nothing there is little to carry on."""
    smooth = np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1]))[..., None] // 2
    shown = np.repeat(smooth, 3, 2).astype(np.uint8)
    made = hole(48, 64, 96, 128)
    refined = Refiner(store, threads=1)(shown, shown, made, CELL)
    assert (refined[~made] == shown[~made]).all()
    assert np.abs(refined.astype(int) - shown).mean() < 8


def test_a_network_for_other_tokens_is_not_used(tiny_store: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_store, "fits", lambda name: False)
    shown = noise(1)
    assert (Refiner(tiny_store)(shown, noise(2), hole(32, 48, 80, 96), CELL) == shown).all()
