"""The refinement network: gives the edge's pixels a say in what the cloud's tokens show.

Tokens tell the cloud what a picture shows, not how sharp its lines are. Where part of it is made
anew, the edge still has the pixels around, and this network carries their lines and texture on into
the new part. Coarse fills that a second network refines are due to Yu et al., "Generative Image
Inpainting with Contextual Attention" (arXiv 1801.07892, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.models.image_tokenizer import ResidualBlock

MULTIPLE = 16
"""Of pixels a side that the network takes."""
_CHANNELS = 11  # what is shown, what was lost, its mirror image and how close, the hole
_CELL = 4  # pixels a side that the finest layers see as one


@dataclass(frozen=True)
class RefinerConfig:
    """Channels at 4, 8 and 16 pixels a cell, and blocks at each, on the way down and up."""

    channels: tuple[int, int, int] = (48, 80, 128)
    depth: int = 2


class Refiner(nn.Module):
    """A U-Net (Ronneberger et al., arXiv 1505.04597) that changes the pixels of a hole.

    Like the image tokenizer it normalises each position by itself and sees no farther than 180
    pixels.
    """

    def __init__(self, config: RefinerConfig | None = None) -> None:
        super().__init__()
        fine, middle, coarse = (config or RefinerConfig()).channels
        depth = (config or RefinerConfig()).depth

        def blocks(channels: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels) for _ in range(depth)))

        self.enter = nn.Conv2d(_CHANNELS * _CELL**2, fine, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(fine, middle, 3, stride=2, padding=1),
                                   nn.Conv2d(middle, coarse, 3, stride=2, padding=1)])
        self.falling = nn.ModuleList([blocks(fine), blocks(middle), blocks(coarse)])
        self.up = nn.ModuleList([nn.Conv2d(coarse, 4 * middle, 1), nn.Conv2d(middle, 4 * fine, 1)])
        self.rising = nn.ModuleList([blocks(middle), blocks(fine)])
        self.leave = nn.Conv2d(fine, 4 * _CELL**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, shown: Tensor, lost: Tensor, mirrored: Tensor, close: Tensor, hole: Tensor
                ) -> Tensor:
        """Pixels ``(B, 3, H, W)``, those outside of the hole as they are shown.

        Args:
            shown: ``(B, 3, H, W)`` in [0, 1]; in the hole new pixels, around it old ones. ``H`` and
                ``W`` are multiples of `MULTIPLE`.
            lost: likewise, what separates them from what tokens show; in the hole, what is believed
                to do so.
            mirrored: likewise, what was lost at the mirror images of the hole's pixels, see
                `unimic.codec.reflection`.
            close: ``(B, 1, H, W)``, the closeness of these.
            hole: ``(B, 1, H, W)``, 1 where pixels are new, 0 elsewhere.
        """
        mirrored = close * mirrored
        x = torch.cat([2 * shown - 1, 4 * lost, 4 * mirrored, close, hole], 1)
        x = self.falling[0](self.enter(F.pixel_unshuffle(x, _CELL)))
        passed = []
        for down, falling in zip(self.down, self.falling[1:], strict=True):
            passed.append(x)
            x = falling(down(x))
        for up, rising in zip(self.up, self.rising, strict=True):
            x = rising(passed.pop() + F.pixel_shuffle(up(x), 2))
        own, share = F.pixel_shuffle(self.leave(x), _CELL).split([3, 1], 1)
        refined: Tensor = shown + hole * (own + (0.5 + share) * mirrored)
        return refined
