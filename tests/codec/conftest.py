"""A coder without a network, for everything around one, and things to draw from."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from unimic.codec.coder import Coder, load_coder
from unimic.codec.rangecoder import RangeDecoder, RangeEncoder, information
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, Distances, Mask, TokenSpace


@dataclass(frozen=True)
class FakeCoded:
    payload: bytes
    ideal_bits: float
    codes: Codes

    @property
    def token_bits(self) -> NDArray[np.float64]:
        return np.full(self.codes.shape, self.ideal_bits / max(1, self.codes.size))


class FakeCoder:
    """Frequencies that depend on all that both sides hold, so that a difference shows."""

    def __init__(self, image_codes: int = 64, text_codes: int = 4096) -> None:
        self.space = TokenSpace(b"fakefake", image_codes=image_codes, text_codes=text_codes)
        self.image_model: bytes | None = b"image---"
        self.text_model: bytes | None = b"text----"

    def encode_image(
        self, codes: Codes, *, mask: Mask | None = None, hole: Mask | None = None,
        prompt: Codes | None = None, skip: int = 0, distances: Distances | None = None,
        price: float = 0.0
    ) -> FakeCoded:
        assert not skip, "the fake sends everything"
        sent = np.ones(codes.shape, dtype=np.bool_) if mask is None else mask
        rows = self._rows(np.where(sent, 0, codes), sent, prompt)
        return _encode(codes[sent], rows, codes)

    def decode_image(
        self, payload: bytes, codes: Codes, *, mask: Mask | None = None,
        hole: Mask | None = None, prompt: Codes | None = None, skip: int = 0
    ) -> Codes:
        sent = np.ones(codes.shape, dtype=np.bool_) if mask is None else mask
        codes = np.where(sent, 0, codes)
        codes[sent] = _decode(payload, self._rows(codes, sent, prompt))
        return codes

    def encode_text(self, ids: Codes) -> FakeCoded:
        return _encode(ids, frequency_rows(0, len(ids), self.space.text_codes), ids)

    def decode_text(self, payload: bytes, count: int) -> Codes:
        return _decode(payload, frequency_rows(0, count, self.space.text_codes))

    def _rows(self, known: Codes, sent: Mask, prompt: Codes | None) -> NDArray[np.int32]:
        context = known.tobytes() + (b"" if prompt is None else b"p" + prompt.tobytes())
        return frequency_rows(zlib.crc32(context), int(sent.sum()), self.space.image_codes)


def frequency_rows(seed: int, count: int, alphabet: int) -> NDArray[np.int32]:
    """``count`` rows of frequencies that each favour one random symbol."""
    random = np.random.default_rng(seed)
    total = 2**24 - alphabet
    rows = random.integers(0, total // alphabet, (count, alphabet), dtype=np.int32)
    favourites = random.integers(0, alphabet, count)
    rows[np.arange(count), favourites] += total - rows.sum(axis=1, dtype=np.int32)
    return rows


def _encode(symbols: Codes, rows: NDArray[np.int32], codes: Codes) -> FakeCoded:
    encoder = RangeEncoder()
    encoder.encode(symbols.astype(np.int32), rows)
    return FakeCoded(encoder.finish(), float(information(symbols, rows).sum()), codes)


def _decode(payload: bytes, rows: NDArray[np.int32]) -> Codes:
    decoder = RangeDecoder(payload)
    symbols = decoder.decode(rows)
    decoder.finish()
    return symbols


@pytest.fixture(scope="session")
def coder() -> FakeCoder:
    return FakeCoder()


@pytest.fixture(scope="session")
def shipped(store: ModelStore) -> Coder:
    """The coder of the shipped models."""
    return load_coder(store)
