"""MAGVIT-v2 for images, as Show-o uses it: pictures to 13-bit tokens and back.

A convolutional encoder of stride 16 gives 13 numbers for each patch; their signs are the token's
bits (lookup-free quantisation: Yu et al., arXiv 2310.05737, section 3.1). A decoder makes pixels of
them. Modules are named as in the published checkpoint, so that it loads as it is.

Group normalisation and the attention in the middle look at the whole picture: other than with the
project's own tokenizer, tokens of a tile are not exactly those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.backends.show_o.checkpoint import load_strictly, read_config

PATCH = 16
BITS = 13


@dataclass(frozen=True)
class MagvitConfig:
    """Sizes; the published checkpoint has the defaults, and does not name them.

    Attributes:
        channels: that the factors multiply.
        encoder_factors: for each level, from the pixels down.
        encoder_blocks: residual blocks of each level.
        decoder_factors: for each level, from the pixels down too.
        decoder_blocks: likewise.
    """

    channels: int = 128
    encoder_factors: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_factors: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Residual(nn.Module):
    """Two 3×3 convolutions beside a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        skip: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return skip + cast(Tensor, h)


class Attention(nn.Module):
    """One head over all positions, beside a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + cast(Tensor, self.proj_out(mixed))


class Middle(nn.Module):
    """What both halves have at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = Residual(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = Residual(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Halving(nn.Module):
    """A 3×3 convolution of stride 2; the padding is at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Doubling(nn.Module):
    """Every position four times, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual blocks of one resolution, then what leads to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int,
                 downsample: Halving | None = None, upsample: Doubling | None = None) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Residual(outputs if i else inputs, outputs) for i in range(blocks))
        self.downsample, self.upsample = downsample, upsample

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.block, self.downsample, self.upsample):
            x = x if module is None else module(x)
        return x


class Encoder(nn.Module):
    """Pixels ``(B, 3, 16h, 16w)`` in [-1, 1] to latents ``(B, 13, h, w)``."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = [config.channels * factor for factor in config.encoder_factors]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width = config.channels
        for outputs, blocks in zip(widths, config.encoder_blocks, strict=True):
            is_last = len(self.down) == len(widths) - 1
            self.down.append(Level(width, outputs, blocks,
                                   downsample=None if is_last else Halving(outputs)))
            width = outputs
        self.mid = Middle(width)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, BITS, 3, padding=1)
        self.quant_conv = nn.Conv2d(BITS, BITS, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        out: Tensor = self.quant_conv(x)
        return out


class Decoder(nn.Module):
    """Latents ``(B, 13, h, w)`` of ±1 to pixels ``(B, 3, 16h, 16w)``, about [-1, 1]."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = [config.channels * factor for factor in config.decoder_factors]
        width = widths[-1]
        self.post_quant_conv = nn.Conv2d(BITS, BITS, 1)
        self.conv_in = nn.Conv2d(BITS, width, 3, padding=1)
        self.mid = Middle(width)
        self.up = nn.ModuleList()
        for index in reversed(range(len(widths))):
            outputs = widths[index]
            # The checkpoint counts from the pixels.
            self.up.insert(0, Level(width, outputs, config.decoder_blocks[index],
                                    upsample=Doubling(outputs) if index else None))
            width = outputs
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(latents)))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class SignQuantizer(nn.Module):
    """Thirteen signs are a token; the first is its most significant bit."""

    embedding: Tensor
    power_vals: Tensor

    def __init__(self) -> None:
        super().__init__()
        places = torch.arange(BITS - 1, -1, -1)
        bits = torch.arange(1 << BITS).unsqueeze(1) >> places & 1
        # The checkpoint stores both tables.
        self.register_buffer("embedding", bits.float() * 2 - 1)
        self.register_buffer("power_vals", 1 << places)

    def codes(self, latents: Tensor) -> Tensor:
        """Latents ``(B, 13, h, w)`` to int64 codes ``(B, h, w)``."""
        return ((latents > 0) * self.power_vals.view(1, -1, 1, 1)).sum(1)

    def from_codes(self, codes: Tensor) -> Tensor:
        """Codes ``(B, h, w)`` to latents ``(B, 13, h, w)`` of ±1."""
        return self.embedding[codes].permute(0, 3, 1, 2)


class Magvit(nn.Module):
    """Encoder, quantiser and decoder; used as `unimic.cloud.models.image_tokenizer` is."""

    def __init__(self, config: MagvitConfig | None = None) -> None:
        super().__init__()
        config = config or MagvitConfig()
        self.encoder = Encoder(config)
        self.quantize = SignQuantizer()
        self.decoder = Decoder(config)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, 3, 16h, 16w)`` in [0, 1] to int64 codes ``(B, h, w)``."""
        return self.quantize.codes(self.encoder(pixels * 2 - 1))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``(B, h, w)`` to pixels ``(B, 3, 16h, 16w)`` in [0, 1]."""
        pixels: Tensor = self.decoder(self.quantize.from_codes(codes))
        return ((pixels + 1) / 2).clamp(0, 1)


def load_magvit(folder: Path) -> Magvit:
    """The tokenizer of a checkpoint, in float32 and evaluation mode on the CPU.

    Raises:
        UnknownModel: it is not whole.
        CorruptData: it does not fit.
    """
    config = read_config(folder)
    sizes = {field.name: config[field.name] for field in fields(MagvitConfig)
             if field.name in config}
    with torch.device("meta"):  # every tensor comes from the file
        magvit = Magvit(MagvitConfig(**sizes))
    load_strictly(magvit, folder)
    return magvit.float().eval().requires_grad_(False)
