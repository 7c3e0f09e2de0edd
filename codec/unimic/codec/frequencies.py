"""From a network's integer logits to the coder's integer frequencies, in integers throughout."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from unimic.codec.rangecoder import PRECISION, Frequencies

SKIP_ALL = 256  # the largest `certain` threshold: everything is
LOGIT_SCALE = 32  # logits are integers, in this many steps a nat
_NATS = 16  # further below the largest, a symbol's weight is that of the last entry


def _weights() -> NDArray[np.int64]:
    # Decimal arithmetic gives the same digits on every machine; a C library's exp may not. Nor may
    # the context of the program that imports this: it could round otherwise.
    with localcontext(Context(40, ROUND_HALF_EVEN, -9999, 9999, traps=[])):
        exact = [(Decimal(-i) / LOGIT_SCALE).exp() * 2**PRECISION
                 for i in range(_NATS * LOGIT_SCALE)]
        return np.array([int(x.to_integral_value()) for x in exact], np.int64)


_WEIGHTS = _weights()


def frequencies(logits: NDArray[np.float32]) -> Frequencies:
    """Softmax in integers.

    Args:
        logits: ``(n, alphabet)``, whole numbers, `LOGIT_SCALE` steps a nat.

    Returns:
        int32 ``(n, alphabet)``; each row sums to ``2**24 - alphabet``. What rounding leaves over
        goes to the most probable symbol (the first of equals).
    """
    steps = logits.astype(np.int64)
    below = steps.max(1, keepdims=True) - steps
    weights = _WEIGHTS[np.minimum(below, len(_WEIGHTS) - 1)]
    total = (1 << PRECISION) - logits.shape[1]
    # weights ≤ 2**24 and total < 2**24, so the products stay below 2**48.
    out = weights * total // weights.sum(1, keepdims=True)
    rows = np.arange(len(out))
    out[rows, below.argmin(1)] += total - out.sum(1)
    return np.asarray(out, np.int32)


def certain(table: Frequencies, skip: int) -> NDArray[np.bool_]:
    """Rows of `frequencies` whose most probable symbol need not be sent.

    Args:
        table: int32 ``(n, alphabet)``.
        skip: 1 … `SKIP_ALL`: a probability of at least ``1 - skip / SKIP_ALL`` is certain.
    """
    largest = table.max(1).astype(np.int64) + 1
    return np.asarray(largest * SKIP_ALL >= (SKIP_ALL - skip) << PRECISION)
