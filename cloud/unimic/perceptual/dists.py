"""DISTS: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity"
(arXiv 2004.07728), with the published weights of the package ``dists-pytorch``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.perceptual.lpips import bands
from unimic.perceptual.packages import Convolutions, lpips_weights, package_file

_STABLE = 1e-6  # the constants c1 and c2 of equations 5 and 6


def l2_pool(x: Tensor, size: int) -> Tensor:
    """Equation 2: the root of squares under a Hanning window that reaches one beyond ``size``."""
    line = torch.hann_window(size + 3, periodic=False, device=x.device, dtype=x.dtype)[1:-1]
    window = torch.outer(line, line) / line.sum() ** 2
    channels = x.shape[1]
    squares = F.conv2d(x * x, window.expand(channels, 1, -1, -1), None, 2, size // 2, 1, channels)
    return (squares + 1e-12).sqrt()


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Means, covariance and variances of each channel of two activations, all ``(B, C)``."""
    mean_x, mean_y = (z.mean((2, 3), True, dtype=torch.float32) for z in (x, y))
    total = torch.zeros(3, *x.shape[:2], device=x.device)
    for u, v in zip(bands(x), bands(y), strict=True):
        u, v = u - mean_x, v - mean_y
        total = total + torch.stack([z.sum((2, 3)) for z in (u * v, u * u, v * v)])
    return (mean_x.flatten(1), mean_y.flatten(1), *(total / (x.shape[2] * x.shape[3])))


class DISTS(nn.Module):
    """DISTS between two image batches ``(B, 3, H, W)`` in [0, 1], at their own size; one value per
    image, 0 for equal ones.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = Convolutions("vgg", lpips_weights("vgg"), l2_pool)
        path = package_file("DISTS_pytorch", "weights.pt")
        weights = torch.load(path, map_location="cpu", weights_only=True)
        alpha, beta = weights["alpha"].detach().flatten(), weights["beta"].detach().flatten()
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha / total)
        self.register_buffer("beta", beta / total)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The pixels themselves and five activations."""
        return [pixels, *self.network(pixels)]

    def between(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """The distance of two batches of which `features` are known."""
        channels = [x.shape[1] for x in a]
        similarity = torch.zeros(len(a[0]), device=a[0].device)
        for x, y, alpha, beta in zip(a, b, self.alpha.split(channels), self.beta.split(channels),
                                     strict=True):
            mean_x, mean_y, covariance, variance_x, variance_y = _moments(x, y)
            texture = (2 * mean_x * mean_y + _STABLE) / (mean_x**2 + mean_y**2 + _STABLE)
            structure = (2 * covariance + _STABLE) / (variance_x + variance_y + _STABLE)
            similarity = similarity + (alpha * texture + beta * structure).sum(1)
        return 1 - similarity

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.between(self.features(a), self.features(b))
