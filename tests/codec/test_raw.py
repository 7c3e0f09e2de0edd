"""Fixed-length tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimic.codec.errors import CorruptData, InvalidInput
from unimic.codec.raw import bits_per_token, pack_bits, unpack_bits


@given(st.data())
def test_round_trip_in_the_fewest_whole_bits(data: st.DataObject) -> None:
    alphabet = data.draw(st.integers(1, 2**17))
    codes = np.array(data.draw(st.lists(st.integers(0, alphabet - 1), max_size=50)), dtype=np.int32)
    payload = pack_bits(codes, alphabet)
    assert len(payload) == -(-len(codes) * (alphabet - 1).bit_length() // 8)
    back = unpack_bits(payload, len(codes), alphabet)
    assert back.dtype == np.int32
    assert np.array_equal(back, codes)


def test_sizes() -> None:
    assert [bits_per_token(n) for n in (1, 2, 3, 4096, 4097, 8192)] == [0, 1, 2, 12, 13, 13]
    assert pack_bits(np.array([1, 8191], dtype=np.int32), 8192).hex() == "000fffc0"


@pytest.mark.parametrize(("payload", "count", "alphabet"), [
    (b"", 1, 2), (b"\x80\x00", 1, 2),  # wrong lengths
    (b"\x81", 1, 2),  # padding
    (b"\xc0", 1, 3),  # 3 of 0 … 2
    (b"", 10**12, 8192),  # a forged count
])
def test_damage_is_found(payload: bytes, count: int, alphabet: int) -> None:
    with pytest.raises(CorruptData, match="payload"):
        unpack_bits(payload, count, alphabet)


@pytest.mark.parametrize("code", [-1, 5])
def test_codes_outside_the_alphabet_are_refused(code: int) -> None:
    with pytest.raises(InvalidInput, match="codes"):
        pack_bits(np.array([code], dtype=np.int32), 5)
