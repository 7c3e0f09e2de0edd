"""Drawings of one coloured shape as training data, with questions about them, and answers.

The package ``easy-vqa`` (MIT) carries 4,000 training and 1,000 test drawings of 64×64 pixels with
48,248 questions in all. What a training drawing shows follows from its own questions for nine
drawings in ten; those can be asked every question of the training set, and described. Nothing here
looks at the test split; `test_questions` is for measuring.

To draw is learned from renderings of our own in the same style, which `rendering` makes: easy-VQA's
shapes lie anywhere, in any size, in drawings of 4 × 4 tokens; here they are large, about in the
middle, and their places and sizes are whole tokens, so that a small model has few choices to make
and can make them right.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

import easy_vqa
import numpy as np
import torch
from PIL import Image, ImageDraw

from unimic.cloud.models.image_tokenizer import PATCH, ImageTokenizer
from unimic.cloud.training.tokenize_images import encoded
from unimic.codec.tokens import Codes

SHAPES = ("circle", "rectangle", "triangle")
RGB = {"black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128),
       "green": (90, 240, 60), "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0)}
"""Of renderings: easy-VQA's, but for pure green, of which the tokenizer makes a bluish one."""
COLOURS = tuple(RGB)
GROUNDS = ((248, 248, 248), (249, 236, 232), (232, 244, 238), (240, 235, 248))
SMOOTH = 4  # times larger than they are to be are shapes drawn, for smooth borders
Pair = tuple[str, str]

DESCRIPTIONS = (
    "a {colour} {shape}",
    "{colour} {shape}",
    "a {shape} that is {colour}",
    "there is a {colour} {shape}",
    "a picture of a {colour} {shape}",
    "the {shape} is {colour}",
)


@dataclass(frozen=True)
class Drawing:
    """One drawing: what is asked about it, and what it shows where that is certain."""

    image: int
    pairs: tuple[Pair, ...]
    colour: str | None = None
    shape: str | None = None


def _words(question: str) -> set[str]:
    return set(re.findall("[a-z]+", question))


def reply(question: str, colour: str, shape: str) -> str | None:
    """The true answer about a ``colour`` ``shape``; None if the question presumes another one."""
    words = _words(question)
    named = words & {*COLOURS, *SHAPES}
    present = named <= {colour, shape}
    if "what" not in words:
        return "yes" if present != bool(words & {"no", "not"}) else "no"
    if not present:
        return None
    return colour if "color" in words else shape


def kind(pair: Pair) -> tuple[str, str]:
    """What a question is about (``colour``, ``shape``) and what it takes to answer it.

    That is to name it (``what``), to see that it is there (``there``) or that it is not
    (``missing``). A model that always says it is missing is right about seven colours in eight, so
    training must draw the kinds evenly.
    """
    question, answer = pair
    words = _words(question)
    if answer not in ("yes", "no"):
        return ("colour" if answer in COLOURS else "shape"), "what"
    present = (answer == "yes") != bool(words & {"no", "not"})
    return ("colour" if words & {*COLOURS} else "shape"), ("there" if present else "missing")


def _shown(pairs: Iterable[Pair]) -> tuple[set[str], set[str]]:
    """Colours and shapes that the answers leave possible."""
    left = (set(COLOURS), set(SHAPES))
    for question, answer in pairs:
        named = _words(question)
        for options in left:
            if answer in options:
                options &= {answer}
            mentioned = named & options
            if answer not in ("yes", "no"):
                options &= mentioned or options
            elif mentioned:
                present = (answer == "yes") != bool(named & {"no", "not"})
                options -= options - mentioned if present else mentioned
    return left


def training_drawings() -> list[Drawing]:
    """All training drawings, in the order of their numbers."""
    drawings = []
    for image, asked in sorted(_asked().items()):
        colours, shapes = _shown(asked)
        if len(colours) == 1 and len(shapes) == 1:
            drawings.append(_certain(image, min(colours), min(shapes)))
        else:
            drawings.append(Drawing(image, tuple(asked)))
    return drawings


def rendered_drawings(count: int) -> list[Drawing]:
    """What the first ``count`` renderings show: every colour with every shape, in turns."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return [_certain(number, *kinds[number % len(kinds)]) for number in range(count)]


@cache
def _asked() -> dict[int, list[Pair]]:
    """Questions and answers of the training split, by drawing."""
    pairs: dict[int, list[Pair]] = defaultdict(list)
    for question, answer, image in zip(*easy_vqa.get_train_questions(), strict=True):
        pairs[image].append((question, answer))
    return pairs


@cache
def _every_answer(colour: str, shape: str) -> tuple[Pair, ...]:
    """Every question of the training split about a ``colour`` ``shape``."""
    questions = sorted({question for asked in _asked().values() for question, _ in asked})
    known = ((question, reply(question, colour, shape)) for question in questions)
    return tuple((question, answer) for question, answer in known if answer is not None)


def _certain(number: int, colour: str, shape: str) -> Drawing:
    return Drawing(number, _every_answer(colour, shape), colour, shape)


def test_questions() -> list[tuple[int, str, str]]:
    """The test split as ``(image, question, answer)``."""
    questions, answers, images = easy_vqa.get_test_questions()
    return list(zip(images, questions, answers, strict=True))


def original(shown: Drawing, side: int, rng: np.random.Generator) -> Image.Image:
    """A training drawing of easy-VQA, enlarged to ``side`` pixels, mirrored or not."""
    image = Image.open(easy_vqa.get_train_image_paths()[shown.image]).convert("RGB")
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def rendering(shown: Drawing, side: int, rng: np.random.Generator) -> Image.Image:
    """What ``shown`` names, a third to three quarters of ``side`` pixels wide, near the middle."""
    assert shown.colour, "what it shows is known"
    tokens = side // PATCH
    size = int(rng.integers(round(0.45 * tokens), round(0.7 * tokens) + 1))
    width, height = size, size
    if shown.shape == "rectangle":
        other = round(size * 0.65)
        width, height = (size, other) if rng.random() < 0.5 else (other, size)
    left, top = ((tokens - extent) // 2 + int(rng.integers(-1, 2)) for extent in (width, height))
    scale = PATCH * SMOOTH
    box = (left * scale, top * scale, (left + width) * scale - 1, (top + height) * scale - 1)
    image = Image.new("RGB", (side * SMOOTH, side * SMOOTH), GROUNDS[rng.integers(len(GROUNDS))])
    pen, colour = ImageDraw.Draw(image), RGB[shown.colour]
    if shown.shape == "circle":
        pen.ellipse(box, colour)
    elif shown.shape == "rectangle":
        pen.rectangle(box, colour)
    else:
        pen.polygon([((box[0] + box[2]) / 2, box[1]), (box[2], box[3]), (box[0], box[3])], colour)
    return image.resize((side, side), Image.Resampling.BOX)


def tokenize(tokenizer: ImageTokenizer, images: Iterator[Image.Image], batch: int = 32
             ) -> np.ndarray:
    """Codes of square images of one size, uint16 ``(n, side / 16, side / 16)``."""
    grids: list[Codes] = []
    while some := list(islice(images, batch)):
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in some]))
        grids += encoded(tokenizer, pixels, fast=True)
    return np.stack(grids).astype(np.uint16)
