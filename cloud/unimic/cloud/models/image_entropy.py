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
from typing import cast

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
    Turn,
    heads,
    rotation_table,
    together,
    turns,
)

Tensors = tuple[Tensor, ...]
Memory = Tensors
"""Of K rows: their groups or positions, int64 ``(B, K)``, then for each layer the keys and the
values, ``(B, heads, K, channels)``."""


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

    def __init__(self, width: int, heads: int, hidden: int, pairs: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Normalise()
        self.query, self.key, self.value = (project(width) for _ in range(3))
        self.rotate = Rotate(pairs, width // heads)
        self.attention = Attention()
        self.out = Linear(width, width, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                          out_scale=RESIDUAL_SCALE, gain=0.5)
        self.feed_norm = Normalise()
        self.feed = Feed(width, hidden)
        self.add = Residual()

    def read(self, x: Tensor, turn: Turn, seen: Tensors, visible: Tensor,
             ) -> tuple[Tensor, Tensors]:
        """Rows that see themselves too: ``x`` after the layer, and keys and values with theirs."""
        rows = heads(together(self.norm(x), self.query, self.key, self.value), 3 * self.heads)
        turned, value = rows.split([2 * self.heads, self.heads], 1)
        query, key = self.rotate(turned, turn).split(self.heads, 1)
        seen = append(seen, key, self.limit(value, HEAD_MAX))
        return self._finish(x, query, seen, visible), seen

    def ask(self, x: Tensor, turn: Turn, seen: Tensors, visible: Tensor) -> Tensor:
        """Rows that nobody sees: ``x`` after the layer."""
        query = self.rotate(heads(self.query(self.norm(x)), self.heads), turn)
        return self._finish(x, query, seen, visible)

    def _finish(self, x: Tensor, query: Tensor, seen: Tensors, visible: Tensor) -> Tensor:
        x = self.add(x, self.out(self.attention(query, *seen, visible)))
        out: Tensor = self.add(x, self.feed(self.feed_norm(x)))
        return out


def append(old: Tensors, *new: Tensor) -> Tensors:
    """Keys and values of new rows after those of old ones."""
    return tuple(torch.cat(pair, 2) for pair in zip(old, new, strict=True))


def empty(layers: int, batch: int, heads: int, channels: int, device: torch.device) -> Memory:
    """Memory of no rows."""
    nothing = torch.zeros(batch, heads, 0, channels, device=device)
    return torch.zeros(batch, 0, dtype=torch.long, device=device), *[nothing] * (2 * layers)


def at(turn: Turn, places: Tensor) -> Turn:
    """The turns ``(B, 1, R, channels)`` of rows at ``places`` ``(B, R)``."""
    return Turn(*(table[places].to(torch.float32).unsqueeze(1) for table in turn))


def layers(modules: nn.ModuleList) -> list[Layer]:
    """The list's members, with their type."""
    return [cast(Layer, module) for module in modules]


class ImageEntropyNet(nn.Module):
    """The three functions that a coder calls: `content`, `query` and `tail`.

    Rows are integers ``(5, B, R)``: two indices into the embedding table, a row and a column
    coordinate, and a group (`unimic.codec.image_rows.stack`). A `Memory` has the content rows'
    groups, and their keys and values for the content tower's layers and then the query tower's.
    """

    rotations: Tensor

    def __init__(self, config: ImageEntropyConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or ImageEntropyConfig()
        self.table = Embedding(c.table, c.width)
        self.content_layers = nn.ModuleList(
            Layer(c.width, c.heads, c.hidden, 2 * c.pairs) for _ in range(c.content_layers))
        self.query_layers = nn.ModuleList(
            Layer(c.width, c.heads, c.hidden, 2 * c.pairs) for _ in range(c.query_layers))
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

    def _turn(self, row: Tensor, column: Tensor) -> Turn:
        c = self.config
        everywhere = torch.cat(torch.broadcast_tensors(
            self.rotations.unsqueeze(1), self.rotations.unsqueeze(0)), -1)
        table = turns(everywhere.flatten(0, 1), c.width // c.heads)
        return at(table, row * c.coordinates + column)

    def content(self, rows: Tensor, groups: Tensor, *memory: Tensor) -> Memory:
        """Memory with new content rows, given that of earlier ones."""
        first, second, row, column, group = rows.unbind()
        x = self.table(first) + self.table(second)
        turn = self._turn(row, column)
        groups = torch.cat([groups, group], 1)
        visible = groups.unsqueeze(1) <= group.unsqueeze(2)
        new: Tensors = ()
        for i, layer in enumerate(layers(self.content_layers)):
            x, own = layer.read(x, turn, memory[2 * i:2 * i + 2], visible)
            new += own
        later, count = layers(self.query_layers), self.config.heads
        both = heads(together(self.memory_norm(x), *(layer.key for layer in later),
                              *(layer.value for layer in later)), 2 * count * len(later))
        keys, values = both.chunk(2, 1)
        keys = later[0].rotate(keys, turn).split(count, 1)
        values = later[0].limit(values, HEAD_MAX).split(count, 1)
        own = tuple(tensor for pair in zip(keys, values, strict=True) for tensor in pair)
        return groups, *new, *append(memory[len(new):], *own)

    def query(self, rows: Tensor, groups: Tensor, *memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, R, upper)`` and hidden rows ``(B, R, W)`` for `tail`.

        The memory is what `asked` gives.
        """
        first, second, row, column, group = rows.unbind()
        x = self.table(first) + self.table(second)
        turn = self._turn(row, column)
        visible = groups.unsqueeze(1) < group.unsqueeze(2)
        for i, layer in enumerate(layers(self.query_layers)):
            x = layer.ask(x, turn, memory[2 * i:2 * i + 2], visible)
        x = self.final_norm(x)
        return self.upper_head(x), self.tail_in(x)

    def tail(self, hidden: Tensor, upper: Tensor) -> Tensor:
        """Logits ``(B, R, lower)`` given the upper parts ``(B, R)``."""
        out: Tensor = self.tail_head(self.tail_square(hidden + self.tail_given(upper)))
        return out

    def asked(self, memory: Memory) -> Memory:
        """What the query tower needs of a memory."""
        return memory[:1] + memory[1 + 2 * self.config.content_layers:]

    def empty_memory(self, batch: int) -> Memory:
        """Memory of no rows."""
        c = self.config
        return empty(c.content_layers + c.query_layers, batch, c.heads, c.width // c.heads,
                     self.rotations.device)
