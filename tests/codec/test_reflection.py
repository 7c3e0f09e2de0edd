"""Mirror images around a hole."""

from __future__ import annotations

import numpy as np
import pytest

from unimic.codec.reflection import REACH, reflection


def mask(*box: int, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    hole = np.zeros(shape, bool)
    top, left, bottom, right = box
    hole[top:bottom, left:right] = True
    return hole


def test_each_pixel_is_mirrored_in_the_nearest_border():
    seen = reflection(mask(10, 20, 30, 50))
    for (y, x), image in {(10, 35): (9, 35), (12, 35): (7, 35), (29, 40): (30, 40),
                          (20, 20): (20, 19), (20, 23): (20, 16), (18, 48): (18, 51)}.items():
        assert (seen.rows[y, x], seen.columns[y, x]) == image
    assert seen.closeness[10, 35] > seen.closeness[12, 35] > seen.closeness[20, 35] > 0


@pytest.mark.parametrize("hole", [mask(10, 20, 30, 50), mask(0, 0, 40, 10), mask(35, 0, 40, 60),
                                  mask(10, 5, 30, 20) | mask(25, 15, 38, 55)])
def test_mirror_images_are_never_in_the_hole(hole):
    seen = reflection(hole)
    told = seen.closeness > 0
    assert told.any()
    assert not hole[seen.rows[told], seen.columns[told]].any()
    assert not told[~hole].any()
    moved = np.abs(np.indices(hole.shape) - [seen.rows, seen.columns])
    assert (moved[:, told].min(0) == 0).all()  # along a row or a column
    assert (moved[:, told].max(0) % 2 == 1).all()


def test_where_nothing_is_around_there_are_none():
    assert not reflection(np.ones((8, 8), bool)).closeness.any()
    assert not reflection(np.zeros((8, 8), bool)).closeness.any()
    wide = reflection(mask(0, 0, 8, 300, shape=(8, 600)))
    assert (wide.closeness[:, :300 - REACH] == 0).all()
    assert (wide.closeness[:, 300 - REACH + 1:300] > 0).all()
    assert not reflection(mask(0, 0, 8, 590, shape=(8, 600))).closeness[:, 300:570].any()


def test_a_picture_on_its_side_is_mirrored_on_its_side():
    hole = mask(10, 20, 30, 50)
    seen, turned = reflection(hole), reflection(hole.T)
    np.testing.assert_array_equal(seen.closeness, turned.closeness.T)
