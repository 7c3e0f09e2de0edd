"""A discriminator for the training of the image tokenizer.

It looks at features of a network that is trained already (Sauer et al., "Projected GANs Converge
Faster", arXiv 2111.01007), which the perceptual loss computes anyway, and judges every position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from unimic.cloud.training.loop import channels_last


class Discriminator(nn.Module):
    """One head for each of the feature maps ``(B, channels[i], h_i, w_i)``; hinge losses.

    Attributes:
        optimizer: of the heads; its state belongs in a checkpoint too.
    """

    def __init__(self, channels: Sequence[int], width: int = 128, rate: float = 2e-4) -> None:
        super().__init__()
        self.heads = channels_last(nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(count, width, 1)), nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, padding=1)), nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)))
            for count in channels))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=rate, betas=(0.0, 0.99))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """How real each position looks, ``(B, 1, h_i, w_i)``."""
        return [head(x / x.detach().square().mean().add(1e-6).sqrt())
                for head, x in zip(self.heads, features, strict=True)]

    def deceive(self, fake: Sequence[Tensor]) -> Tensor:
        """The loss of what made ``fake``."""
        return -torch.stack([verdict.mean() for verdict in self(fake)]).mean()

    def learn(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Take one step to tell ``real`` from ``fake``; returns the loss before it."""
        pairs = zip(*(self([x.detach() for x in features]) for features in (real, fake)),
                    strict=True)
        loss = torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def joined(main: Tensor, other: Tensor, share: float) -> Tensor:
    """The sum of two gradients, the second one scaled to ``share`` of the first one's norm."""
    scale: Tensor = share * main.norm() / other.norm().clamp_min(1e-12)
    return main + scale * other
