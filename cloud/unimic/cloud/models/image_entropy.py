"""Entropy model of image tokens: a group-causal transformer with two towers.

Tokens are revealed in groups. The *content* tower reads tokens: each attends to those of earlier
groups and of its own. The *query* tower reads positions only: each attends to the content of
earlier groups and predicts the token at its position. What both sides hold already (visible
tokens, neighbouring windows, the prompt) is group 0. The separation of content and query is that
of XLNet (arXiv 1906.08237, section 2.3); here the query tower reads the finished content, so every
row passes one tower once.

A code is predicted as its upper part (6 bits for 8,192 codes) and then its lower part (7 bits)
given the upper, and embedded as the sum of the two: both share statistics among codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import (
    ACTIVATION_MAX,
    ACTIVATION_SCALE,
    HEAD_MAX,
    HEAD_SCALE,
    HIDDEN_SCALE,
    LOGIT_SCALE,
    RESIDUAL_SCALE,
    SQUARED_MAX,
    SQUARED_SCALE,
    Arithmetic,
    Attention,
    Embedding,
    Feed,
    Linear,
    Normalise,
    Residual,
    Rotate,
    Square,
    rotation_table,
)


@dataclass(frozen=True)
class ImageEntropyConfig:
    """Sizes; the defaults are those of the shipped model.

    Rows of the embedding table, in this order: upper parts, lower parts, text ids, text positions,
    groups of queries, one start row, one empty row.
    """

    upper: int = 64
    lower: int = 128
    text: int = 4096
    text_positions: int = 64
    groups: int = 16
    width: int = 256
    heads: int = 4
    content_layers: int = 3
    query_layers: int = 4
    hidden: int = 1024
    coordinates: int = 24  # rows or columns that a window and its context span
    pairs: int = 8  # rotated channel pairs for each axis

    @property
    def table(self) -> int:
        return self.upper + self.lower + self.text + self.text_positions + self.groups + 2


def project(width: int) -> Linear:
    """A projection to queries, keys or values."""
    return Linear(width, width, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                  out_scale=HEAD_SCALE)


class Layer(Arithmetic):
    """Attention and perceptron, each on a normalised residual stream."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = Normalise()
        self.query, self.key, self.value = (project(width) for _ in range(3))
        self.rotate = Rotate(heads)
        self.attention = Attention(heads)
        self.out = Linear(width, width, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                          out_scale=RESIDUAL_SCALE, gain=0.5)
        self.feed_norm = Normalise()
        self.feed = Feed(width, hidden)
        self.add = Residual()

    def remember(self, normed: Tensor, angles: Tensor) -> Tensor:
        """Keys and values ``(B, 2, R, W)`` of normalised content rows."""
        key = self.rotate(self.key(normed), angles)
        return torch.stack([key, self.limit(self.value(normed), HEAD_MAX)], 1)

    def forward(self, x: Tensor, normed: Tensor, angles: Tensor, memory: Tensor,
                visible: Tensor) -> Tensor:
        query = self.rotate(self.query(normed), angles)
        key, value = memory.unbind(1)
        x = self.add(x, self.out(self.attention(query, key, value, visible)))
        out: Tensor = self.add(x, self.feed(self.feed_norm(x)))
        return out


def layers(modules: nn.ModuleList) -> list[Layer]:
    """The list's members, with their type."""
    return [cast(Layer, module) for module in modules]


class RowTensors(NamedTuple):
    """Rows as int64 tensors ``(B, R)``; see `unimic.codec.image_rows.Rows`."""

    first: Tensor
    second: Tensor
    row: Tensor
    column: Tensor
    group: Tensor


class ImageEntropyNet(nn.Module):
    """The three functions that a coder calls: `content`, `query` and `tail`.

    Rows are integers ``(B, R)``: two indices into the embedding table, a row and a column
    coordinate, and a group. A memory is ``(layers, B, 2, K, W)``: keys and values of every content
    row for every layer of both towers.
    """

    rotations: Tensor

    def __init__(self, config: ImageEntropyConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or ImageEntropyConfig()
        self.table = Embedding(c.table, c.width)
        self.content_layers = nn.ModuleList(
            Layer(c.width, c.heads, c.hidden) for _ in range(c.content_layers))
        self.query_layers = nn.ModuleList(
            Layer(c.width, c.heads, c.hidden) for _ in range(c.query_layers))
        self.memory_norm = Normalise()
        self.final_norm = Normalise()
        self.upper_head = Linear(c.width, c.upper, in_scale=ACTIVATION_SCALE, bias=True,
                                 in_max=ACTIVATION_MAX, out_scale=LOGIT_SCALE, gain=0.1)
        self.tail_in = Linear(c.width, c.width, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                              out_scale=HIDDEN_SCALE)
        self.tail_given = Embedding(c.upper, c.width)
        self.tail_square = Square()
        self.tail_head = Linear(c.width, c.lower, in_scale=SQUARED_SCALE, bias=True,
                                in_max=SQUARED_MAX, out_scale=LOGIT_SCALE, gain=0.1)
        self.register_buffer("rotations", rotation_table(c.coordinates, c.pairs, 0.1),
                             persistent=False)

    def _angles(self, row: Tensor, column: Tensor) -> Tensor:
        return torch.cat([self.rotations[row], self.rotations[column]], -1)

    def content(self, first: Tensor, second: Tensor, row: Tensor, column: Tensor, group: Tensor,
                memory: Tensor, memory_group: Tensor) -> Tensor:
        """Memory ``(layers, B, 2, R, W)`` of new content rows, given the memory of earlier ones."""
        x = self.table(first) + self.table(second)
        angles = self._angles(row, column)
        visible = torch.cat([memory_group, group], 1).unsqueeze(1) <= group.unsqueeze(2)
        new = []
        for layer, old in zip(layers(self.content_layers), memory, strict=False):
            normed = layer.norm(x)
            own = layer.remember(normed, angles)
            new.append(own)
            x = layer(x, normed, angles, torch.cat([old, own], 2), visible)
        normed = self.memory_norm(x)
        new += [layer.remember(normed, angles) for layer in layers(self.query_layers)]
        return torch.stack(new)

    def query(self, first: Tensor, second: Tensor, row: Tensor, column: Tensor, group: Tensor,
              memory: Tensor, memory_group: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, R, upper)`` and hidden rows ``(B, R, W)`` for `tail`."""
        x = self.table(first) + self.table(second)
        angles = self._angles(row, column)
        visible = memory_group.unsqueeze(1) < group.unsqueeze(2)
        later = memory[len(self.content_layers):]
        for layer, seen in zip(layers(self.query_layers), later, strict=True):
            x = layer(x, layer.norm(x), angles, seen, visible)
        x = self.final_norm(x)
        return self.upper_head(x), self.tail_in(x)

    def tail(self, hidden: Tensor, upper: Tensor) -> Tensor:
        """Logits ``(B, R, lower)`` given the upper parts ``(B, R)``."""
        out: Tensor = self.tail_head(self.tail_square(hidden + self.tail_given(upper)))
        return out

    def empty_memory(self, batch: int) -> tuple[Tensor, Tensor]:
        """Memory of no rows, and its groups."""
        c, like = self.config, self.rotations
        count = c.content_layers + c.query_layers
        return (like.new_zeros(count, batch, 2, 0, c.width),
                torch.zeros(batch, 0, dtype=torch.long, device=like.device))
