"""How new pixels join old ones."""

from __future__ import annotations

import numpy as np
import pytest

from unimic.edge.seams import RING, SEAM, SHADE, adjusted, fitted


def hole(height: int = 64, width: int = 64) -> np.ndarray:
    made = np.zeros((height, width), bool)
    made[16:48, 16:48] = True
    return made


def noise(seed: int, least: int = 60, most: int = 200, shape: tuple[int, int] = (64, 64)
          ) -> np.ndarray:
    return np.random.default_rng(seed).integers(least, most, (*shape, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 64), (51, 77), (49, 48)])
def test_a_hole_takes_on_what_differs_around_it(shape):
    new, made = noise(1, shape=shape), hole(*shape)
    lost = np.array([40, 0, -30])
    old = (new + lost).astype(np.uint8)
    old[made] = 0  # says nothing
    shifted = adjusted(new, old, made).astype(int) - new
    assert (shifted[made] == lost).all()


def test_what_agrees_around_a_hole_stays():
    new, made = noise(1), hole()
    old = new.copy()
    old[made] = 255
    assert (adjusted(new, old, made) == new).all()
    assert (adjusted(new, old, np.ones_like(made)) == new).all()


def test_far_pixels_say_nothing():
    new, made = noise(1), hole()
    old = new.copy()
    old[: 16 - RING] = 0
    assert (adjusted(new, old, made)[made] == new[made]).all()


def test_shifted_pixels_stay_in_their_range():
    made = hole()
    for new, old in ((noise(1, 240, 256), 255), (noise(1, 0, 16), 0)):
        shifted = adjusted(new, np.full_like(new, old), made).astype(int)
        assert ((shifted >= new) if old else (shifted <= new)).all()


def test_the_shift_fades_to_the_mean_of_what_differs():
    made = hole()
    new = np.full((64, 64, 3), 128, np.uint8)
    old = new.copy()
    old[:, :32] += 40
    shift = adjusted(new, old, made).astype(int)[..., 0] - 128
    across = shift[32, 16:48]
    assert (np.diff(across) <= 0).all()
    assert across[0] > 36
    assert across[-1] < 4
    assert abs(across[15:17].mean() - 20) < 5
    assert shift.min() >= 0
    assert shift.max() <= 40


@pytest.mark.parametrize("region", [
    hole(), ~hole(), np.ones((64, 64), bool), np.arange(64) < np.full((64, 1), 2)],
    ids=["hole", "frame", "all", "thin"])
def test_what_was_in_a_region_says_nothing(region):
    """A removed object must leave no trace, and a measurement must not see what it hides."""
    new, old = noise(1), noise(2)
    other = np.where(region[..., None], noise(3), old)
    assert (fitted(new, old, region) == fitted(new, other, region))[region].all()


def test_new_pixels_take_on_what_differs_around_a_region_next_to_its_border():
    new = np.full((96, 96, 3), 128, np.uint8)
    region = np.zeros((96, 96), bool)
    region[10:80, 20:90] = True
    shift = fitted(new, new + np.uint8(40), region)[..., 0].astype(int) - 128
    assert (shift[~region] == 0).all()
    across = shift[45, 20:20 + SEAM]
    assert (np.diff(across) <= 0).all()
    assert 30 < across[0] < 40
    assert 0 < across[5] < 25
    assert (shift[10 + SEAM:80 - SEAM, 20 + SEAM:90 - SEAM] == 0).all()  # what is new stays new


@pytest.mark.parametrize("side", [80, 320])
def test_what_differs_at_one_border_stays_there(side):
    new = np.full((side + 32, side + 32, 3), 200, np.uint8)
    old, region = new.copy(), np.zeros(new.shape[:2], bool)
    region[16:-16, 16:-16] = True
    old[:, -16:] = 0
    shift = 200 - fitted(new, old, region)[..., 0].astype(int)
    assert shift.max() <= SHADE  # it is another thing, and no other shade of the same
    assert (shift[:, :-16 - SEAM] == 0).all()


def test_regions_are_worn_away_nearly_in_circles():
    y, x = np.mgrid[-64:64, -64:64]
    region = x * x + y * y < 50 * 50
    new = np.full((128, 128, 3), 128, np.uint8)
    shift = fitted(new, np.where(region[..., None], 0, new + np.uint8(50)), region)[..., 0]
    at = [int(shift[64 + round(40 * np.sin(a)), 64 + round(40 * np.cos(a))]) - 128
          for a in np.linspace(0, 2 * np.pi, 16)]
    assert min(at) > 0
    assert max(at) - min(at) < 13


def test_the_border_of_a_canvas_is_none_of_a_region():
    new = np.full((32, 64, 3), 128, np.uint8)
    region = np.zeros((32, 64), bool)
    region[:, :40] = True
    shift = fitted(new, new - np.uint8(50), region)[..., 0].astype(int) - 128
    assert (shift[:, :40 - SEAM] == 0).all()  # the canvas ends here, at three sides
    assert (shift[:, 39] < -40).all()  # here only the region does


def test_thin_parts_take_on_what_differs_around_them():
    new = np.full((32, 32, 3), 128, np.uint8)
    region = np.zeros((32, 32), bool)
    region[10:12, :] = True
    assert (fitted(new, new + np.uint8(34), region)[region] == 128 + 32).all()
