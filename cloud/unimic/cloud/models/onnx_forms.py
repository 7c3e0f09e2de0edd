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
    if is_in_onnx_export():
        return _exported(_Folded, x, last)
    return x.reshape(x.shape[0], x.shape[1], *last)


def scaled_products(x: Tensor, signed: bool, multiplier: Tensor, weights: list[Tensor]) -> Tensor:
    """Integers ``(B, R, n)`` times 8-bit matrices ``(outputs, n)``, side by side, one rounding.

    Args:
        x: whole numbers within ±127, or 0 … 255.
        signed: which of the two.
        multiplier: float32 ``(outputs of all,)``, by which the sums are multiplied.
        weights: the matrices.
    """
    if is_in_onnx_export():
        return _exported(_ScaledProducts, x, signed, multiplier, *weights)
    sums = [torch.matmul(x, weight.to(torch.float32).t()) for weight in weights]
    return (sums[0] if len(sums) == 1 else torch.cat(sums, -1)) * multiplier


def sums_of_squares(x: Tensor, block: int) -> Tensor:
    """Of blocks of the last axis: ``(B, R, W)`` to ``(B, R, W / block)``."""
    if is_in_onnx_export():
        return _exported(_SumsOfSquares, folded(x, -1, block))
    return folded(x, -1, block).square().sum(-1)


def square(x: Tensor) -> Tensor:
    """Clamp to 0 … 255, square, divide by 256 and round."""
    if is_in_onnx_export():
        return _exported(_Square, x)
    x = x.clamp(0, 255)
    return torch.round(x * x * (1 / 256))


def _exported(form: type[Function], *arguments: Any) -> Tensor:
    out: Tensor = form.apply(*arguments)
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
        return x.square().sum(-1)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("ReduceSumSquare", x, _constant(g, [-1], torch.int64), keepdims_i=0)


class _ScaledProducts(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, signed: bool, multiplier: Tensor, *weights: Tensor) -> Tensor:
        return torch.matmul(x, torch.cat(weights).to(torch.float32).t()) * multiplier

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
    """Whole numbers as bytes above ``zero``. `QuantizeLinear` rounds too, half to even."""
    if _is(x, "DequantizeLinear"):  # they were bytes
        return x.node().inputsAt(0)
    if _is(x, "Round"):
        x = x.node().inputsAt(0)
    elif _is(x, "Clip") and _is(x.node().inputsAt(0), "Round"):
        unrounded, low, high = x.node().inputs()
        x = g.op("Clip", unrounded.node().inputsAt(0), low, high)
    return g.op("QuantizeLinear", x, _constant(g, 1.0, torch.float32),
                _constant(g, zero, torch.uint8))


def _is(x: Any, kind: str) -> bool:
    return bool(x.node().kind() == f"onnx::{kind}")


def _constant(g: Any, value: Any, dtype: torch.dtype) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))
