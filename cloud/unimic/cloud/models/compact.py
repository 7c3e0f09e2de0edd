"""The compact multimodal model: one transformer over text tokens and image tokens.

The scheme is that of Show-o (Xie et al., arXiv 2408.12528, section 3): text is predicted causally,
image tokens by masked diffusion (Chang et al., "MaskGIT", arXiv 2202.04200) with full attention
among themselves. A sequence is ``[prompt] [image] [text] [text] …``: the image sees the prompt,
every text sees the image and its own past, and texts do not see each other. So an image is looked
at once (`Compact.look`), and all that is asked or said about it reads what came of that
(`Compact.read`).

What makes it small: a code of 13 bits is never an index into 8,192 vectors but a pair of a *high*
part (6 bits: the first two digits of the tokenizer) and a *low* part (7 bits: the other three), on
the way in as a sum of embeddings and on the way out as two predictions, the low part given the
high one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.models.image_tokenizer import LOWER, FiniteScalarQuantizer, TokenizerConfig
from unimic.codec.errors import InvalidInput
from unimic.codec.text import TextTokenizer

LEVELS = TokenizerConfig.levels
HIGH, LOW = 64, LOWER
SCALE = ".scale"  # after the name of a matrix that is stored in bytes
LARGE = 2**15  # a matrix of so many numbers or more is stored in bytes

TEXT_CODES = 4096
PROMPT, ASK, CAPTION, ANSWER, END, PADDING = range(TEXT_CODES, TEXT_CODES + 6)
"""Ids after the text vocabulary: start of a prompt, of a question, of a caption; start and end of
an answer; nothing."""


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the model; the defaults are those of the shipped one, but for its painter, which
    `unimic.cloud.training.train_painter` has deepened."""

    width: int = 192
    depth: int = 6
    head: int = 64
    expansion: int = 4
    painter_depth: int = 4


@dataclass
class Batch:
    """Sequences of equal layout. ``B`` sequences, an image of ``h`` × ``w`` tokens in each.

    Attributes:
        codes: int64 ``(B, h, w)``; what lies under the mask is ignored.
        masked: bool ``(B, h, w)``, True where the image token is hidden.
        prompt: int64 ``(B, P)``, padded on the left with ``PADDING``.
        text: int64 ``(B, T)``, all texts of a sequence one after the other.
        segment: int64 ``(B, T)``, number of the text that a token belongs to, -1 for padding.
        place: int64 ``(B, T)``, position of a token within its text.
    """

    codes: Tensor
    masked: Tensor
    prompt: Tensor
    text: Tensor
    segment: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass
class Memory:
    """Images as texts see them.

    Attributes:
        layers: of each block, keys and values ``(B, heads, h·w, head)``.
        after: position of a text's first token, see `Rotation`.
    """

    layers: list[tuple[Tensor, Tensor]]
    after: int

    @staticmethod
    def joined(parts: Sequence[Memory]) -> Memory:
        """Images of one shape one after the other."""
        layers = [(torch.cat([key for key, _ in layer]), torch.cat([value for _, value in layer]))
                  for layer in zip(*(part.layers for part in parts), strict=True)]
        return Memory(layers, parts[0].after)

    def take(self, which: Sequence[int]) -> Memory:
        """The images ``which``, as often as they are named."""
        chosen = torch.tensor(which, device=self.layers[0][0].device)
        return Memory([(key[chosen], value[chosen]) for key, value in self.layers], self.after)


class Rotation:
    """Rotary positions in two dimensions (Su et al., arXiv 2104.09864), half of a head for each.

    An image token is at its row and column; text lies on the diagonal, the prompt before the first
    row and the other texts from as many rows on as the image's longer side has, so that all
    distances are small and regular.
    """

    def __init__(self, positions: Tensor, head: int) -> None:
        """``positions`` is ``(B, L, 2)``."""
        pairs = head // 4
        rates = 100.0 ** -(torch.arange(pairs, device=positions.device) / pairs)
        angles = (positions.float().unsqueeze(-1) * rates).flatten(2)[:, :, None, None]
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate ``(B, L, …, …, head)``."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation, plus a 3×3 filter on the image.

    The filter (one per channel, on the attention's values; Dong et al., "CSWin", arXiv 2107.00652,
    section 3.3) tells neighbours apart at once, which attention takes long to learn.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width = config.width
        self.head = config.head
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.expand = nn.Linear(width, config.expansion * width, bias=False)
        self.contract = nn.Linear(config.expansion * width, width, bias=False)
        nn.init.zeros_(self.merge.weight)
        nn.init.zeros_(self.contract.weight)

    def look(self, x: Tensor, rotation: Rotation, allowed: Tensor | None, shape: tuple[int, int]
             ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Prompt and image, where all see all if nothing is said of who is ``allowed`` to; and the
        image's keys and values."""
        query, key, value = self._heads(x, rotation)
        mixed = _joined(F.scaled_dot_product_attention(query, key, value, attn_mask=allowed))
        count = shape[0] * shape[1]
        own = key[:, :, -count:], value[:, :, -count:]
        patch = _joined(own[1]).transpose(1, 2).unflatten(2, shape)
        near = self.local(patch).flatten(2).transpose(1, 2)
        mixed = mixed + F.pad(near, (0, 0, mixed.shape[1] - count, 0))
        return self._finish(x, mixed), own

    def read(self, x: Tensor, rotation: Rotation, allowed: Tensor,
             seen: tuple[Tensor, Tensor]) -> Tensor:
        """Texts, after an image of which the keys and values are known."""
        query, key, value = self._heads(x, rotation)
        key, value = torch.cat([seen[0], key], 2), torch.cat([seen[1], value], 2)
        return self._finish(x, _joined(
            F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)))

    def _heads(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.attend(normalise(x)).unflatten(-1, (3, -1, self.head))
        query, key = rotation(normalise(heads[:, :, :2])).permute(2, 0, 3, 1, 4)
        return query, key, heads[:, :, 2].transpose(1, 2)

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.merge(mixed)
        out: Tensor = x + self.contract(F.gelu(self.expand(normalise(x)), approximate="tanh"))
        return out


def _joined(heads: Tensor) -> Tensor:
    """``(B, heads, L, head)`` as ``(B, L, width)``."""
    return heads.transpose(1, 2).flatten(2)


def normalise(x: Tensor) -> Tensor:
    """Mean of the last dimension to zero, variance to one."""
    return F.layer_norm(x, (x.shape[-1],))


class Painter(nn.Module):
    """Predicts what is hidden at once: latents whose picture is expected to be the nearest.

    Drawing from a distribution gives what could be there; its distance to what is there is, for a
    squared distance, twice that of the distribution's mean. So these blocks learn that distance
    itself, through the image tokenizer's decoder (`unimic.cloud.training.train_painter`).
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.head = config.head
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.painter_depth)])
        self.to_latents = nn.Linear(config.width, len(LEVELS))
        nn.init.normal_(self.to_latents.weight, std=0.02)
        nn.init.zeros_(self.to_latents.bias)

    def forward(self, features: Tensor, shape: tuple[int, int]) -> Tensor:
        """Of features ``(B, h·w, width)`` as `Compact.look` gives them, latents ``(B, 5, h, w)``.

        They are those of `unimic.cloud.models.image_tokenizer`, before quantisation.
        """
        places = _grid(*shape).expand(len(features), -1, -1)
        rotation = Rotation(places.to(features.device), self.head)
        x = features
        for block in self.blocks:
            x, _ = cast(Block, block).look(x, rotation, None, shape)
        latents: Tensor = self.to_latents(normalise(x)).transpose(1, 2).unflatten(2, shape)
        return latents


class Compact(nn.Module):
    """The whole model."""

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = config or CompactConfig()
        width = self.config.width
        self.words = nn.Embedding(PADDING + 1, width)
        self.high = nn.Embedding(HIGH, width)
        self.low = nn.Embedding(LOW, width)
        self.digits = nn.Linear(len(LEVELS), width, bias=False)
        self.hidden = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList([Block(self.config) for _ in range(self.config.depth)])
        self.to_word = nn.Linear(width, width, bias=False)
        self.to_high = nn.Linear(width, HIGH)
        self.to_low = nn.Linear(width, width)
        self.low_given_high = nn.Embedding(HIGH, width)
        self.to_low_code = nn.Linear(width, LOW)
        self.painter = Painter(self.config)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        self.quantizer = FiniteScalarQuantizer(LEVELS)

    def embed_image(self, codes: Tensor, masked: Tensor) -> Tensor:
        """Codes ``(B, h, w)`` and mask to ``(B, h·w, width)``."""
        codes = torch.where(masked, 0, codes)
        latents = self.quantizer.normalise(self.quantizer.from_codes(codes))
        digits = latents.flatten(2).transpose(1, 2).contiguous()
        codes = codes.flatten(1)
        seen = self.high(codes // LOW) + self.low(codes % LOW) + self.digits(digits)
        return torch.where(masked.flatten(1).unsqueeze(-1), self.hidden.to(seen.dtype), seen)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of the image tokens ``(B, h·w, width)`` and of the text ``(B, T, width)``."""
        features, memory = self.look(batch.codes, batch.masked, batch.prompt)
        return features, self.read(memory, batch.text, batch.segment, batch.place)

    def look(self, codes: Tensor, masked: Tensor, prompt: Tensor) -> tuple[Tensor, Memory]:
        """Features of the image tokens ``(B, h·w, width)`` and what texts see of them.

        The arguments are as in `Batch`. The prompt sees its past, the image the prompt and itself.
        """
        batch, rows, columns = codes.shape
        before = prompt.shape[1]
        x = normalise(torch.cat([self.words(prompt), self.embed_image(codes, masked)], 1))
        places = torch.cat([torch.arange(-before, 0).unsqueeze(-1).expand(-1, 2),
                            _grid(rows, columns)])
        rotation = Rotation(places.expand(batch, -1, -1).to(x.device), self.config.head)
        order = torch.arange(x.shape[1], device=x.device)
        past = order.unsqueeze(1) >= order.unsqueeze(0)
        real = F.pad(prompt != PADDING, (0, rows * columns), value=True)
        allowed = _never_empty((past | (order >= before).unsqueeze(1)) & real.unsqueeze(1))
        layers = []
        for block in self._blocks():
            x, own = block.look(x, rotation, allowed, (rows, columns))
            layers.append(own)
        return normalise(x)[:, before:], Memory(layers, max(rows, columns))

    def read(self, memory: Memory, text: Tensor, segment: Tensor, place: Tensor) -> Tensor:
        """Features ``(B, T, width)`` of texts about the images of ``memory``.

        The arguments are as in `Batch`. A text sees the image and its own past.
        """
        x = normalise(self.words(text))
        rotation = Rotation((place + memory.after).unsqueeze(-1).expand(-1, -1, 2),
                            self.config.head)
        order = torch.arange(text.shape[1], device=x.device)
        same = segment.unsqueeze(2) == segment.unsqueeze(1)
        own = _never_empty(same & (order.unsqueeze(1) >= order) & (segment >= 0).unsqueeze(2))
        image = memory.layers[0][0].shape[2]
        told = (segment >= 0)[:, None, :, None].expand(-1, -1, -1, image)
        allowed = torch.cat([told, own], -1)
        for block, seen in zip(self._blocks(), memory.layers, strict=True):
            x = block.read(x, rotation, allowed, seen)
        return normalise(x)

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]

    def high_logits(self, features: Tensor) -> Tensor:
        """Logits ``(…, 64)`` of the high parts."""
        logits: Tensor = self.to_high(features)
        return logits

    def low_logits(self, features: Tensor, high: Tensor) -> Tensor:
        """Logits ``(…, 128)`` of the low parts, given the high parts ``(…)``."""
        logits: Tensor = self.to_low_code(F.gelu(self.to_low(features) + self.low_given_high(high)))
        return logits

    def word_logits(self, features: Tensor) -> Tensor:
        """Logits ``(…, 4102)`` of the next text token."""
        return F.linear(self.to_word(features), self.words.weight)


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: float16, but large matrices as bytes with a scale a row.

    The small ones are kept: they would save little, and rounding what makes latents shows in fills.
    """
    stored = {}
    for name, value in state.items():
        if value.ndim == 2 and value.numel() >= LARGE:
            scale = value.abs().amax(1, keepdim=True).clamp_min(1e-6) / 127
            stored[name + SCALE] = scale
            stored[name] = (value / scale).round().to(torch.int8)
        else:
            stored[name] = value.half().contiguous()
    return stored


def unpacked(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` made of weights, in float32."""
    return {name: value.float() * stored.get(name + SCALE, 1)
            for name, value in stored.items() if not name.endswith(SCALE)}


def _grid(rows: int, columns: int) -> Tensor:
    """Row and column of every image token, ``(h·w, 2)``."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def _never_empty(allowed: Tensor) -> Tensor:
    """``(B, L, L)`` for all heads; everybody sees itself, so that no row of a softmax is empty."""
    itself = torch.eye(allowed.shape[1], dtype=torch.bool, device=allowed.device)
    return (allowed | itself).unsqueeze(1)


def left_padded(sequences: list[list[int]], device: torch.device | None = None) -> Tensor:
    """Prompts as ``(B, P)``, padded on the left."""
    width = max(map(len, sequences), default=0)
    rows = [[PADDING] * (width - len(s)) + s for s in sequences]
    return torch.tensor(rows, dtype=torch.long, device=device).view(len(sequences), width)


def packed_texts(sequences: list[list[list[int]]], device: torch.device | None = None
                 ) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of texts as ``text``, ``segment`` and ``place`` of a `Batch`, each ``(B, T)``."""
    length = max((sum(map(len, texts)) for texts in sequences), default=0)
    filled = []
    for texts in sequences:
        text = [id_ for t in texts for id_ in t]
        segment = [i for i, t in enumerate(texts) for _ in t]
        place = [p for t in texts for p in range(len(t))]
        padding = length - len(text)
        filled.append((text + [PADDING] * padding, segment + [-1] * padding,
                       place + [0] * padding))
    columns = [torch.tensor(column, dtype=torch.long, device=device).view(len(sequences), length)
               for column in zip(*filled, strict=True)]
    return columns[0], columns[1], columns[2]


def plain(text: str) -> str:
    """Text as the model reads it: lower case, single spaces, no full stop or question mark.

    A blank stands before the first word, so that a word has the same tokens wherever it is.
    """
    return "".join(f" {word}" for word in text.lower().replace("_", " ").split()).rstrip(" .?!")


class Words:
    """Texts to the ids that the model reads, and back."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str, limit: int) -> list[int]:
        """The first ``limit`` ids of ``text``."""
        # No token is 64 characters long, so what is cut here could not count.
        ids: list[int] = self.tokenizer.encode(plain(text)[:64 * limit]).tolist()
        return ids[:limit]

    def spell(self, ids: list[int]) -> str:
        """The text of ``ids``; cut before bytes that spell no character."""
        for end in range(len(ids), 0, -1):
            try:
                return self.tokenizer.decode(np.array(ids[:end], np.int32)).strip()
            except InvalidInput:
                continue
        return ""
