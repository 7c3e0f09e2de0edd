"""How new pixels join old ones."""

from __future__ import annotations

import numpy as np
import pytest

from unimic.edge.seams import RING, SEAM, adjusted, seam_weights


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


def test_seams_lie_inside_the_mask():
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:50] = True
    weights = seam_weights(mask)
    assert weights.shape == (64, 64)
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    across = weights[25, 20:24]
    assert (np.diff(across) > 0).all()
    assert across[-1] == 1
    assert weights[10 + SEAM, 20 + SEAM] == 1


def test_seams_know_a_border_of_the_mask_from_one_of_the_canvas():
    mask = np.zeros((32, 48), bool)
    mask[:, :32] = True
    weights = seam_weights(mask)
    assert (weights[:, 0] == 1).all()  # the canvas ends here
    assert (weights[:, 31] < 1).all()  # here only the mask does


def test_thin_parts_are_wholly_new():
    mask = np.zeros((32, 32), bool)
    mask[10:12, :] = True
    assert (seam_weights(mask)[mask] == 1).all()
