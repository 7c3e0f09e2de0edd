"""What tokens cost under the entropy model: for its own training, and for that of the tokenizer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimic.cloud.models.arithmetic import LOGIT_SCALE
from unimic.cloud.models.image_entropy import ImageEntropyNet
from unimic.cloud.models.image_tokenizer import UPPER_DIGITS, FiniteScalarQuantizer
from unimic.codec.image_rows import (
    FIELDS,
    NEVER,
    Layout,
    WindowPlan,
    content_rows,
    plan_window,
    stack,
)
from unimic.codec.networks import image_layout
from unimic.codec.order import Window
from unimic.codec.tokens import Codes

FEW_SHAPES = 64
"""Batches have a multiple of so many rows: for each new shape oneDNN makes new kernels first, which
took more than half of a training's time, and `torch.compile` a new program, which takes minutes."""


@dataclass(frozen=True)
class Asked:
    """What the model says of the coded tokens of several windows.

    Attributes:
        upper_logits: ``(B, R, upper)``.
        hidden: ``(B, R, W)``, for the model's `tail`.
        upper, lower: the tokens' parts, int64 ``(B, R)``.
        kept: bool ``(B, R)``: rows that are tokens and do not only fill up the batch.
    """

    upper_logits: Tensor
    hidden: Tensor
    upper: Tensor
    lower: Tensor
    kept: Tensor


def ask(network: ImageEntropyNet, layout: Layout, plans: list[WindowPlan],
        grids: list[Codes], multiple: int = 1) -> Asked:
    """The model's look at every coded token, each row in the order of its plan.

    The batch is filled up to a ``multiple`` of rows.
    """
    device = network.rotations.device
    content, query = (
        torch.from_numpy(stack(rows, layout, multiple)).to(device)
        for rows in ([content_rows(layout, p, g) for p, g in zip(plans, grids, strict=True)],
                     [p.queries for p in plans]))
    group = query[FIELDS.index("group")]
    upper = torch.zeros_like(group)
    lower = torch.zeros_like(upper)
    for i, (plan, grid) in enumerate(zip(plans, grids, strict=True)):
        for part, values in zip((upper, lower), layout.split(grid[plan.rows, plan.columns]),
                                strict=True):
            part[i, :len(values)] = torch.from_numpy(values)
    memory = network.content(*content, *network.empty_memory(len(plans)))
    upper_logits, hidden = network.query(*query, *network.asked(memory))
    return Asked(upper_logits, hidden, upper, lower, group != NEVER)


def bits_of(values: Tensor, logits: Tensor) -> Tensor:
    """Bits of ``values``, int64 ``(…)``, under logits ``(…, n)`` of an entropy model."""
    costs = F.log_softmax(logits.float() / LOGIT_SCALE, -1) / -math.log(2)
    return costs.gather(-1, values.unsqueeze(-1)).squeeze(-1)


def batch_bits(network: ImageEntropyNet, layout: Layout, plans: list[WindowPlan],
               grids: list[Codes]) -> Tensor:
    """Bits of every coded token, ``(tokens,)``, in the order of the plans."""
    asked = ask(network, layout, plans, grids, FEW_SHAPES)
    lower_logits = network.tail(asked.hidden, asked.upper)
    kept = asked.kept
    return (bits_of(asked.upper[kept], asked.upper_logits[kept])
            + bits_of(asked.lower[kept], lower_logits[kept]))


class TokenCost:
    """Bits of tokens as a function of latents, for the tokenizer's training.

    The cost of a token is a step function of its latents. Here it is interpolated: in each digit,
    towards the level on the other side of the latent. So latents that lie between two codes are
    drawn to the cheaper one. That a token also tells of later ones is left out.
    """

    def __init__(self, network: ImageEntropyNet, quantizer: FiniteScalarQuantizer) -> None:
        self.network, self.quantizer = network, quantizer
        self.layout = image_layout(asdict(network.config))

    def __call__(self, latents: Tensor) -> Tensor:
        """Mean bits of a token of grids that fit a window, from latents ``(B, digits, h, w)``."""
        scaled = self.quantizer.scaled(latents)
        nearest = torch.round(scaled)
        own, others = self._costs(nearest, scaled)
        between = (scaled - nearest).abs().permute(0, 2, 3, 1)
        return (own + (between * (others - own.unsqueeze(-1))).sum(-1)).mean()

    @torch.no_grad()
    def _costs(self, nearest: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of the nearest codes ``(B, h, w)``, and with the other level in each digit."""
        digits = nearest.shape[1]
        other = torch.where(scaled > nearest, nearest + 1, nearest - 1)
        other = torch.minimum(other.clamp(min=0), self.quantizer.levels - 1)
        is_digit = torch.eye(digits, device=nearest.device, dtype=torch.bool)[..., None, None]
        codes, *near = (self.quantizer.codes(d) for d in
                        (nearest, *(torch.where(which, other, nearest) for which in is_digit)))

        rows, columns = codes.shape[1:]
        grids = list(codes.to(torch.int32).cpu().numpy())
        everything = np.ones((rows, columns), np.bool_)
        window = Window(0, 0, rows, columns)
        plans = [plan_window(self.layout, g, everything, window, None) for g in grids]
        asked = ask(self.network, self.layout, plans, grids)
        place = torch.from_numpy(plans[0].rows * columns + plans[0].columns).to(codes.device)

        same_upper = self.network.tail(asked.hidden, asked.upper)
        bits = []
        for d, code in enumerate((codes, *near), -1):
            value = code.flatten(1)[:, place]
            upper, lower = value // self.layout.lower, value % self.layout.lower
            given = (self.network.tail(asked.hidden, upper) if 0 <= d < UPPER_DIGITS
                     else same_upper)
            bits.append(bits_of(upper, asked.upper_logits) + bits_of(lower, given))
        placed = torch.empty(len(codes), len(bits), rows * columns, device=codes.device)
        placed[:, :, place] = torch.stack(bits, 1)
        placed = placed.unflatten(2, (rows, columns))
        return placed[:, 0], placed[:, 1:].permute(0, 2, 3, 1)
