"""Masks: round trip, and few bits where they have a shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unimic.codec.errors import CorruptData
from unimic.codec.masks import decode_mask, encode_mask
from unimic.codec.tokens import Mask


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_round_trip(mask: Mask) -> None:
    payload, bits = encode_mask(mask)
    assert np.array_equal(decode_mask(payload, *mask.shape), mask)
    assert len(payload) <= bits / 8 + 2


def rectangle(rows: int, columns: int, top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros((rows, columns), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(("mask", "most"), [
    (rectangle(16, 16, 0, 0, 0, 0), 1),
    (rectangle(16, 16, 0, 0, 16, 16), 1),
    (rectangle(16, 16, 4, 3, 9, 12), 4),
    (~rectangle(16, 24, 0, 4, 16, 20), 4),  # a picture extended to both sides
    (rectangle(188, 250, 40, 100, 90, 180), 12),
])
def test_regions_take_a_few_bytes(mask: Mask, most: int) -> None:
    assert len(encode_mask(mask)[0]) <= most


def test_golden_bytes() -> None:
    """Masks already written must stay readable: a change here is a new format."""
    rows, columns = np.mgrid[:14, :18]
    disc = (rows - 6) ** 2 + (columns - 9) ** 2 < 30
    assert encode_mask(disc)[0].hex() == "4eee1231c202491db727b15f"


@given(st.binary(max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_any_bytes_are_a_mask_or_corrupt(payload: bytes, rows: int, columns: int) -> None:
    try:
        mask = decode_mask(payload, rows, columns)
    except CorruptData:
        return
    assert encode_mask(mask)[0] == payload
