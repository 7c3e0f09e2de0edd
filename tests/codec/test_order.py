"""The coding order is part of the format: these tests fail when a stream would change."""

from __future__ import annotations

import zlib
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimic.codec.image_rows import COORDINATES, FIELDS, Layout, plan_window
from unimic.codec.order import REVEALED, WINDOW, reveal_groups, waves

LAYOUT = Layout(upper=64, lower=128, text=4096, text_positions=64, groups=16)


GOLDEN_CRC = 1987115061


def test_the_order_of_a_full_window_is_golden() -> None:
    groups = reveal_groups(np.ones((WINDOW, WINDOW), np.bool_))
    assert np.bincount(groups.ravel()).tolist() == [0, 8, 8, 16, 16, 16, 32, 32, 32, 32, 64]
    assert zlib.crc32(groups.astype("<i4").tobytes()) == GOLDEN_CRC




@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32))
def test_windows_of_a_wave_do_not_see_each_other(rows: int, columns: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.8
    coded = np.zeros_like(mask)
    for wave in waves(rows, columns):
        for window in wave:
            assert not (window.visible(mask) & mask & ~coded).any()
        for window in wave:
            coded[window.top:window.bottom, window.left:window.right] = True


@given(st.integers(1, 70), st.integers(1, 70))
def test_windows_cover_every_token_once(rows: int, columns: int) -> None:
    covered = np.zeros((rows, columns), int)
    for window in chain.from_iterable(waves(rows, columns)):
        assert 0 < window.bottom - window.top <= WINDOW
        assert 0 < window.right - window.left <= WINDOW
        covered[window.top:window.bottom, window.left:window.right] += 1
    assert (covered == 1).all()


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2**32))
def test_groups_are_dense_and_only_under_the_mask(rows: int, columns: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.5
    groups = reveal_groups(mask)
    assert ((groups > 0) == mask).all()
    assert groups.max(initial=0) <= len(REVEALED)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_a_plan_reads_only_what_both_sides_hold(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, columns)) < 0.6
    codes = rng.integers(0, 8192, mask.shape).astype(np.int32)
    held = np.where(mask, -1, codes)  # the decoder's view: coded tokens arrive window by window
    for window in chain.from_iterable(waves(rows, columns)):
        ours = plan_window(LAYOUT, codes, mask, window, None)
        theirs = plan_window(LAYOUT, held, mask, window, None)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(ours.known, name), getattr(theirs.known, name))
        assert 0 <= ours.known.place.min() <= ours.known.place.max() < COORDINATES**2
        held[ours.rows, ours.columns] = codes[ours.rows, ours.columns]
    np.testing.assert_array_equal(held, codes)
