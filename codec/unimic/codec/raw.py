"""Fixed-length tokens: what two sides use that share no entropy model."""

from __future__ import annotations

import numpy as np

from unimic.codec.errors import corrupt_payload
from unimic.codec.tokens import Codes, check_codes


def bits_per_token(alphabet: int) -> int:
    """Bits of one token out of ``alphabet``."""
    return (alphabet - 1).bit_length()


def pack_bits(codes: Codes, alphabet: int) -> bytes:
    """``codes`` (int, any shape) in reading order, highest bit first, the last byte zero-padded.

    Raises:
        InvalidInput: a code is outside ``[0, alphabet)``.
    """
    check_codes("codes", codes, alphabet)
    places = np.arange(bits_per_token(alphabet) - 1, -1, -1)
    bits = (codes.reshape(-1, 1) >> places & 1).astype(np.uint8)
    return np.packbits(bits).tobytes()


def unpack_bits(payload: bytes, count: int, alphabet: int) -> Codes:
    """The ``count`` codes of ``payload``: int32 ``(count,)``.

    Raises:
        CorruptData: wrong length, padding that is not zero, or a code outside ``[0, alphabet)``.
    """
    width = bits_per_token(alphabet)
    expected = -(-count * width // 8)
    if len(payload) != expected:
        raise corrupt_payload(
            f"has {len(payload)} bytes, {count} tokens of {width} bits need {expected}")
    bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    if bits[count * width :].any():
        raise corrupt_payload("has padding that is not zero")
    places = np.arange(width - 1, -1, -1, dtype=np.int32)
    grouped = bits[: count * width].reshape(count, width).astype(np.int32)
    codes: Codes = (grouped << places).sum(axis=1, dtype=np.int32)
    if count and codes.max() >= alphabet:
        raise corrupt_payload(f"holds token {codes.max()}, the last one is {alphabet - 1}")
    return codes
