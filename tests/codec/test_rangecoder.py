"""The range coder: round trip, length, twin, rejection."""

from __future__ import annotations

import doctest
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unimic.codec import rangecoder
from unimic.codec.errors import CorruptData, InvalidInput
from unimic.codec.rangecoder import RangeDecoder, RangeEncoder, information
from unimic.codec.rangecoder_numpy import QueueDecoder, QueueEncoder

needs_constriction = pytest.mark.skipif(
    importlib.util.find_spec("constriction") is None, reason="constriction is not installed"
)


def rows_for(seed: int, count: int, alphabet: int, sharpness: float) -> NDArray[np.int32]:
    random = np.random.default_rng(seed)
    weights = random.random((count, alphabet)) ** sharpness + 1e-12
    total = 2**24 - alphabet
    rows = np.floor(weights / weights.sum(axis=1, keepdims=True) * total).astype(np.int64)
    rows[np.arange(count), random.integers(0, alphabet, count)] += total - rows.sum(axis=1)
    frequencies: NDArray[np.int32] = rows.astype(np.int32)
    return frequencies


@st.composite
def messages(draw: st.DrawFn) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Symbols with rows of frequencies, likely and unlikely ones."""
    alphabet = draw(st.sampled_from([1, 2, 3, 17, 256, 8192]))
    count = draw(st.integers(0, 4 if alphabet == 8192 else 60))
    seed = draw(st.integers(0, 2**32 - 1))
    rows = rows_for(seed, count, alphabet, draw(st.sampled_from([0, 1, 8, 60])))
    taste = draw(st.sampled_from(["any", "likely", "unlikely", "first", "last"]))
    symbols = {
        "any": np.random.default_rng(seed).integers(0, alphabet, count),
        "likely": rows.argmax(axis=1),
        "unlikely": rows.argmin(axis=1),
        "first": np.zeros(count),
        "last": np.full(count, alphabet - 1),
    }[taste]
    return symbols.astype(np.int32), rows


def straddling(count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The middle symbol again and again."""
    half = (2**24 - 3) // 2
    rows = np.tile(np.array([[half, 0, 2**24 - 3 - half]], dtype=np.int32), (count, 1))
    return np.ones(count, dtype=np.int32), rows


def undecided(last: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """All but the last symbol lie around one point, so that many words wait for a carry."""
    encoder, rest, held = QueueEncoder(), 1 << 63, 0  # rest: from the lower end to the point
    symbols, rows = np.array([1] * 12 + [last], np.int32), np.zeros((13, 3), np.int32)
    for i in range(len(symbols)):
        words, (_, width) = encoder.pos()
        left = rest // (width >> 24) - 1
        rows[i] = left - 1, 1, 2**24 - 3 - left
        encoder.encode(symbols[i : i + 1], rows[i : i + 1])
        rest = rest - (width >> 24) * left << 32 * (encoder.pos()[0] - words)
        held = max(held, encoder._held)
    assert held > 2
    return symbols, rows


@given(messages())
@example(straddling(100))
@example(undecided(0))
@example(undecided(2))
def test_round_trip_within_two_bytes_of_the_ideal(
    message: tuple[NDArray[np.int32], NDArray[np.int32]],
) -> None:
    symbols, rows = message
    encoder = RangeEncoder()
    middle = len(symbols) // 2
    encoder.encode(symbols[:middle], rows[:middle])
    encoder.encode(symbols[middle:], rows[middle:])
    payload = encoder.finish()
    decoder = RangeDecoder(payload)
    decoded = [int(decoder.decode(rows[i : i + 1])[0]) for i in range(len(rows))]
    decoder.finish()
    assert decoded == symbols.tolist()
    # Each coding step may lose 2**-8 of the interval, in the rare worst case.
    assert len(payload) <= (float(information(symbols, rows).sum()) + 0.006 * len(symbols)) / 8 + 2
    assert not payload.endswith(b"\0")


@needs_constriction
@given(messages(), st.data())
@example(straddling(100), None)
@example(undecided(0), None)
@example(undecided(2), None)
def test_the_numpy_twin_writes_and_reads_the_same_words(
    message: tuple[NDArray[np.int32], NDArray[np.int32]], data: st.DataObject | None
) -> None:
    symbols, rows = message
    if rows.shape[1] == 1 or not len(symbols):
        return
    original, twin = rangecoder._ConstrictionEncoder(), QueueEncoder()
    for index in range(len(symbols)):
        original.encode(symbols[index : index + 1], rows[index : index + 1])
        twin.encode(symbols[index : index + 1], rows[index : index + 1])
        assert twin.pos() == original.pos()
        assert twin.get_compressed().tolist() == original.get_compressed().tolist()
    words = original.get_compressed()
    assert QueueDecoder(words).decode(rows).tolist() == symbols.tolist()
    # On words that nobody wrote they agree too, also in refusing them.
    if data is not None:
        words = np.array(data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=4)),
                         dtype=np.uint32)
    assert _outcome(QueueDecoder(words), rows) == _outcome(
        rangecoder._ConstrictionDecoder(words), rows
    )


def _outcome(decoder: rangecoder._ConstrictionDecoder | QueueDecoder, rows: NDArray[np.int32]
             ) -> list[int] | None:
    try:
        return [int(symbol) for symbol in decoder.decode(rows)]
    except AssertionError:
        return None


def test_payloads_are_the_same_without_constriction(monkeypatch: pytest.MonkeyPatch) -> None:
    messages_ = [
        (np.random.default_rng(seed).integers(0, 17, 40).astype(np.int32),
         rows_for(seed, 40, 17, 4))
        for seed in range(30)
    ]

    def payloads() -> list[bytes]:
        result = []
        for symbols, rows in messages_:
            encoder = RangeEncoder()
            encoder.encode(symbols, rows)
            result.append(encoder.finish())
            decoder = RangeDecoder(result[-1])
            assert np.array_equal(decoder.decode(rows), symbols)
            decoder.finish()
        return result

    expected = payloads()
    monkeypatch.setattr(rangecoder, "_Encoder", QueueEncoder)
    monkeypatch.setattr(rangecoder, "_Decoder", QueueDecoder)
    assert payloads() == expected


def test_golden_bytes() -> None:
    """Files already written must stay readable: a change here is a new format."""
    assert golden() == GOLDEN


def test_golden_bytes_where_constriction_cannot_be_imported() -> None:
    program = f"""
import sys
sys.modules["constriction"] = None
from pathlib import Path
names = {{}}
exec(compile(Path({__file__!r}).read_text(), "test", "exec"), names)
assert names["rangecoder"].constriction is None
assert names["golden"]() == names["GOLDEN"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


GOLDEN = "7b9d252b9aa18cbac7df"


def golden() -> str:
    row = np.array([[9_000_000, 2**24 - 4 - 9_004_000, 4_000, 0]], dtype=np.int32)
    symbols = np.array([0, 1, 1, 0, 2, 0, 3, 1, 0, 0, 2, 3], dtype=np.int32)
    encoder = RangeEncoder()
    encoder.encode(symbols, np.repeat(row, len(symbols), axis=0))
    return encoder.finish().hex()


def test_certain_symbols_take_no_byte() -> None:
    rows = np.array([[2**24 - 3, 0, 0]], dtype=np.int32).repeat(1000, axis=0)
    encoder = RangeEncoder()
    encoder.encode(np.zeros(1000, dtype=np.int32), rows)
    assert encoder.finish() == b""
    assert RangeEncoder().finish() == b""


@given(messages(), st.data())
def test_any_other_payload_is_rejected_or_decodes_to_other_symbols(
    message: tuple[NDArray[np.int32], NDArray[np.int32]], data: st.DataObject
) -> None:
    symbols, rows = message
    encoder = RangeEncoder()
    encoder.encode(symbols, rows)
    payload = encoder.finish()
    other = data.draw(st.one_of(
        st.binary(max_size=len(payload) + 9),
        st.binary(min_size=1, max_size=3).map(lambda more: payload + more),
        st.integers(0, len(payload)).map(lambda end: payload[:end]),
    ))
    if other == payload:
        return
    decoder = RangeDecoder(other)
    try:
        decoded = decoder.decode(rows)
        decoder.finish()
    except CorruptData:
        return
    assert not np.array_equal(decoded, symbols)


@pytest.mark.parametrize("rows", [
    np.array([[2**24 - 2, 1]], dtype=np.int32),
    np.array([[2**24 - 1, -1]], dtype=np.int32),
    np.array([[2**24 - 2, 0]], dtype=np.int64),
    np.array([2**24 - 2, 0], dtype=np.int32),
    np.zeros((1, 0), dtype=np.int32),
])
def test_rows_that_are_no_frequencies_are_refused(rows: NDArray[np.int32]) -> None:
    with pytest.raises(InvalidInput, match="frequencies"):
        RangeEncoder().encode(np.zeros(1, dtype=np.int32), rows)
    with pytest.raises(InvalidInput, match="frequencies"):
        RangeDecoder(b"").decode(rows)


def test_symbols_that_do_not_fit_are_refused() -> None:
    rows = np.array([[2**24 - 2, 0]], dtype=np.int32)
    with pytest.raises(InvalidInput, match="symbols"):
        RangeEncoder().encode(np.array([2], dtype=np.int32), rows)
    with pytest.raises(InvalidInput, match="symbols"):
        RangeEncoder().encode(np.array([0, 1], dtype=np.int32), rows)


def test_the_documented_example() -> None:
    assert doctest.testmod(rangecoder).failed == 0
    assert doctest.testmod(rangecoder).attempted > 5


def test_the_numpy_twin_refuses_what_no_encoder_wrote() -> None:
    rows = rows_for(0, 1, 3, 1)
    for words in ([2**32 - 1] * 2, [2**32 - 1] * 5):
        with pytest.raises(AssertionError):
            QueueDecoder(np.array(words, np.uint32)).decode(rows)
