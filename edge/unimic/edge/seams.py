"""Where new pixels meet old ones: the new ones take on what tokens lost of the old."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from unimic.codec.reflection import REACH, reflection
from unimic.codec.tokens import Mask
from unimic.edge.refiner import Pixels, Refiner
from unimic.edge.regions import around

Plane = NDArray[np.float32]

SEAM = 16  # pixels inside a region whose border lies amid tokens that take on what is around it
SHADE = 64  # levels that may separate new from old pixels and still show the same
RING = 1  # pixels around a hole that tell what the tokens lost


def joined(new: Pixels, old: Pixels, made: Mask, region: Mask, pitch: int, refiner: Refiner
           ) -> Pixels:
    """Old pixels and, in a region that was made anew, new ones that go on from them.

    Where the region ends amid tokens, old pixels are seen beside it of which new ones were made,
    too. What separates the two is taken for what the tokens lost, but for more than `SHADE`, which
    is another thing.

    Args:
        new: see `adjusted`.
        old: see `adjusted`.
        made: see `adjusted`.
        region: bool ``(height, width)``, what will be seen of the new pixels, at least one of
            those made anew.
        pitch: pixels on each side of a token; the first one begins where the arrays do.
        refiner: see `Refiner`.
    """
    shifted = np.where(made[..., None], adjusted(new, old, made), old)
    shown = np.where(region[..., None], fitted(shifted, old, region), old)
    exact = old.astype(np.int16)
    decoded = np.where((made & ~region)[..., None], new.clip(exact - SHADE, exact + SHADE), new)
    return refiner(shown, decoded.astype(np.uint8), region, pitch)


def adjusted(new: Pixels, old: Pixels, made: Mask) -> Pixels:
    """New pixels, shifted by what separates old and new around them.

    There, tokens and pixels show the same, and their difference is what the tokens lost: mostly
    the exact colour, which would draw the border of the hole into the picture. Into the hole it
    goes on smoothly, and fades to its mean.

    Args:
        new: uint8 ``(height, width, 3)``, what the tokens show.
        old: likewise, what the picture shows; where ``made`` is True it means nothing.
        made: bool ``(height, width)``, whole tokens that were made anew, at least one.

    Returns:
        ``new``, shifted where ``made`` is True.
    """
    return _shifted(new, old, made, np.zeros_like(made), 255)


def fitted(new: Pixels, old: Pixels, region: Mask) -> Pixels:
    """New pixels, of which those next to the border of a region go on from the old ones around it.

    Where that border lies amid tokens, some pixels around it were made anew that nobody will see.
    Their difference from the old ones that are seen goes on into the region for `SEAM` pixels.
    What is far off is another thing and no other shade of the same, and shall not run into it.
    What was in the region says nothing about that.

    Args:
        new: see `adjusted`; outside of whole tokens equal to ``old``.
        old: see `adjusted`.
        region: bool ``(height, width)``, what will be seen of ``new``, at least one pixel.
    """
    deep, closeness = region, np.zeros(region.shape, np.uint8)
    for step in range(SEAM):
        deep = _eroded(deep, corners=bool(step % 2))
        closeness += region ^ deep
    near = closeness > 0
    weights = closeness[near, None] / np.float32(SEAM + 1)
    fit = new.copy()
    fit[near] = np.rint(weights * _shifted(new, old, region, deep, SHADE)[near]
                        + (1 - weights) * new[near])
    return fit


def _shifted(new: Pixels, old: Pixels, hole: Mask, kept: Mask, most: int) -> Pixels:
    """New pixels in a hole, shifted by at most ``most``, but where they are to be kept."""
    grown = around(hole, RING)
    inner, outer, shifting = new[grown], old[grown], hole[grown] & ~kept[grown]
    near = np.asarray(_mask(hole[grown]).filter(ImageFilter.MaxFilter(2 * RING + 1))) > 0
    ring = near & ~hole[grown]
    # Where the picture ends there is no ring, but the two by two shall lie as if there were.
    missing = [(max(0, RING - cut.start), 0) for cut in around(hole, 0)]
    weights = np.pad((ring | kept[grown]).astype(np.float32), missing)
    shifted = new.copy()
    for channel in range(new.shape[2]):  # one after the other: pictures may be large
        shown = inner[..., channel].astype(np.float32)
        lost = np.where(ring, (outer[..., channel] - shown).clip(-most, most), 0)
        if not lost.any():
            continue  # as at the border of whole tokens that is fitted after it was adjusted
        shown += _continued(np.pad(lost, missing), weights)[missing[0][0]:, missing[1][0]:]
        shifted[grown][shifting, channel] = np.rint(shown[shifting]).clip(0, 255)
    return shifted


def covered(pixels: Pixels, hole: Mask) -> Pixels:
    """Pixels of which those in a hole go on from what is around it, and tell nothing of their own.

    They are mirror images, which fade into something smooth.

    Args:
        pixels: uint8 ``(height, width, 3)``.
        hole: bool ``(height, width)``, at least one pixel.
    """
    near = around(hole, REACH)
    shown, unseen = pixels[near], hole[near]
    images = reflection(unseen)
    weights = (~unseen).astype(np.float32)
    whole = pixels.copy()
    for channel in range(pixels.shape[2]):
        known = np.where(unseen, 0, shown[..., channel]).astype(np.float32)
        smooth = _continued(known, weights)
        mixed = smooth + images.closeness * (known[images.rows, images.columns] - smooth)
        whole[near][unseen, channel] = np.rint(mixed[unseen]).clip(0, 255)
    return whole


def _eroded(region: Mask, corners: bool) -> Mask:
    """Without the pixels that have others beside them, or also at their corners.

    In turns, that goes round corners nearly as a circle does. The array's border is none of a
    region.
    """
    left = region.copy()
    for axis in range(2):
        along = np.moveaxis(left.copy() if corners else region, axis, 0)
        smaller = np.moveaxis(left, axis, 0)
        smaller[1:] &= along[:-1]
        smaller[:-1] &= along[1:]
    return left


def _mask(region: Mask) -> Image.Image:
    return Image.fromarray(region.astype(np.uint8))


def _continued(values: Plane, weights: Plane) -> Plane:
    """Values ``(h, w)`` as far as their weights, 0 to 1, go, and what is around them for the rest.

    This is the pull-push of Gortler et al., "The Lumigraph" (SIGGRAPH 1996, section 3.4): means of
    two by two, again and again, fill what is missing from coarse to fine.
    """
    if values.size == 1:
        return values
    height, width = values.shape
    beside = ((0, height % 2), (0, width % 2))
    heavy = _pairs(np.pad(weights, beside))
    means = _pairs(np.pad(values * weights, beside))
    means /= np.maximum(heavy, 1e-6)
    coarse = _continued(means, np.minimum(heavy, 1))
    finer = _doubled(_doubled(coarse).T).T[:height, :width]
    filled: Plane = weights * values + (1 - weights) * finer
    return filled


def _pairs(plane: Plane) -> Plane:
    """Sums of two by two."""
    height, width = plane.shape
    sums: Plane = plane.reshape(height // 2, 2, width // 2, 2).sum((1, 3))
    return sums


def _doubled(plane: Plane) -> Plane:
    """Twice the rows, by linear interpolation."""
    above, below = (np.concatenate(parts) for parts in ((plane[:1], plane[:-1]),
                                                         (plane[1:], plane[-1:])))
    rows: Plane = np.stack([0.75 * plane + 0.25 * above, 0.75 * plane + 0.25 * below], 1)
    return rows.reshape(-1, plane.shape[1])
