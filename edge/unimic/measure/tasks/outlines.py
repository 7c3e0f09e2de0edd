"""What a drawing of one coloured shape shows, by plain image analysis.

The ground is the picture's median colour; what stands out from it (Otsu's threshold of the
distance in RGB) falls into pieces, of which the largest counts. Its colour is the named one nearest
in CIELAB to the median of the quarter of its pixels that stands out most: no blurred borders. Its
shape is the outline that overlaps best with it when stretched to its bounding box: the whole box,
the ellipse in it, or the triangle on its base.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.measure.tasks.grounds import COLOURS, SHAPES


def describe(picture: Image.Image) -> tuple[str, str]:
    """Colour and shape, of `COLOURS` and `SHAPES`, of the thing that stands out most.

    Raises:
        InvalidInput: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise InvalidInput("opencv", "is not installed, and it finds shapes in drawings",
                           "pip install opencv-python-headless") from error
    pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
    distance = np.linalg.norm(pixels - np.median(pixels.reshape(-1, 3), 0), axis=-1)
    apart = np.rint(distance * 255 / max(float(distance.max()), 1 / 255)).astype(np.uint8)
    _, binary = cv2.threshold(apart, 0, 1, cv2.THRESH_OTSU)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if len(stats) > 1 else 0
    piece = labels == largest
    core = piece & (distance >= np.quantile(distance[piece], 0.75))
    colours = np.array([np.median(pixels[core], 0), *np.array([*COLOURS.values()]) / 255])
    seen, *named = cv2.cvtColor(colours.astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    left, top, width, height = (int(value) for value in stats[largest][:4])
    piece = piece[top:top + height, left:left + width]
    return (list(COLOURS)[int(np.linalg.norm(named - seen, axis=-1).argmin())],
            max(SHAPES, key=lambda shape: _overlap(piece, outline(shape, width, height))))


def outline(shape: str, width: int, height: int) -> NDArray[np.bool_]:
    """A filled shape that touches all sides of a box: bool ``(height, width)``."""
    y, x = ((np.arange(size) + 0.5) / size for size in (height, width))
    y, x = y[:, None], x[None]
    if shape == "circle":
        return (y - 0.5) ** 2 + (x - 0.5) ** 2 <= 0.25
    if shape == "triangle":
        return np.abs(x - 0.5) <= y / 2
    return np.ones((height, width), bool)


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())
