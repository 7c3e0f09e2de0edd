"""Integer arithmetic that is exact on any device, and its trainable twin.

Every network that gives probabilities to the range coder is written once, over the operations of
this module, and runs in three ways:

* *float*: ordinary training; nothing is rounded, attention is the fused kernel;
* *quantised*: quantisation-aware training; the same roundings as below, with straight-through
  gradients (Jacob et al., arXiv 1712.05877);
* *exact*: what is shipped. Every tensor holds integers in float32 and every sum is bounded below
  2²⁴ (of squares, in float64, 2⁵³), so float additions are exact in any order, with or without
  fused multiply-add. Between sums there are only correctly rounded operations (× ÷ √) that nothing
  can be fused with, and then a rounding to integers. Both factors of every product are bytes.

Values are carried multiplied by a scale in all three ways: a normalised activation of 1.0 is 32, a
residual of 1.0 is 32, a query or key of 1.0 is 16, a logit of 1 nat is 32.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.models.onnx_forms import (
    byte,
    byte_products,
    counted_down,
    folded,
    kept,
    scaled_products,
    square,
    sums_of_squares,
)
from unimic.codec.proof import LIMIT, ROTATION_ONE, TABLE_MAX

ACTIVATION_SCALE, ACTIVATION_MAX = 32.0, 128  # −128 … 127
RESIDUAL_SCALE = 32.0
HEAD_SCALE = 16.0
QUERY_MAX = 128  # −128 … 127
KEY_MAX = 127  # no -128: ARM processors without dot products add two products in 16 bits
VALUE_MAX = 100  # as large as the sums of weighted values allow
HIDDEN_SCALE, HIDDEN_MAX = 64.0, 255  # before squaring
SQUARED_SCALE, SQUARED_MAX = 16.0, 254  # after squaring and dividing by 256
KERNEL_NATS = 8.0  # attention weight is (1 - x/8)⁸ for a logit about x nats below the largest
WEIGHT_MAX = 248  # 255 squared, divided by 256 and rounded three times
HIDDEN_KEY = 2.0**23  # subtracted from the products of keys that may not be seen: below any other


def square_root(x: Tensor) -> Tensor:
    """The square root of float64 integers, in float32: two correctly rounded operations.

    PyTorch's own root in float32 on a CPU is off by one unit in the last place for one integer in
    five.
    """
    return torch.sqrt(x).float()


class Mode(Enum):
    """How a network computes; see the module's description."""

    FLOAT = "float"
    QUANTISED = "quantised"
    EXACT = "exact"


class Arithmetic(nn.Module):
    """Base of every module whose roundings follow the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = Mode.FLOAT

    def limit(self, x: Tensor, largest: float) -> Tensor:
        """Clamp to the range that the proof relies on; not needed in float."""
        return x if self.mode is Mode.FLOAT else x.clamp(-largest, largest)

    def round(self, x: Tensor) -> Tensor:
        if self.mode is Mode.FLOAT:
            return x
        if self.mode is Mode.EXACT:
            return torch.round(x)
        return x + (torch.round(x) - x).detach()  # half to even; the gradient of the identity

    def byte(self, x: Tensor, unit: float = 1.0) -> Tensor:
        """Multiples of ``unit``, a power of two, rounded to −128 … 127; in float not rounded."""
        if self.mode is Mode.EXACT:
            return byte(x, unit)
        x = x / unit
        return x if self.mode is Mode.FLOAT else self.round(x).clamp(-128, 127)

    def keep(self, x: Tensor) -> Tensor:
        """`byte`, in the type that a memory has."""
        return kept(x) if self.mode is Mode.EXACT else self.byte(x)


def set_mode(network: nn.Module, mode: Mode) -> None:
    """Switch every part of ``network`` to ``mode``."""
    for module in network.modules():
        if isinstance(module, Arithmetic):
            module.mode = mode


class Linear(Arithmetic):
    """Matrix product and rescaling: ``round((x @ weight.T + bias) * multiplier)``.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        in_scale: scale of the input; ``in_max`` bounds its magnitude.
        out_scale: scale of the output.
        bias: whether there is a bias, in units of the accumulator.
    """

    def __init__(self, inputs: int, outputs: int, *, in_scale: float, in_max: int,
                 out_scale: float, bias: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        self.in_scale, self.in_max, self.out_scale = in_scale, in_max, out_scale
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def row_scale(self) -> Tensor:
        """Real value of one integer step of each output's weights, ``(outputs, 1)``.

        Large enough for 8-bit weights and for the bound on sums, whatever the weights are.
        """
        weight = self.weight.detach()
        to_fit = weight.abs().amax(1, keepdim=True) / 127
        to_bound = weight.abs().sum(1, keepdim=True) * (self.in_max / (0.9 * LIMIT))
        return torch.maximum(to_fit, to_bound).clamp_min(1e-8)

    def integers(self) -> dict[str, Tensor]:
        """The integers and the multipliers of the exact layer."""
        scale = self.row_scale()
        out = {"weight": torch.round(self.weight.detach() / scale).to(torch.int8),
               "multiplier": (scale.squeeze(1) * (self.out_scale / self.in_scale)).float()}
        if self.bias is not None:
            out["bias"] = torch.round(self.bias.detach() / scale.squeeze(1) * self.in_scale).int()
        return out

    def forward(self, x: Tensor) -> Tensor:
        ratio = self.out_scale / self.in_scale
        bias = None if self.bias is None else self.bias * self.out_scale
        if self.mode is Mode.FLOAT:
            return F.linear(x, self.weight * ratio, bias)
        scale = self.row_scale()
        weight = self.round(self.weight / scale) * (scale * ratio)
        return self.round(F.linear(x, weight, bias).float())


class ExactLinear(nn.Module):
    """The shipped form of `Linear`: int8 weights, int32 bias, float32 multipliers."""

    weight: Tensor
    multiplier: Tensor
    bias: Tensor | None

    def __init__(self, inputs: int, outputs: int, in_max: int, bias: bool) -> None:
        super().__init__()
        self.in_max = in_max
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("multiplier", torch.ones(outputs, dtype=torch.float32))
        self.register_buffer("bias", torch.zeros(outputs, dtype=torch.int32) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return together(x, self)
        signed, one = self.in_max <= ACTIVATION_MAX, torch.ones_like(self.multiplier)
        sums = scaled_products(x, signed, one, [self.weight])
        return torch.round((sums + self.bias.to(torch.float32)) * self.multiplier)


def together(x: Tensor, *layers: nn.Module) -> Tensor:
    """Outputs of linear layers without bias side by side: one product where they are exact."""
    exact = [layer for layer in layers if isinstance(layer, ExactLinear)]
    if len(exact) < len(layers):
        return torch.cat([layer(x) for layer in layers], -1)
    return torch.round(scaled_products(
        x, exact[0].in_max <= ACTIVATION_MAX, torch.cat([layer.multiplier for layer in exact]),
        [layer.weight for layer in exact]))


class Embedding(Arithmetic):
    """A table of vectors at the residual scale; 8-bit when exact."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, width) * 0.5)

    def integers(self) -> dict[str, Tensor]:
        scaled = torch.round(self.weight.detach() * RESIDUAL_SCALE)
        return {"weight": scaled.clamp(-TABLE_MAX, TABLE_MAX).to(torch.int8)}

    def forward(self, index: Tensor) -> Tensor:
        out = F.embedding(index, self.weight) * RESIDUAL_SCALE
        return self.round(self.limit(out, TABLE_MAX))


class ExactEmbedding(nn.Module):
    """The shipped form of `Embedding`."""

    weight: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, width, dtype=torch.int8))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight).to(torch.float32)


class RMSNorm(Arithmetic):
    """Root-mean-square normalisation (arXiv 1910.07467) to the activation scale, without gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit = 2.0 ** -round(math.log2(ACTIVATION_SCALE * math.sqrt(width)))

    def forward(self, x: Tensor) -> Tensor:
        if self.mode is Mode.EXACT:
            root = square_root(sums_of_squares(x) + 1)
        else:
            root = (x.float().square().sum(-1, keepdim=True) + 1).sqrt()
        return self.byte(x / root, self.unit)


class Visible(NamedTuple):
    """Which keys the rows may see.

    Attributes:
        hidden: ``(B, 1, R, K)``, added to the products of keys: 0, or what makes them the least.
        ones: int8 ``(K, 1)``, with which weights are summed.
    """

    hidden: Tensor
    ones: Tensor


def visible(mask: Tensor) -> Visible:
    """Of a mask ``(B, 1, R, K)``, in which every row sees at least one key."""
    seen, hidden = (mask.new_tensor(key, dtype=torch.float32) for key in (0.0, -HIDDEN_KEY))
    return Visible(torch.where(mask, seen, hidden),
                   torch.ones_like(mask[0, 0, :1], dtype=torch.int8).t())


class Attention(Arithmetic):
    """Multi-head attention of rows to keys that their group may see.

    In float mode the weights are a softmax; otherwise the integer kernel (1 - x/8)⁸ in bytes:
    three squarings, each divided by 256 and rounded.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_nats = 1 / (HEAD_SCALE**2 * math.sqrt(channels))
        # A power of two, so that nothing is rounded before the rounding.
        self.step = 2.0 ** round(math.log2(KERNEL_NATS / 256 / self.to_nats))
        self.square = Square()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Visible) -> Tensor:
        """``(B, H, R, D)``, ``(B, H, D, K)`` and ``(B, H, K, D)`` to ``(B, R, H·D)``.

        The output is at the activation scale.
        """
        to_activation = ACTIVATION_SCALE / HEAD_SCALE
        if self.mode is Mode.FLOAT:
            # Not `contiguous`, which leaves a single key with the stride of 1 that it had: kernels
            # of GPUs refuse that.
            rows = key.transpose(-1, -2).clone(memory_format=torch.contiguous_format)
            mixed = F.scaled_dot_product_attention(
                query, rows, value,
                attn_mask=visible.hidden.to(query.dtype), scale=self.to_nats)
            out: Tensor = folded(mixed.transpose(1, 2), -1) * to_activation
            return out
        logits = self.products(query, key) + visible.hidden
        below = logits - logits.amax(-1, keepdim=True).detach()
        if self.mode is Mode.EXACT:
            weight = counted_down(below, self.step)
        else:
            weight = (self.round(below / self.step) + 255).clamp_min(0)
        for _ in range(3):
            weight = self.square(weight)
        if self.mode is Mode.EXACT:
            total = self.products(weight, visible.ones)
        else:
            total = weight.sum(-1, keepdim=True)
        mixed = self.products(weight, value) / total
        return self.byte(folded(mixed.transpose(1, 2), -1), 1 / to_activation)

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Sums of products of bytes, below 2²⁴."""
        return byte_products(a, b) if self.mode is Mode.EXACT else torch.matmul(a, b).float()


def rotation_table(positions: int, pairs: int, slowest: float) -> Tensor:
    """Cosines and sines ``(positions, 2, pairs)`` of a rotary embedding, multiples of 1/128.

    Angles per position fall geometrically from 1 to ``slowest`` radians (arXiv 2104.09864).
    """
    speeds = torch.tensor([slowest ** (i / max(1, pairs - 1)) for i in range(pairs)],
                          dtype=torch.float64)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * speeds
    return (torch.round(torch.stack([angles.cos(), angles.sin()], 1) * ROTATION_ONE)
            / ROTATION_ONE).float()


class Turn(NamedTuple):
    """How far rows are turned, by `onnx_forms.rotated`.

    Attributes:
        places: int64 ``(B, R)``, rows of the tables.
        cosine, sine: ``(places, pairs)``.
    """

    places: Tensor
    cosine: Tensor
    sine: Tensor


class FeedForward(Arithmetic):
    """Two-layer perceptron with squared rectifier (Primer, arXiv 2109.08668)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                         out_scale=HIDDEN_SCALE)
        self.down = Linear(hidden, width, in_scale=SQUARED_SCALE, in_max=SQUARED_MAX,
                           out_scale=RESIDUAL_SCALE, gain=0.5)
        self.square = Square()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.square(self.up(x)))
        return out


class Square(Arithmetic):
    """Squared rectifier from the hidden scale to the squared scale."""

    def forward(self, x: Tensor) -> Tensor:
        if self.mode is Mode.EXACT:
            return square(x)
        x = x.relu() if self.mode is Mode.FLOAT else x.clamp(0, HIDDEN_MAX)
        return self.round(x * x * (1 / 256))


def to_exact(network: nn.Module) -> nn.Module:
    """Replace every trained layer of ``network`` by its integers, in place."""
    for name, child in network.named_children():
        if isinstance(child, Linear):
            exact: nn.Module = ExactLinear(child.weight.shape[1], child.weight.shape[0],
                                           child.in_max, child.bias is not None)
            exact.load_state_dict(child.integers())
            setattr(network, name, exact)
        elif isinstance(child, Embedding):
            exact = ExactEmbedding(*child.weight.shape)
            exact.load_state_dict(child.integers())
            setattr(network, name, exact)
        else:
            to_exact(child)
    set_mode(network, Mode.EXACT)
    return network
