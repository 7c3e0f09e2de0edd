"""Entropy model of text tokens: a small causal transformer over the exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import (
    ACTIVATION_MAX,
    ACTIVATION_SCALE,
    Embedding,
    Linear,
    RMSNorm,
    Turn,
    rotation_table,
    visible,
)
from unimic.cloud.models.image_entropy import Layer, Memory, Tensors, empty, layers
from unimic.codec.frequencies import LOGIT_SCALE


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

    @property
    def keys(self) -> int:
        """Tokens that a row may see at most."""
        return self.positions


class TextEntropyNet(nn.Module):
    """`step`: logits of the next token after each of some new ones, given a memory of earlier ones.

    A sequence starts with id 0, which no text contains.
    """

    rotations: Tensor

    def __init__(self, config: TextEntropyConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or TextEntropyConfig()
        self.table = Embedding(c.codes, c.width)
        self.layers = nn.ModuleList(
            Layer(c.width, c.heads, c.hidden) for _ in range(c.layers))
        self.final_norm = RMSNorm(c.width)
        self.head = Linear(c.width, c.codes, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                           out_scale=LOGIT_SCALE, bias=True, gain=0.1)
        self.register_buffer("rotations", rotation_table(c.positions, c.pairs, 0.01),
                             persistent=False)

    def step(self, ids: Tensor, position: Tensor, positions: Tensor, *memory: Tensor,
             ) -> tuple[Tensor, ...]:
        """Logits ``(B, R, codes)`` of ids ``(B, R)``, and the `Memory` with theirs.

        ``position`` counts from 0 in each sequence; a row sees those of the memory whose
        position is not greater than its own.
        """
        x = self.table(ids)
        turn = Turn(position, *self.rotations.unbind(1))
        positions = torch.cat([positions, position], 1)
        seen = visible(positions[:, None, None] <= position[:, None, :, None])
        new: Tensors = ()
        for i, layer in enumerate(layers(self.layers)):
            x, own = layer.read(x, turn, memory[2 * i:2 * i + 2], seen)
            new += own
        return self.head(self.final_norm(x)), positions, *new

    def empty_memory(self, batch: int) -> Memory:
        """Memory of no rows."""
        c = self.config
        return empty(batch, [c.heads] * c.layers, c.width // c.heads, self.table)
