"""Convolutional image tokenizer: one of 8,192 codes for every 16×16 pixels.

The quantiser is finite scalar quantisation (Mentzer et al., "Finite Scalar Quantization: VQ-VAE
Made Simple", arXiv 2309.15505, section 3), which has no codebook that could collapse. Every
normalisation is over the channels of one position, so a tile and the whole image agree wherever
the receptive field does not reach the border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PATCH = 16
UPPER_DIGITS, LOWER = 2, 128  # a code is the first two digits × 128 + the others


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of the tokenizer; the defaults are those of the shipped model."""

    levels: tuple[int, ...] = (8, 8, 8, 4, 4)
    stem: int = 64
    encoder_mid: int = 160
    encoder_top: int = 256
    encoder_depth: tuple[int, int] = (1, 3)
    decoder_top: int = 384
    decoder_mid: int = 192
    decoder_low: int = 96
    decoder_depth: tuple[int, int, int] = (2, 5, 2)
    decoder_last: int = 16


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position of a ``(B, C, H, W)`` tensor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


class ResidualBlock(nn.Module):
    """norm, 3×3, SiLU, 3×3, with the last convolution starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation: nn.Module = nn.SiLU()
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.activation(self.first(self.norm(x))))
        return out


def _blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


class Encoder(nn.Module):
    """Pixels ``(B, 3, 16h, 16w)`` in [0, 1] to pre-quantised latents ``(B, len(levels), h, w)``."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, config.stem, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(config.stem, config.encoder_mid, 3, stride=2, padding=1),
            *_blocks(config.encoder_mid, config.encoder_depth[0]),
            nn.Conv2d(config.encoder_mid, config.encoder_top, 3, stride=2, padding=1),
            *_blocks(config.encoder_top, config.encoder_depth[1]),
            ChannelNorm(config.encoder_top),
            nn.Conv2d(config.encoder_top, len(config.levels), 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.layers(pixels * 2 - 1)
        return out


class Decoder(nn.Module):
    """Latents ``(B, len(levels), h, w)`` in [-1, 1] to pixels ``(B, 3, 16h, 16w)``, not clamped."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(len(config.levels), config.decoder_top, 3, padding=1),
            *_blocks(config.decoder_top, config.decoder_depth[0]),
            nn.Conv2d(config.decoder_top, config.decoder_mid * 4, 1),
            nn.PixelShuffle(2),
            *_blocks(config.decoder_mid, config.decoder_depth[1]),
            nn.Conv2d(config.decoder_mid, config.decoder_low * 4, 1),
            nn.PixelShuffle(2),
            *_blocks(config.decoder_low, config.decoder_depth[2]),
            nn.Conv2d(config.decoder_low, config.decoder_last * 4, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(config.decoder_last, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, latents: Tensor) -> Tensor:
        out: Tensor = self.layers(latents)
        return (out + 1) / 2


class FiniteScalarQuantizer(nn.Module):
    """Rounds each latent channel to one of ``levels[i]`` values, straight-through in training."""

    levels: Tensor
    place: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels).view(1, -1, 1, 1), persistent=False)
        places = [1]
        for level in reversed(levels[1:]):
            places.insert(0, places[0] * level)
        self.size = math.prod(levels)
        self.register_buffer("place", torch.tensor(places).view(1, -1, 1, 1), persistent=False)

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents between the levels of each channel, 0 … levels-1, not rounded."""
        return torch.sigmoid(1.6 * latents.float()) * (self.levels - 1)

    def digits(self, latents: Tensor) -> Tensor:
        """Level of every channel, 0 … levels-1, with straight-through gradients."""
        scaled = self.scaled(latents)
        return scaled + (torch.round(scaled) - scaled).detach()

    def normalise(self, digits: Tensor) -> Tensor:
        """Digits to the decoder's input range [-1, 1]."""
        return digits * (2 / (self.levels - 1)) - 1

    def codes(self, digits: Tensor) -> Tensor:
        """Digits ``(B, D, h, w)`` to codes ``(B, h, w)``; the first digit is most significant."""
        return (torch.round(digits).long() * self.place).sum(1)

    def from_codes(self, codes: Tensor) -> Tensor:
        """Codes ``(B, h, w)`` to digits ``(B, D, h, w)``."""
        return (codes.unsqueeze(1) // self.place % self.levels).float()


class ImageTokenizer(nn.Module):
    """Encoder, quantiser and decoder."""

    def __init__(self, config: TokenizerConfig | None = None) -> None:
        super().__init__()
        self.config = config or TokenizerConfig()
        self.encoder = Encoder(self.config)
        self.quantizer = FiniteScalarQuantizer(self.config.levels)
        self.decoder = Decoder(self.config)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct pixels; returns ``(reconstruction, digits)``."""
        digits = self.quantizer.digits(self.encoder(pixels))
        return self.decoder(self.quantizer.normalise(digits)), digits

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, 3, 16h, 16w)`` in [0, 1] to int64 codes ``(B, h, w)``."""
        return self.quantizer.codes(self.quantizer.digits(self.encoder(pixels)))

    @torch.no_grad()
    def encode_with_distances(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`encode`, and how far each part of a code would be from the latents.

        Returns:
            Codes ``(B, h, w)`` and the squared distances of every upper part (the first two
            digits), ``(B, h, w, 64)``, and of every lower part, ``(B, h, w, 128)``, in the
            decoder's units; see `unimic.codec.tokens.Distances`.
        """
        quantizer = self.quantizer
        scaled = quantizer.scaled(self.encoder(pixels))
        points = quantizer.normalise(scaled).permute(0, 2, 3, 1).unsqueeze(-2)
        every = quantizer.normalise(quantizer.from_codes(torch.arange(quantizer.size)[None, None]))
        grid = every[0, :, 0].T.unflatten(0, (-1, LOWER))  # (upper, lower, digit)
        upper = (points[..., :UPPER_DIGITS] - grid[:, 0, :UPPER_DIGITS]).square().sum(-1)
        lower = (points[..., UPPER_DIGITS:] - grid[0, :, UPPER_DIGITS:]).square().sum(-1)
        return quantizer.codes(torch.round(scaled)), upper, lower

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``(B, h, w)`` to pixels ``(B, 3, 16h, 16w)`` in [0, 1]."""
        digits = self.quantizer.from_codes(codes)
        pixels: Tensor = self.decoder(self.quantizer.normalise(digits))
        return pixels.clamp(0, 1)
