"""LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924), version 0.1 heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unimic.perceptual.packages import Convolutions, lpips_weights


def bands(x: Tensor) -> Sequence[Tensor]:
    """Rows of ``(B, C, H, W)``: on a CPU so few at a time that what is between fits its caches."""
    parts: Sequence[Tensor] = x.split(16 if x.device.type == "cpu" else x.shape[2], 2)
    return parts


def feature_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared distance of channel-normalised features, averaged over positions."""
    pairs = zip(bands(a), bands(b), strict=True)
    total = sum((_band_distance(x.float(), y.float(), weight) for x, y in pairs),
                torch.zeros(len(a), device=a.device))
    return total / (a.shape[2] * a.shape[3])


def _band_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    a = a * (a.pow(2).sum(1, keepdim=True) + 1e-10).rsqrt()
    b = b * (b.pow(2).sum(1, keepdim=True) + 1e-10).rsqrt()
    return ((a - b).pow(2) * weight).sum((1, 2, 3))


class LPIPS(nn.Module):
    """LPIPS between two image batches ``(B, 3, H, W)`` in [0, 1]; one value per image.

    Args:
        network: ``alex`` or ``vgg``.
    """

    def __init__(self, network: str = "alex") -> None:
        super().__init__()
        weights = lpips_weights(network)
        self.features = Convolutions(network, weights)
        self.heads = nn.ParameterList()
        for i in range(5):
            head = torch.from_numpy(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].copy())
            self.heads.append(nn.Parameter(head.view(1, -1, 1, 1), requires_grad=False))

    def between(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """The distance of two batches of which `features` are known."""
        total = torch.zeros(a[0].shape[0], device=a[0].device)
        for fa, fb, head in zip(a, b, self.heads, strict=True):
            total = total + feature_distance(fa, fb, head)
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.between(self.features(a), self.features(b))
