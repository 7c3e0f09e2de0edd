"""``constriction``'s range coder (`stream.queue`) in Python and NumPy, word for word the same.

Used only where ``constriction`` cannot be installed. A word is 32 bits, the state 64 bits, a
probability 24 bits. The state is an interval ``[lower, lower + width)`` of the numbers modulo
2**64. Where it wraps around, the words that have left the state may still change by a carry; they
are held back as one word and a count of words that are all ones (or, with the carry, all zeros).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PRECISION = 24
_WORD = (1 << 32) - 1
_STATE = (1 << 64) - 1


class QueueEncoder:
    """Twin of ``constriction.stream.queue.RangeEncoder``."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._lower = 0
        self._width = _STATE
        self._held = 0  # words held back because of a carry that may come
        self._first_held = 0

    def encode(self, symbols: NDArray[np.int32], frequencies: NDArray[np.int32]) -> None:
        """Append ``symbols`` ``(n,)`` under ``frequencies`` ``(n, alphabet)``."""
        for symbol, row in zip(symbols.tolist(), frequencies, strict=True):
            left = int(row[:symbol].sum(dtype=np.int64)) + symbol
            self._narrow(left, int(row[symbol]) + 1)

    def _narrow(self, left: int, probability: int) -> None:
        scale = self._width >> _PRECISION
        before, self._lower = self._lower, (self._lower + scale * left) & _STATE
        self._width = scale * probability
        if self._held and self._lower + self._width <= _STATE:
            self._words += self._settled(self._lower < before)
            self._held = 0
        if self._width <= _WORD:
            word = self._lower >> 32
            self._lower = (self._lower << 32) & _STATE
            self._width <<= 32
            if self._held:
                self._held += 1
            elif self._lower + self._width <= _STATE:
                self._words.append(word)
            else:
                self._held, self._first_held = 1, word

    def _settled(self, carry: bool) -> list[int]:
        if not self._held:
            return []
        first, others = (self._first_held + 1, 0) if carry else (self._first_held, _WORD)
        return [first & _WORD, *[others] * (self._held - 1)]

    def pos(self) -> tuple[int, tuple[int, int]]:
        """Number of words that have left the state, held ones included, and the state."""
        return len(self._words) + self._held, (self._lower, self._width)

    def get_compressed(self) -> NDArray[np.uint32]:
        """The words that ``constriction`` gives: enough to decode whatever words follow."""
        if self._width == _STATE:
            return np.zeros(0, dtype=np.uint32)
        point = (self._lower + _WORD) & _STATE
        words = [*self._words, *self._settled(point < self._lower), point >> 32]
        if ((self._lower + self._width) & _STATE) >> 32 == point >> 32:
            words.append(0)
        return np.array(words, dtype=np.uint32)


class QueueDecoder:
    """Twin of ``constriction.stream.queue.RangeDecoder``; past the end it reads zeros."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = iter(words.tolist())
        self._lower = 0
        self._width = _STATE
        self._point = (next(self._words, 0) << 32) | next(self._words, 0)

    def decode(self, frequencies: NDArray[np.int32]) -> NDArray[np.int32]:
        """The next symbols ``(n,)`` under ``frequencies`` ``(n, alphabet)``."""
        right = np.cumsum(frequencies + np.int32(1), axis=1, dtype=np.int64)
        symbols = [self._next(row) for row in right]
        return np.array(symbols, dtype=np.int32)

    def _next(self, right: NDArray[np.int64]) -> int:
        scale = self._width >> _PRECISION
        quantile = ((self._point - self._lower) & _STATE) // scale
        if quantile >> _PRECISION:
            raise AssertionError("no encoder wrote such words")
        symbol = int(np.searchsorted(right, quantile, side="right"))
        left = int(right[symbol - 1]) if symbol else 0
        self._lower = (self._lower + scale * left) & _STATE
        self._width = scale * (int(right[symbol]) - left)
        if self._width <= _WORD:
            self._lower = (self._lower << 32) & _STATE
            self._width <<= 32
            self._point = ((self._point << 32) & _STATE) | next(self._words, 0)
        return symbol
