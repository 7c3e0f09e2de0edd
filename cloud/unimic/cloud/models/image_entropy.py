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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import (
    ACTIVATION_MAX,
    ACTIVATION_SCALE,
    HEAD_SCALE,
    HIDDEN_SCALE,
    KEY_MAX,
    RESIDUAL_SCALE,
    SQUARED_MAX,
    SQUARED_SCALE,
    VALUE_MAX,
    Arithmetic,
    Attention,
    Embedding,
    ExactEmbedding,
    FeedForward,
    Linear,
    RMSNorm,
    Square,
    Turn,
    Visible,
    rotation_table,
    together,
    visible,
)
from unimic.cloud.models.onnx_forms import folded, rotated, split_heads
from unimic.codec.frequencies import LOGIT_SCALE
from unimic.codec.image_rows import COORDINATES

Tensors = tuple[Tensor, ...]
Memory = Tensors
"""Of K rows: their groups or positions, int64 ``(B, K)``, then for each layer that reads the keys
``(B, heads, channels, K)`` and the values ``(B, heads, K, channels)``; int8 when exact."""


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
    coordinates: int = COORDINATES  # rows or columns that a window and its context span
    pairs: int = 8  # rotated channel pairs for each axis

    @property
    def table(self) -> int:
        return self.upper + self.lower + self.text + self.text_positions + self.groups + 2

    @property
    def keys(self) -> int:
        """Content rows that a row may see at most: tokens, the prompt and the start row."""
        return self.coordinates**2 + self.text_positions + 1


def project(width: int) -> Linear:
    """A projection to queries, keys or values."""
    return Linear(width, width, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                  out_scale=HEAD_SCALE)


class Layer(Arithmetic):
    """Attention and perceptron, each on a normalised residual stream."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.norm = RMSNorm(width)
        self.query, self.key, self.value = (project(width) for _ in range(3))
        self.attention = Attention(width // heads)
        self.out = Linear(width, width, in_scale=ACTIVATION_SCALE, in_max=ACTIVATION_MAX,
                          out_scale=RESIDUAL_SCALE, gain=0.5)
        self.feed_norm = RMSNorm(width)
        self.feed = FeedForward(width, hidden)

    def read(self, x: Tensor, turn: Turn, seen: Tensors, visible: Visible,
             ) -> tuple[Tensor, Tensors]:
        """Rows that see themselves too: ``x`` after the layer, and keys and values with theirs."""
        normal = self.norm(x)
        turned = rotated(together(normal, self.query, self.key), *turn, 2 * self.heads)
        query, key = turned.split(self.width, -1)
        seen = append(seen, self.keys(key, self.heads), self.values(self.value(normal), self.heads))
        return self._finish(x, query, seen, visible), seen

    def ask(self, x: Tensor, turn: Turn, seen: Tensors, visible: Visible) -> Tensor:
        """Rows that nobody sees: ``x`` after the layer."""
        query = rotated(self.query(self.norm(x)), *turn, self.heads)
        return self._finish(x, query, seen, visible)

    def keys(self, x: Tensor, heads: int) -> Tensor:
        """Turned keys ``(B, R, heads·channels)`` as a memory has them."""
        return folded(self.keep(self.limit(x, KEY_MAX)), heads, -1).permute(0, 2, 3, 1)

    def values(self, x: Tensor, heads: int) -> Tensor:
        """Values ``(B, R, heads·channels)`` as a memory has them."""
        return split_heads(self.keep(self.limit(x, VALUE_MAX)), heads)

    def _finish(self, x: Tensor, query: Tensor, seen: Tensors, visible: Visible) -> Tensor:
        query = split_heads(self.byte(query), self.heads)
        x = x + self.out(self.attention(query, *seen, visible))
        out: Tensor = x + self.feed(self.feed_norm(x))
        return out


def append(old: Tensors, keys: Tensor, values: Tensor) -> Tensors:
    """Keys and values of new rows after those of old ones."""
    return torch.cat([old[0], keys], 3), torch.cat([old[1], values], 2)


def empty(batch: int, heads: Sequence[int], channels: int, table: nn.Module) -> Memory:
    """Memory of no rows for layers of so many heads, of a network with this embedding table."""
    weight = cast(Tensor, table.weight)
    kind = torch.int8 if isinstance(table, ExactEmbedding) else torch.float32
    memory = [torch.zeros(batch, 0, dtype=torch.long, device=weight.device)]
    for count in heads:
        keys = torch.zeros(batch, count, channels, 0, dtype=kind, device=weight.device)
        memory += [keys, keys.transpose(2, 3)]
    return tuple(memory)


def layers(modules: nn.ModuleList) -> list[Layer]:
    """The list's members, with their type."""
    return [cast(Layer, module) for module in modules]


class ImageEntropyNet(nn.Module):
    """The three functions that a coder calls: `content`, `query` and `tail`.

    Rows are integers ``(B, R)``: two indices into the embedding table, a place and a group
    (`unimic.codec.image_rows.Rows`). A `Memory` has the content rows'
    groups, and their keys and values for each layer of the content tower and then, the heads of its
    layers one after the other, for the query tower.
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
        self.memory_norm = RMSNorm(c.width)
        self.final_norm = RMSNorm(c.width)
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

    def _turn(self, place: Tensor) -> Turn:
        cosine, sine = (torch.cat(torch.broadcast_tensors(part.unsqueeze(1), part.unsqueeze(0)), -1)
                        .flatten(0, 1) for part in self.rotations.unbind(1))
        return Turn(place, cosine, sine)

    def content(self, first: Tensor, second: Tensor, place: Tensor, group: Tensor, groups: Tensor,
                *memory: Tensor) -> Memory:
        """Memory with new content rows, given that of earlier ones."""
        x = self.table(first) + self.table(second)
        turn = self._turn(place)
        groups = torch.cat([groups, group], 1)
        seen = visible(groups[:, None, None] <= group[:, None, :, None])
        new: Tensors = ()
        for i, layer in enumerate(layers(self.content_layers)):
            x, own = layer.read(x, turn, memory[2 * i:2 * i + 2], seen)
            new += own
        later, normal = layers(self.query_layers), self.memory_norm(x)
        heads = self.config.heads * len(later)
        keys = rotated(together(normal, *(layer.key for layer in later)), *turn, heads)
        values = together(normal, *(layer.value for layer in later))
        new += append(memory[len(new):], later[0].keys(keys, heads), later[0].values(values, heads))
        return groups, *new

    def query(self, first: Tensor, second: Tensor, place: Tensor, group: Tensor, groups: Tensor,
              *memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, R, upper)`` and hidden rows ``(B, R, W)`` for `tail`.

        The memory is what `asked` gives.
        """
        x = self.table(first) + self.table(second)
        turn = self._turn(place)
        seen = visible(groups[:, None, None] < group[:, None, :, None])
        keys, values = (tensor.split(self.config.heads, 1) for tensor in memory)
        for layer, *own in zip(layers(self.query_layers), keys, values, strict=True):
            x = layer.ask(x, turn, tuple(own), seen)
        x = self.final_norm(x)
        return self.upper_head(x), self.tail_in(x)

    def tail(self, hidden: Tensor, upper: Tensor) -> Tensor:
        """Logits ``(B, R, lower)`` given the upper parts ``(B, R)``."""
        out: Tensor = self.tail_head(self.tail_square(hidden + self.tail_given(upper)))
        return out

    def asked(self, memory: Memory) -> Memory:
        """What the query tower needs of a memory."""
        return memory[:1] + memory[-2:]

    def empty_memory(self, batch: int) -> Memory:
        """Memory of no rows."""
        c = self.config
        return empty(batch, [*[c.heads] * c.content_layers, c.heads * c.query_layers],
                     c.width // c.heads, self.table)
