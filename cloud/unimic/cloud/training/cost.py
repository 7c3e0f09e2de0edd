"""What tokens cost under the entropy model: for its own training, and for that of the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimic.cloud.models.image_entropy import ImageEntropyNet
from unimic.cloud.models.image_tokenizer import UPPER_DIGITS, FiniteScalarQuantizer
from unimic.codec.frequencies import LOGIT_SCALE
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


class WindowRows(NamedTuple):
    """What the model reads of several windows, each row in the order of its plan; int64.

    Attributes:
        content, query: ``(4, B, R)``, as `unimic.codec.image_rows.FIELDS`.
        upper, lower: ``(B, R)``, parts of the coded tokens; 0 for rows that only fill up.
    """

    content: Tensor
    query: Tensor
    upper: Tensor
    lower: Tensor

    @classmethod
    def of(cls, layout: Layout, plans: Sequence[WindowPlan], grids: Sequence[Codes],
           multiple: int = 1) -> WindowRows:
        """Rows of the grids' windows, filled up to a ``multiple`` of rows."""
        content = stack([content_rows(layout, p, g) for p, g in zip(plans, grids, strict=True)],
                        layout, multiple)
        query = stack([p.queries for p in plans], layout, multiple)
        parts = np.zeros((2, *query.shape[1:]), np.int64)
        for i, (plan, grid) in enumerate(zip(plans, grids, strict=True)):
            parts[:, i, :len(plan.rows)] = layout.split(grid[plan.rows, plan.columns])
        return cls(*(torch.from_numpy(array) for array in (content, query, *parts)))

    def to(self, device: torch.device) -> WindowRows:
        """The same on another device."""
        return WindowRows(*(part.to(device, non_blocking=True) for part in self))

    @property
    def kept(self) -> Tensor:
        """Bool ``(B, R)``: query rows that are tokens and do not only fill up the batch."""
        return self.query[FIELDS.index("group")] != NEVER


def ask(network: ImageEntropyNet, rows: WindowRows) -> tuple[Tensor, Tensor]:
    """Upper logits ``(B, R, upper)`` of every coded token, and hidden rows for the model's `tail`.

    ``rows`` are on the network's device.
    """
    memory = network.content(*rows.content, *network.empty_memory(len(rows.upper)))
    logits, hidden = network.query(*rows.query, *network.asked(memory))
    return logits, hidden


def bits_of(values: Tensor, logits: Tensor) -> Tensor:
    """Bits of ``values``, int64 ``(…)``, under logits ``(…, n)`` of an entropy model."""
    costs = F.log_softmax(logits.float() / LOGIT_SCALE, -1) / -math.log(2)
    return costs.gather(-1, values.unsqueeze(-1)).squeeze(-1)


def row_bits(network: ImageEntropyNet, rows: WindowRows) -> Tensor:
    """Bits of every coded token, ``(B, R)``; 0 for rows that only fill up."""
    upper_logits, hidden = ask(network, rows)
    lower_logits = network.tail(hidden, rows.upper)
    return rows.kept * (bits_of(rows.upper, upper_logits) + bits_of(rows.lower, lower_logits))


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
        plan = plan_window(self.layout, grids[0], everything, window, None)  # nothing is known
        asked = WindowRows.of(self.layout, [plan] * len(grids), grids).to(codes.device)
        upper_logits, hidden = ask(self.network, asked)
        place = torch.from_numpy(plan.rows * columns + plan.columns).to(codes.device)

        same_upper = self.network.tail(hidden, asked.upper)
        bits = []
        for d, code in enumerate((codes, *near), -1):
            value = code.flatten(1)[:, place]
            upper, lower = value // self.layout.lower, value % self.layout.lower
            given = (self.network.tail(hidden, upper) if 0 <= d < UPPER_DIGITS
                     else same_upper)
            bits.append(bits_of(upper, upper_logits) + bits_of(lower, given))
        placed = torch.empty(len(codes), len(bits), rows * columns, device=codes.device)
        placed[:, :, place] = torch.stack(bits, 1)
        placed = placed.unflatten(2, (rows, columns))
        return placed[:, 0], placed[:, 1:].permute(0, 2, 3, 1)
