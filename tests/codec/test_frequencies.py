"""From logits to frequencies."""

from __future__ import annotations

import zlib
from decimal import ROUND_FLOOR, Context, localcontext

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unimic.codec.frequencies import (
    _WEIGHTS,
    LOGIT_SCALE,
    SKIP_ALL,
    _weights,
    certain,
    frequencies,
)

GOLDEN_CRC = 1796545749


@given(st.integers(1, 9000), st.integers(1, 5), st.floats(0, 3000), st.integers(0, 2**32))
def test_rows_are_what_the_range_coder_takes(alphabet: int, rows: int, spread: float,
                                             seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(rows, alphabet)) * spread).astype(np.float32)
    table = frequencies(logits)
    assert table.dtype == np.int32
    assert table.min() >= 0
    assert (table.sum(1, dtype=np.int64) == 2**24 - alphabet).all()


def test_they_follow_the_softmax() -> None:
    logits = np.array([[0.0, 1.0, -2.0, 0.5]]) * LOGIT_SCALE
    expected = np.exp(logits / LOGIT_SCALE) / np.exp(logits / LOGIT_SCALE).sum()
    np.testing.assert_allclose(frequencies(logits.astype(np.float32)) / 2**24, expected, rtol=1e-5)


def test_a_shift_of_all_logits_changes_nothing() -> None:
    logits = np.random.default_rng(0).integers(-500, 500, (4, 64)).astype(np.float32)
    np.testing.assert_array_equal(frequencies(logits), frequencies(logits + 77))


def test_the_table_is_golden() -> None:
    logits = -np.arange(600, dtype=np.float32)[None]
    assert zlib.crc32(frequencies(logits).astype("<i4").tobytes()) == GOLDEN_CRC


def test_a_program_that_rounds_otherwise_gets_the_same_table() -> None:
    with localcontext(Context(5, ROUND_FLOOR)):
        np.testing.assert_array_equal(_weights(), _WEIGHTS)


def test_what_is_certain() -> None:
    """A probability of one half is sure enough at a threshold of one half, and not below."""
    even = np.array([[2**23 - 1, 2**23 - 1]], np.int32)
    assert certain(even, SKIP_ALL // 2).all()
    assert not certain(even, SKIP_ALL // 2 - 1).any()
    assert certain(even, SKIP_ALL).all()


def test_what_rounding_leaves_over_goes_to_the_most_probable() -> None:
    table = frequencies(np.array([[0, 0, 0, 1, 1]], np.float32) * LOGIT_SCALE)[0]
    assert table[0] == table[1] == table[2] < table[4] <= table[3]
    assert table[3] - table[4] == 2**24 - 5 - 3 * table[0] - 2 * table[4] > 0
