"""Operations that become other ONNX nodes than those that tracing them would give.

ONNX Runtime has kernels that do in one pass over bytes what would be five over float32. Outside an
export each function is plain PyTorch; both compute the same integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.onnx import is_in_onnx_export

RUNTIME = "com.microsoft"
PRODUCT = "MatMulIntegerToFloat"
"""ONNX Runtime's product of 8-bit matrices: an int32 sum, made float32 and multiplied once."""


def folded(x: Tensor, *last: int) -> Tensor:
    """``(B, R, …)`` with its later axes folded to ``last``, one of which may be -1.

    A reshape that keeps two axes, where tracing would compute them from the shape of ``x``.
    """
    return _run(_Folded, x, last)


def scaled_products(x: Tensor, signed: bool, multiplier: Tensor, weights: list[Tensor]) -> Tensor:
    """Integers ``(B, R, n)`` times 8-bit matrices ``(outputs, n)``, side by side, one rounding.

    Args:
        x: whole numbers, −128 … 127 or 0 … 255.
        signed: which of the two.
        multiplier: float32 ``(outputs of all,)``, by which the sums are multiplied.
        weights: the matrices.
    """
    return _run(_ScaledProducts, x, signed, multiplier, *weights)


def sums_of_squares(x: Tensor) -> Tensor:
    """Of the last axis, in float64: ``(B, R, W)`` to ``(B, R, 1)``."""
    return _run(_SumsOfSquares, x.double())


def byte(x: Tensor, unit: float) -> Tensor:
    """Divide by ``unit``, a power of two, round, half to even, and clamp to −128 … 127."""
    return _run(_Byte, x, unit)


def kept(x: Tensor) -> Tensor:
    """Round, half to even, clamp to −128 … 127, as int8."""
    return _run(_Kept, x)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(B, R, heads·D)`` as ``(B, heads, R, D)``."""
    return _run(_SplitHeads, x, heads)


def byte_products(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of bytes ``(…, m, k)`` and int8 ``(…, k, n)``, each sum below 2²⁴."""
    return _run(_ByteProducts, a, b)


def counted_down(x: Tensor, step: float) -> Tensor:
    """255 for 0 and one less for each ``step`` below it, rounded, down to 0."""
    return _run(_CountedDown, x, step)


def rotated(x: Tensor, places: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> Tensor:
    """Turn the first channels of each head: i and i + pairs together, by the angle of the row.

    Exact where ``x`` are integers and the tables have few digits.

    Args:
        x: ``(B, R, heads·D)``.
        places: int64 ``(B, R)``, rows of the tables.
        cosine, sine: ``(places, pairs)``.
        heads: how many.
    """
    if is_in_onnx_export():
        # ONNX Runtime refuses more rows than there are places, though the prompt has one for all.
        cosine, sine = (torch.cat([table, table]) for table in (cosine, sine))
    return _run(_Rotated, x, places, cosine, sine, heads)


def square(x: Tensor) -> Tensor:
    """Clamp to 0 … 255, square, divide by 256 and round."""
    return _run(_Square, x)


def _run(form: Any, *arguments: Any) -> Tensor:
    """A form's node in an export, else what it computes."""
    out: Tensor = (form.apply(*arguments) if is_in_onnx_export()
                   else form.forward(None, *arguments))
    return out


class _Folded(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, last: tuple[int, ...]) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], *last)

    @staticmethod
    def symbolic(g: Any, x: Any, last: tuple[int, ...]) -> Any:
        return g.op("Reshape", x, _constant(g, [0, 0, *last], torch.int64))


class _SumsOfSquares(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("ReduceSumSquare", x, _constant(g, [-1], torch.int64), keepdims_i=1)


class _Byte(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, unit: float) -> Tensor:
        return torch.round(x / unit).clamp(-128, 127)

    @staticmethod
    def symbolic(g: Any, x: Any, unit: float) -> Any:
        zero = _constant(g, 128, torch.uint8)
        return _unpacked(g, _packed(g, x, unit, zero), zero)


class _Kept(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _Byte.forward(ctx, x, 1.0).to(torch.int8)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return _packed(g, x, 1.0, _constant(g, 0, torch.int8))


class _SplitHeads(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    @staticmethod
    def symbolic(g: Any, x: Any, heads: int) -> Any:
        packed = _is(x, "DequantizeLinear")
        rows = g.op("Reshape", x.node().inputsAt(0) if packed else x,
                    _constant(g, [0, 0, heads, -1], torch.int64))
        out = g.op("Transpose", rows, perm_i=[0, 2, 1, 3])
        return _unpacked(g, out, x.node().inputsAt(2)) if packed else out


class _ByteProducts(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b.to(torch.float32))

    @staticmethod
    def symbolic(g: Any, a: Any, b: Any) -> Any:
        whole, _, zero = a.node().inputs()
        one = _constant(g, 1.0, torch.float32)
        return g.op(f"{RUNTIME}::{PRODUCT}", whole, b, one, one, zero,
                    _constant(g, 0, torch.int8))


class _CountedDown(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float) -> Tensor:
        return (torch.round(x / step) + 255).clamp_min(0)

    @staticmethod
    def symbolic(g: Any, x: Any, step: float) -> Any:
        packed = _packed(g, x, step, _constant(g, 255, torch.uint8))
        return _unpacked(g, packed, _constant(g, 0, torch.uint8))


class _Rotated(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, cosine: Tensor, sine: Tensor,
                heads: int) -> Tensor:
        pairs, channels = cosine.shape[1], x.shape[2] // heads
        first, second, rest = x.unflatten(-1, (heads, channels)).split(
            [pairs, pairs, channels - 2 * pairs], -1)
        c, s = (table[places].unsqueeze(2) for table in (cosine, sine))
        return torch.cat([first * c - second * s, second * c + first * s, rest], -1).flatten(2)

    @staticmethod
    def symbolic(g: Any, x: Any, places: Any, cosine: Any, sine: Any, heads: int) -> Any:
        pairs = cosine.type().sizes()[1]
        return g.op(f"{RUNTIME}::RotaryEmbedding", x, places, cosine, sine, num_heads_i=heads,
                    rotary_embedding_dim_i=2 * pairs)


class _ScaledProducts(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, signed: bool, multiplier: Tensor, *weights: Tensor) -> Tensor:
        sums = [torch.matmul(x, weight.to(torch.float32).t()) for weight in weights]
        return (sums[0] if len(sums) == 1 else torch.cat(sums, -1)) * multiplier

    @staticmethod
    def symbolic(g: Any, x: Any, signed: bool, multiplier: Any, *weights: Any) -> Any:
        joined = weights[0] if len(weights) == 1 else g.op("Concat", *weights, axis_i=0)
        zero = 128 if signed else 0
        return g.op(f"{RUNTIME}::{PRODUCT}", _bytes(g, x, zero),
                    g.op("Transpose", joined, perm_i=[1, 0]), _constant(g, 1.0, torch.float32),
                    multiplier, _constant(g, zero, torch.uint8), _constant(g, 0, torch.int8))


class _Square(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x.clamp(0, 255).square() * (1 / 256))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        one, zero = _constant(g, 1.0, torch.float32), _constant(g, 0, torch.uint8)
        whole = _bytes(g, x, 0)
        squared = g.op(f"{RUNTIME}::QLinearMul", whole, one, zero, whole, one, zero,
                       _constant(g, 256.0, torch.float32), zero)
        return g.op("DequantizeLinear", squared, one, zero)


def _bytes(g: Any, x: Any, zero: int) -> Any:
    """Whole numbers as bytes above ``zero``."""
    if _is(x, "DequantizeLinear"):  # they were bytes
        return x.node().inputsAt(0)
    return _packed(g, x, 1.0, _constant(g, zero, torch.uint8))


def _packed(g: Any, x: Any, scale: float, zero: Any) -> Any:
    """`QuantizeLinear` rounds, half to even: what it does not scale need not be rounded before."""
    if scale == 1 and _is(x, "Round"):
        x = x.node().inputsAt(0)
    elif scale == 1 and _is(x, "Clip") and _is(x.node().inputsAt(0), "Round"):
        unrounded, low, high = x.node().inputs()
        x = g.op("Clip", unrounded.node().inputsAt(0), low, high)
    return g.op("QuantizeLinear", x, _constant(g, scale, torch.float32), zero)


def _unpacked(g: Any, x: Any, zero: Any) -> Any:
    return g.op("DequantizeLinear", x, _constant(g, 1.0, torch.float32), zero)


def _is(x: Any, kind: str) -> bool:
    return bool(x.node().kind() == f"onnx::{kind}")


def _constant(g: Any, value: Any, dtype: torch.dtype) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))
