"""Hidden parts of photos, made anew: how near they come to what was there.

Two parts are hidden: a square in the middle, 3/7 of each side (inpainting), and a strip of 2/7 at
the right, which is cut away before the photo is shared (outpainting). In each, compared are

* the mean colour of what is visible,
* Telea's method (Journal of Graphics Tools 9(1), 2004) in OpenCV, radius 5,
* each pixel's mirror image in the nearest border (`unimic.codec.reflection`),
* the service, without a prompt and with the photo's first caption as one,
* and the original's own tokens, decoded and joined to what is visible like those of the service:
  nothing made of tokens can be expected to come nearer.

What is visible stays as it was, in all of them. LPIPS and DISTS are those of the hidden part cut
out, against the same part of the original. Tokens are right if they equal those of the original
photo there; those of the simpler fills are made of the filled photo.

Neither the service nor the client has the hidden part: not even the pixels that the client joins
the new ones to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress
from unimic.codec.reflection import reflection
from unimic.codec.tokens import Codes, Mask
from unimic.edge.client import Client
from unimic.edge.contact_sheet import Tile
from unimic.edge.models import Models
from unimic.edge.regions import Box
from unimic.edge.seams import joined
from unimic.measure.html import Column
from unimic.measure.metrics import Judge, find
from unimic.measure.tasks.findings import Findings, Row
from unimic.measure.tasks.grounds import Subject, pictures

JUDGES = ("lpips-vgg", "dists", "lpips-alex")
MEAN, TELEA, MIRROR = "mean fill", "OpenCV Telea", "mirror images"
FLOOR = "original, re-encoded"
PLAIN, PROMPTED = "unimic, no prompt", "unimic, caption as prompt"
RADIUS = 5
SEED = 0
SMALLEST = 224  # pixels a side; of less, the hidden parts would be too small to judge
SAMPLES = 6  # of two photos


@dataclass(frozen=True)
class Filled:
    """A photo whose hidden part was made anew, the tokens of the whole, and their cost in words."""

    method: str
    image: Image.Image
    codes: Codes
    cost: str = ""


def measure(cloud: Client, models: Models, subjects: Sequence[Subject], samples: list[Tile],
            progress: Progress) -> Findings:
    """Hide the middle, then the right, of every photo.

    Args:
        cloud: the service.
        models: of the token space.
        subjects: photos with captions, of at least `SMALLEST` pixels a side; sides are cut to
            multiples of 7 tokens.
        samples: gets the first photos and what was made of them, `SAMPLES` pictures.
        progress: called as ``progress(done, all)`` after each photo.

    Returns:
        Means by part and method; ``gain`` is how much lower each distance is than that of the
        best simple fill, in percent.

    Raises:
        InvalidInput: what is compared with, or the networks that judge, is not installed.
    """
    _, missing = find(JUDGES)
    if missing:
        raise InvalidInput(JUDGES[0], "is what judges inpainting, and it is not installed",
                           *missing.values())
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise InvalidInput("opencv", "is not installed, and inpainting is compared with it",
                           "pip install opencv-python-headless") from error
    values: dict[tuple[str, str], list[Row]] = defaultdict(list)
    failed: list[Row] = []
    unit = 7 * models.coder.space.patch
    for subject, photo in pictures(subjects, failed, progress):
        width, height = (side // unit * unit for side in photo.size)
        if min(width, height) < SMALLEST:
            failed.append({"picture": subject.name, "error": f"is under {SMALLEST} pixels a side"})
            continue
        photo = photo.crop((0, 0, width, height))
        if len(samples) < SAMPLES:
            samples.append(Tile(photo, "original", f"“{subject.captions[0]}”", ""))
        for part, box in _boxes(width, height).items():
            judge = Judge(photo.crop(box), JUDGES)
            truth, place = models.images.encode(photo).codes, _tokens(box, models)
            for filled in fills(cloud, models, photo, part, box, subject.captions[0]):
                right = 100 * float(np.mean(filled.codes[place] == truth[place]))
                values[part, filled.method].append(
                    judge(filled.image.crop(box)) | {"tokens": right})
                if len(samples) < SAMPLES and filled.method == PLAIN:
                    samples.append(Tile(filled.image, f"made anew: the {part} part", "",
                                        filled.cost))
    return Findings(TITLE, ABOUT, COLUMNS, _rows(values), failed, losses=LOSSES)


def fills(cloud: Client, models: Models, photo: Image.Image, part: str, box: Box, prompt: str
          ) -> Iterator[Filled]:
    """The photo with the box filled by each method."""
    for method, simple in SIMPLE.items():
        image = simple(photo, box)
        yield Filled(method, image, models.images.encode(image).codes)
    shared = (cloud.share(mean_fill(photo, box), hole=box) if part == "middle" else
              cloud.share(photo.crop((0, 0, box[0], photo.height))))
    for method, words in ((PLAIN, ""), (PROMPTED, prompt)):
        made = (cloud.inpaint(shared, box, words, seed=SEED) if part == "middle" else
                cloud.outpaint(shared, right=photo.width - box[0], prompt=words, seed=SEED))
        yield Filled(method, made.image, made.grid.codes,
                     f"{made.stats.down.wire_bytes:,} bytes down")
    tokens = models.images.encode(photo)
    pixels, hidden = np.asarray(photo), _mask(photo, box)
    again = joined(np.asarray(models.images.decode(tokens)), pixels, hidden, hidden, tokens.pitch,
                   models.refiner)
    yield Filled(FLOOR, Image.fromarray(again), tokens.codes)


def _boxes(width: int, height: int) -> dict[str, Box]:
    return {"middle": (width * 2 // 7, height * 2 // 7, width * 5 // 7, height * 5 // 7),
            "right": (width * 5 // 7, 0, width, height)}


def mean_fill(photo: Image.Image, box: Box) -> Image.Image:
    """The box in the mean colour of what is around it."""
    pixels, hidden = np.array(photo), _mask(photo, box)
    pixels[hidden] = np.rint(pixels[~hidden].mean(0))
    return Image.fromarray(pixels)


def telea(photo: Image.Image, box: Box) -> Image.Image:
    """The box filled from its border."""
    import cv2

    filled = cv2.inpaint(np.array(photo), _mask(photo, box).astype(np.uint8), RADIUS,
                         cv2.INPAINT_TELEA)
    return Image.fromarray(filled)


def mirrored(photo: Image.Image, box: Box) -> Image.Image:
    """The box filled with mirror images; where it has none, with what `mean_fill` has."""
    pixels, hidden = np.array(mean_fill(photo, box)), _mask(photo, box)
    images = reflection(hidden)
    return Image.fromarray(pixels[images.rows, images.columns])


SIMPLE = {MEAN: mean_fill, TELEA: telea, MIRROR: mirrored}


def _mask(photo: Image.Image, box: Box) -> Mask:
    left, top, right, bottom = box
    mask = np.zeros((photo.height, photo.width), bool)
    mask[top:bottom, left:right] = True
    return mask


def _tokens(box: Box, models: Models) -> tuple[slice, slice]:
    left, top, right, bottom = (edge // models.coder.space.patch for edge in box)
    return slice(top, bottom), slice(left, right)


TITLE = "Inpainting and outpainting, Flickr8k test"
ABOUT = (
    "Hidden are the middle, 3/7 of each side, or the right 2/7, before the photo is shared: no "
    "token that is sent tells anything of them. LPIPS and DISTS of the hidden part cut out, "
    "against the original; how much lower it is than with the best of the three simple fills; "
    "tokens that equal the original's there. Re-encoded: the original's own tokens, decoded; "
    "nothing made of tokens can be expected to be nearer.")
LOSSES = (
    "† a training loss: LPIPS-AlexNet of the image tokenizer and, at first, of what the compact "
    "model puts there without a prompt; LPIPS-VGG of the latter since then, and of the network "
    "that refines new pixels. DISTS was none, but sees through the layers of VGG too.")
COLUMNS = (Column("method", "method"), Column("part", "part", left=True),
           Column("lpips-vgg", "LPIPS-VGG †", 4), Column("gain-lpips-vgg", "lower by, %", 1),
           Column("dists", "DISTS", 4), Column("gain-dists", "lower by, %", 1),
           Column("lpips-alex", "LPIPS-AlexNet †", 4), Column("gain-lpips-alex", "lower by, %", 1),
           Column("tokens", "tokens right, %", 1), Column("images", "pictures"))


def _rows(values: dict[tuple[str, str], list[Row]]) -> list[Row]:
    means = {key: {name: float(np.mean([value[name] for value in found])) for name in found[0]}
             for key, found in values.items()}
    return [{"method": method, "part": part, **mean, "images": len(values[part, method]),
             **{f"gain-{name}": 100 * (1 - mean[name] / min(
                 means[part, simple][name] for simple in SIMPLE)) for name in JUDGES}}
            for (part, method), mean in means.items()]
