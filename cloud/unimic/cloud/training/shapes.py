"""easy-VQA as training data: drawings of one coloured shape, questions about them, and answers.

The package ``easy-vqa`` (MIT) carries 4,000 training and 1,000 test drawings of 64×64 pixels with
48,248 questions in all. What a training drawing shows follows from its own questions for nine
drawings in ten; those can be asked every question of the training set, and described. Nothing here
looks at the test split; `test_questions` is for measuring.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import easy_vqa
import numpy as np
import torch
from PIL import Image

from unimic.cloud.models.image_tokenizer import ImageTokenizer
from unimic.cloud.training.loop import autocast

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
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
    pairs: dict[int, list[Pair]] = defaultdict(list)
    for question, answer, image in zip(*easy_vqa.get_train_questions(), strict=True):
        pairs[image].append((question, answer))
    every_question = sorted({q for asked in pairs.values() for q, _ in asked})
    drawings = []
    for image, asked in sorted(pairs.items()):
        colours, shapes = _shown(asked)
        if len(colours) == 1 and len(shapes) == 1:
            colour, shape = min(colours), min(shapes)
            known = ((q, reply(q, colour, shape)) for q in every_question)
            sure = tuple((q, a) for q, a in known if a is not None)
            drawings.append(Drawing(image, sure, colour, shape))
        else:
            drawings.append(Drawing(image, tuple(asked)))
    return drawings


def test_questions() -> list[tuple[int, str, str]]:
    """The test split as ``(image, question, answer)``."""
    questions, answers, images = easy_vqa.get_test_questions()
    return list(zip(images, questions, answers, strict=True))


def tokenize(tokenizer: ImageTokenizer, side: int, seed: int, batch: int = 32) -> np.ndarray:
    """Codes of all training drawings, enlarged to ``side`` pixels, half of them mirrored.

    Returns:
        uint16 ``(4000, side / 16, side / 16)``, by the number of the drawing.
    """
    paths = easy_vqa.get_train_image_paths()
    device = next(tokenizer.parameters()).device
    rng = np.random.default_rng(seed)
    out = []
    for start in range(0, len(paths), batch):
        pixels = []
        for number in range(start, min(start + batch, len(paths))):
            image = Image.open(paths[number]).convert("RGB")
            array = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
            pixels.append(array[:, ::-1] if rng.random() < 0.5 else array)
        x = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
        with autocast(device):  # near enough for training
            codes = tokenizer.encode(x)
        out.append(codes.cpu().numpy().astype(np.uint16))
    return np.concatenate(out)
