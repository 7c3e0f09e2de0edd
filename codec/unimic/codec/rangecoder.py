"""Range coding: symbols and their integer frequencies to the fewest bytes, and back.

The coder is ``constriction``'s queue (Bamler, arXiv 2201.01741; the range coder of Martin, 1979)
with 32-bit words, 64-bit state and 24-bit probabilities. What is added here: frequencies are
integers from beginning to end, the result is cut to the shortest byte string instead of whole
words, and a decoder rejects every byte string but that one.

Frequencies: for each symbol to code one row, int32 ``(alphabet,)``, not negative, with sum
``2**24 - alphabet``. The probability of symbol ``s`` is exactly ``(row[s] + 1) / 2**24``: the coder
adds one to each, so that no symbol is impossible.

    >>> import numpy as np
    >>> row = np.array([[2**24 - 3 - 5000, 5000, 0]], dtype=np.int32)
    >>> encoder = RangeEncoder()
    >>> encoder.encode(np.array([1, 2], dtype=np.int32), np.repeat(row, 2, axis=0))
    >>> payload = encoder.finish()
    >>> decoder = RangeDecoder(payload)
    >>> decoder.decode(np.repeat(row, 2, axis=0)).tolist()
    [1, 2]
    >>> decoder.finish()
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unimic.codec import rangecoder_numpy
from unimic.codec.errors import InvalidInput, corrupt_payload
from unimic.codec.tokens import check_codes

try:
    import constriction
except ImportError:  # there is no wheel for 64-bit ARM Linux
    constriction = None

PRECISION = 24
WORD_BITS = 32
STATE_BITS = 64

Symbols = NDArray[np.int32]
Frequencies = NDArray[np.int32]


class WordEncoder(Protocol):
    """What is needed of a coder of whole words; `rangecoder_numpy` has one too."""

    def encode(self, symbols: Symbols, frequencies: Frequencies) -> None: ...
    def get_compressed(self) -> NDArray[np.uint32]: ...
    def pos(self) -> tuple[int, tuple[int, int]]: ...


class _ConstrictionEncoder:
    def __init__(self) -> None:
        self._queue = constriction.stream.queue.RangeEncoder()
        self.get_compressed = self._queue.get_compressed
        self.pos = self._queue.pos

    def encode(self, symbols: Symbols, frequencies: Frequencies) -> None:
        self._queue.encode(symbols, _categorical(), _weights(frequencies))


class _ConstrictionDecoder:
    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._queue = constriction.stream.queue.RangeDecoder(words)

    def decode(self, frequencies: Frequencies) -> Symbols:
        symbols: Symbols = self._queue.decode(_categorical(), _weights(frequencies))
        return symbols


def _categorical() -> object:
    return constriction.stream.model.Categorical(perfect=False)


def _weights(frequencies: Frequencies) -> NDArray[np.float32]:
    # Whole numbers below 2**24 are exact in float32, and so are their sums in any order. The fast
    # categorical scales by (2**24 - alphabet) / sum, which is 1: its table is the integers' own.
    return np.ascontiguousarray(frequencies, dtype=np.float32)


_Encoder: type[WordEncoder]
_Decoder: type[_ConstrictionDecoder] | type[rangecoder_numpy.QueueDecoder]
if constriction is None:
    _Encoder, _Decoder = rangecoder_numpy.QueueEncoder, rangecoder_numpy.QueueDecoder
else:
    _Encoder, _Decoder = _ConstrictionEncoder, _ConstrictionDecoder


class RangeEncoder:
    """Writes symbols, first in, first out."""

    def __init__(self) -> None:
        self._words = _Encoder()

    def encode(self, symbols: Symbols, frequencies: Frequencies) -> None:
        """Append ``symbols`` (int32 ``(n,)``) under ``frequencies`` (int32 ``(n, alphabet)``).

        Raises:
            InvalidInput: the shapes differ, a symbol is outside the alphabet, or a row is not one
                of frequencies (see the module's text).
        """
        _check_frequencies(frequencies)
        if symbols.shape != frequencies.shape[:1]:
            raise InvalidInput("symbols", f"shape {symbols.shape} for {len(frequencies)} rows of "
                               "frequencies", "pass one row for each symbol")
        check_codes("symbols", symbols, frequencies.shape[1])
        self._append(symbols, frequencies)

    def _append(self, symbols: Symbols, frequencies: Frequencies) -> None:
        if len(symbols) and frequencies.shape[1] > 1:  # the only symbol of an alphabet is certain
            self._words.encode(np.ascontiguousarray(symbols, dtype=np.int32), frequencies)

    def finish(self) -> bytes:
        """The shortest byte string that decodes to the symbols so far.

        It is at most one byte longer than the state's information, and never ends in a zero byte.
        The encoder may go on afterwards: nothing is changed.
        """
        words, (lower, width) = self._words.pos()
        state_bytes = STATE_BITS // 8
        size = words * WORD_BITS // 8 + state_bytes
        # The symbols are every number in [first, first + width), as fractions with `size` bytes.
        # `get_compressed` settles carries into the words that are out; its next word is the top of
        # lower + 2**32 - 1 (all mod 2**64), from which the exact lower end follows.
        margin = (1 << (STATE_BITS - WORD_BITS)) - 1
        sealed = self._words.get_compressed()[: words + 1]
        if not len(sealed):
            return b""
        top = int.from_bytes(sealed.astype(">u4").tobytes(), "big")
        point = (top << WORD_BITS) | ((lower + margin) & margin)
        first = point - margin
        last = first + width - 1
        if first == 0:
            return b""
        # The largest power of 256 of which a multiple lies in the interval: what comes after the
        # highest byte in which first - 1 and last differ can be zero, so it need not be sent.
        spare = ((first - 1) ^ last).bit_length() - 1 >> 3
        return (last >> 8 * spare).to_bytes(size - spare, "big")


class RangeDecoder:
    """Reads what `RangeEncoder` wrote.

    Args:
        payload: of `RangeEncoder.finish`; any bytes are safe.
    """

    def __init__(self, payload: bytes) -> None:
        word_bytes = WORD_BITS // 8
        size = max(-(-len(payload) // word_bytes) * word_bytes, STATE_BITS // 8)
        padded = payload.ljust(size, b"\0")
        self._payload = payload
        self._words = _Decoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))
        self._again = RangeEncoder()

    def decode(self, frequencies: Frequencies) -> Symbols:
        """The next symbols, int32 ``(n,)``, under ``frequencies`` (int32 ``(n, alphabet)``).

        Raises:
            InvalidInput: a row is not one of frequencies (see the module's text).
            CorruptData: no encoder wrote such a payload.
        """
        _check_frequencies(frequencies)
        if not len(frequencies) or frequencies.shape[1] == 1:
            return np.zeros(len(frequencies), dtype=np.int32)
        try:
            symbols = self._words.decode(frequencies)
        except AssertionError as error:
            raise corrupt_payload("is no range coder's output") from error
        self._again._append(symbols, frequencies)
        return symbols

    def finish(self) -> None:
        """Check that the payload is, byte for byte, what the symbols so far are encoded to.

        A decoder reads any bytes: what is cut off counts as zeros, what follows the last symbol is
        never looked at. So the symbols are encoded again beside the decoding (about 10 µs each for
        8,192 symbols), and the bytes compared.

        Raises:
            CorruptData: they differ.
        """
        expected = self._again.finish()
        if self._payload != expected:
            raise corrupt_payload(f"has {len(self._payload)} bytes that are not the "
                                  f"{len(expected)} of its tokens")


def information(symbols: Symbols, frequencies: Frequencies) -> NDArray[np.float64]:
    """Bits ``(n,)`` of ``symbols`` (``(n,)``) under ``frequencies`` (``(n, alphabet)``)."""
    picked = frequencies[np.arange(len(symbols)), symbols].astype(np.float64)
    return PRECISION - np.log2(picked + 1)


def all_information(frequencies: Frequencies) -> NDArray[np.float64]:
    """Bits of every symbol under ``frequencies``, of the same shape."""
    return np.asarray(PRECISION - np.log2(frequencies + 1.0), np.float64)


def _check_frequencies(frequencies: Frequencies) -> None:
    if frequencies.dtype != np.int32 or frequencies.ndim != 2 or not frequencies.shape[1]:
        raise InvalidInput("frequencies", f"{frequencies.dtype} {frequencies.shape}",
                           "pass int32 (n, alphabet)")
    total = (1 << PRECISION) - frequencies.shape[1]
    if len(frequencies) and (
        frequencies.min() < 0 or (frequencies.sum(axis=1, dtype=np.int64) != total).any()
    ):
        raise InvalidInput("frequencies", f"a row is negative or does not sum to {total}",
                           "normalise each row to 2**24 - alphabet")
