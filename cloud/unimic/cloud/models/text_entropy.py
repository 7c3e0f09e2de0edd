"""Entropy model of text tokens: a small causal transformer over the exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import (
    ACTIVATION_MAX,
    ACTIVATION_SCALE,
    LOGIT_SCALE,
    Embedding,
    Linear,
    Normalise,
    rotation_table,
)
from unimic.cloud.models.image_entropy import Layer, layers


@dataclass(frozen=True)
class TextEntropyConfig:
    """Sizes; the defaults are those of the shipped model."""

    codes: int = 4096
    width: int = 256
    heads: int = 4
    layers: int = 4
    hidden: int = 768
    positions: int = 256
    pairs: int = 16


class TextEntropyNet(nn.Module):
    """`step`: logits of the next token after each of some new ones, given a memory of earlier ones.

    A sequence starts with id 0, which no text contains.
    """

    rotations: Tensor

    def __init__(self, config: TextEntropyConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or TextEntropyConfig()
        self.table = Embedding(c.codes, c.width)
        self.layers = nn.ModuleList(Layer(c.width, c.heads, c.hidden) for _ in range(c.layers))
        self.final_norm = Normalise()
        self.head = Linear(c.width, c.codes, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                           out_scale=LOGIT_SCALE, bias=True, gain=0.1)
        self.register_buffer("rotations", rotation_table(c.positions, c.pairs, 0.01),
                             persistent=False)

    def step(self, ids: Tensor, position: Tensor, memory: Tensor,
             memory_position: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, R, codes)`` and memory ``(layers, B, 2, R, W)`` of ids ``(B, R)``.

        ``position`` counts from 0 in each sequence; a memory row with a position that is not
        smaller than a row's own is invisible to it, which is how padding is marked.
        """
        x = self.table(ids)
        angles = self.rotations[position]
        visible = torch.cat([memory_position, position], 1).unsqueeze(1) <= position.unsqueeze(2)
        new = []
        for layer, old in zip(layers(self.layers), memory, strict=True):
            normed = layer.norm(x)
            own = layer.remember(normed, angles)
            new.append(own)
            x = layer(x, normed, angles, torch.cat([old, own], 2), visible)
        return self.head(self.final_norm(x)), torch.stack(new)

    def empty_memory(self, batch: int) -> tuple[Tensor, Tensor]:
        """Memory of no rows, and its positions."""
        c, like = self.config, self.rotations
        return (like.new_zeros(c.layers, batch, 2, 0, c.width),
                torch.zeros(batch, 0, dtype=torch.long, device=like.device))
