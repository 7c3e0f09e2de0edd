"""Integer arithmetic that is exact on any device, and its trainable twin.

Every network that gives probabilities to the range coder is written once, over the operations of
this module, and runs in three ways:

* *float*: ordinary training; nothing is rounded, attention is the fused kernel;
* *quantised*: quantisation-aware training; the same roundings as below, with straight-through
  gradients (Jacob et al., arXiv 1712.05877);
* *exact*: what is shipped. Every tensor holds integers in float32 and every sum is bounded below
  2²⁴, so float additions are exact in any order, with or without fused multiply-add. Between sums
  there are only single correctly rounded operations (× ÷ √), each followed at once by a rounding.

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

from unimic.cloud.models.onnx_forms import folded, scaled_products, square, sums_of_squares
from unimic.codec.proof import LIMIT

ACTIVATION_SCALE, ACTIVATION_MAX = 32.0, 127
RESIDUAL_SCALE, RESIDUAL_MAX = 32.0, 1023
HEAD_SCALE, HEAD_MAX = 16.0, 127
HIDDEN_SCALE, HIDDEN_MAX = 64.0, 255  # before squaring
SQUARED_SCALE, SQUARED_MAX = 16.0, 254  # after squaring and dividing by 256
LOGIT_SCALE = 32.0
ROTATION_ONE = 127.0  # cosines and sines are integers over this
NORM_BLOCK = 16  # squares are summed 16 at a time: 16 × 1023² < 2²⁴
KERNEL_NATS = 8.0  # attention weight is (1 - x/8)⁸ for a logit x nats below the largest
WEIGHT_ONE = 65535.0  # attention weights of a row sum to about this
HIDDEN_KEY = 2.0**26  # subtracted from the products of keys that may not be seen: below any other


def over(numerator: float, x: Tensor) -> Tensor:
    """One correctly rounded division; ``numerator / x`` would be a reciprocal and a product."""
    return torch.div(torch.full((), numerator, device=x.device), x)


def square_root(x: Tensor) -> Tensor:
    """The correctly rounded square root of integers below 2²⁴.

    PyTorch's own, in float32 on a CPU, is off by one unit in the last place for one integer in
    five. A root in float64 with an error below 2⁻⁵² rounds to the right float32, because the root
    of a 24-bit integer is never that close to the middle of two float32 numbers.
    """
    return torch.sqrt(x.double()).float()


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
        self.register_buffer("multiplier", torch.ones(outputs))
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
        return {"weight": scaled.clamp(-127, 127).to(torch.int8)}

    def forward(self, index: Tensor) -> Tensor:
        out = F.embedding(index, self.weight) * RESIDUAL_SCALE
        return self.round(self.limit(out, ACTIVATION_MAX))


class ExactEmbedding(nn.Module):
    """The shipped form of `Embedding`."""

    weight: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, width, dtype=torch.int8))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight).to(torch.float32)


class Normalise(Arithmetic):
    """Root-mean-square normalisation (arXiv 1910.07467) to the activation scale, without gain."""

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if self.mode is Mode.FLOAT:
            mean = x.float().square().mean(-1, keepdim=True)
            return x * (ACTIVATION_SCALE * torch.rsqrt(mean + 1e-3)).to(x.dtype)
        blocks = sums_of_squares(x, NORM_BLOCK)
        if self.mode is Mode.EXACT:
            blocks = torch.floor(blocks * (1 / NORM_BLOCK))
        else:
            blocks = blocks / NORM_BLOCK
        total = blocks.sum(-1, keepdim=True) + 1
        gain = ACTIVATION_SCALE * math.sqrt(width / NORM_BLOCK)
        out = self.round(x * over(gain, square_root(total)))
        return self.limit(out, ACTIVATION_MAX)


class Attention(Arithmetic):
    """Multi-head attention of rows to keys that their group may see.

    In float mode the weights are a softmax; otherwise the integer kernel (1 - x/8)⁸, whose steps
    are products of integers below 2¹², scaled by powers of two and floored.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """``(B, H, R, D)``, ``(B, H, K, D)`` twice and bool ``(B, R, K)`` to ``(B, R, H·D)``.

        Every row must see at least one key. The output is at the activation scale.
        """
        to_nats = 1 / (HEAD_SCALE**2 * math.sqrt(query.shape[-1]))
        to_activation = ACTIVATION_SCALE / HEAD_SCALE
        if self.mode is Mode.FLOAT:
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=visible.unsqueeze(1), scale=to_nats)
            out: Tensor = folded(mixed.transpose(1, 2), -1) * to_activation
            return out
        top = 255.0
        hidden = (visible.unsqueeze(1).to(torch.float32) - 1.0) * HIDDEN_KEY
        products = torch.matmul(query, key.transpose(-1, -2)).float() + hidden
        logits = self.round(products * (to_nats * top / KERNEL_NATS))
        weight = (logits - (logits.amax(-1, keepdim=True).detach() - top)).clamp_min(0)
        if self.mode is Mode.EXACT:
            weight = torch.floor(weight * weight * 2.0**-4)
            weight = torch.floor(weight * weight * 2.0**-12)
            weight = torch.floor(weight * weight * 2.0**-12)
        else:
            weight = (weight / top).pow(8) * 4000.0
        total = weight.sum(-1, keepdim=True)
        weight = self.round(weight * over(WEIGHT_ONE, total))
        mixed = folded(torch.matmul(weight, value).float().transpose(1, 2), -1)
        return self.limit(self.round(mixed * (to_activation / WEIGHT_ONE)), ACTIVATION_MAX)


def heads(x: Tensor, count: int) -> Tensor:
    """``(B, R, count·D)`` as ``(B, count, R, D)``."""
    return folded(x, count, -1).transpose(1, 2)


def rotation_table(positions: int, pairs: int, slowest: float) -> Tensor:
    """Integer cosines and sines ``(positions, 2, pairs)`` of a rotary embedding.

    Angles per position fall geometrically from 1 to ``slowest`` radians (arXiv 2104.09864).
    """
    speeds = torch.tensor([slowest ** (i / max(1, pairs - 1)) for i in range(pairs)],
                          dtype=torch.float64)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * speeds
    return torch.round(torch.stack([angles.cos(), angles.sin()], 1) * ROTATION_ONE).float()


class Turn(NamedTuple):
    """By what each channel of a row and its partner are multiplied, to turn pairs of channels."""

    own: Tensor
    partner: Tensor


def turns(angles: Tensor, channels: int) -> Turn:
    """Of the first channels of a head, the others being left alone.

    Args:
        angles: ``(positions, 2, pairs)`` of `rotation_table`.
        channels: of a head; the partner of channel i is channel i + pairs.

    Returns:
        int8 ``(positions, channels)`` each, over `ROTATION_ONE`.
    """
    cos, sin = angles.to(torch.int8).unbind(1)
    rest = torch.zeros_like(cos[:, :1]).expand(-1, channels - 2 * cos.shape[1])
    return Turn(torch.cat([cos, cos, rest + int(ROTATION_ONE)], 1),
                torch.cat([-sin, sin, rest], 1))


class Rotate(Arithmetic):
    """Rotary position embedding on the first channels of each head, with integer angles."""

    def __init__(self, pairs: int, channels: int) -> None:
        super().__init__()
        rest = channels - 2 * pairs
        self.parts = [pairs, pairs] + [rest] * (rest > 0)

    def forward(self, x: Tensor, turn: Turn) -> Tensor:
        """``x`` is ``(B, H, R, D)``, ``turn`` that of each row, ``(B, 1, R, D)``."""
        first, second, *rest = x.split(self.parts, -1)
        partner = torch.cat([second, first, *rest], -1)
        turned = x * turn.own + partner * turn.partner
        return self.limit(self.round(turned * (1 / ROTATION_ONE)), HEAD_MAX)


class Feed(Arithmetic):
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


class Residual(Arithmetic):
    """Sum on the residual stream, kept within its range."""

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.limit(x + branch, RESIDUAL_MAX)


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
