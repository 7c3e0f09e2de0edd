"""The refinement network: gives the edge's pixels a say in what the cloud's tokens show.

Tokens tell the cloud what a picture shows, not how sharp its lines are. Where part of it is made
anew, the edge still has the pixels around, and this network carries their lines and texture on into
the new part. Coarse fills that a second network refines are due to Yu et al., "Generative Image
Inpainting with Contextual Attention" (arXiv 1801.07892, section 3.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.models.image_tokenizer import ResidualBlock

INPUTS = 11  # colours shown, lost and mirrored; how close the mirror image is, and the hole
CELL = 4  # pixels a side that the finest layers see as one
FINE, MIDDLE, COARSE = 72, 144, 288  # channels at 4, 8 and 16 pixels
DEPTH = 2  # blocks at each, on the way down and up


FORGET = 0.999
"""How much of a channel's highest value is left after another step of training."""


class BoundedSiLU(nn.Module):
    """SiLU whose values, after training, stay within what they were in training.

    Many channels end up below zero for all that a network learns from. What it has not seen, such
    as a hole that begins amid its cells, could wake one of them, and what follows had never learned
    what to make of that: a whole fill became noise.
    """

    ceiling: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("ceiling", torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Of ``(B, C, H, W)``."""
        active = F.silu(x)
        if not self.training:
            return torch.minimum(active, self.ceiling)
        highest = active.detach().amax((0, 2, 3)).float()[:, None, None]
        self.ceiling = torch.maximum(FORGET * self.ceiling, highest)
        return active


def _blocks(channels: int) -> nn.Sequential:
    blocks = [ResidualBlock(channels) for _ in range(DEPTH)]
    for block in blocks:
        block.activation = BoundedSiLU(channels)
    return nn.Sequential(*blocks)


class Refiner(nn.Module):
    """A U-Net (Ronneberger et al., arXiv 1505.04597) that changes the pixels of a hole.

    Like the image tokenizer it normalises each position by itself and sees no farther than 180
    pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(INPUTS * CELL**2, FINE, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(FINE, MIDDLE, 3, stride=2, padding=1),
                                   nn.Conv2d(MIDDLE, COARSE, 3, stride=2, padding=1)])
        self.falling = nn.ModuleList([_blocks(FINE), _blocks(MIDDLE), _blocks(COARSE)])
        self.up = nn.ModuleList([nn.Conv2d(COARSE, 4 * MIDDLE, 1), nn.Conv2d(MIDDLE, 4 * FINE, 1)])
        self.rising = nn.ModuleList([_blocks(MIDDLE), _blocks(FINE)])
        self.leave = nn.Conv2d(FINE, 4 * CELL**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, shown: Tensor, lost: Tensor, mirrored: Tensor, close: Tensor, hole: Tensor
                ) -> Tensor:
        """Pixels ``(B, 3, H, W)``, those outside of the hole as they are shown.

        Args:
            shown: ``(B, 3, H, W)`` in [0, 1]; in the hole new pixels, around it old ones. ``H`` and
                ``W`` are multiples of 16.
            lost: likewise, what separates them from what tokens show; in the hole, what is believed
                to do so.
            mirrored: likewise, what was lost at the mirror images of the hole's pixels, see
                `unimic.codec.reflection`.
            close: ``(B, 1, H, W)``, the closeness of these.
            hole: ``(B, 1, H, W)``, 1 where pixels are new, 0 elsewhere.
        """
        mirrored = close * mirrored
        x = torch.cat([2 * shown - 1, 4 * lost, 4 * mirrored, close, hole], 1)
        x = self.falling[0](self.enter(F.pixel_unshuffle(x, CELL)))
        passed = []
        for down, falling in zip(self.down, self.falling[1:], strict=True):
            passed.append(x)
            x = falling(down(x))
        for up, rising in zip(self.up, self.rising, strict=True):
            x = rising(passed.pop() + F.pixel_shuffle(up(x), 2))
        own, share = F.pixel_shuffle(self.leave(x), CELL).split([3, 1], 1)
        refined: Tensor = shown + hole * (own + (0.5 + share) * mirrored)
        return refined
