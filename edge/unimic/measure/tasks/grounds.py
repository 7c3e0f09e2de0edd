"""The test sets: easy-VQA from its package, DAQUAR and Flickr8k from folders of the user."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from PIL import Image

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.progress import Progress
from unimic.edge.console import picture_format
from unimic.edge.images import load_image
from unimic.measure.tasks.findings import Row

SIDE = 224  # pixels to which easy-VQA's 64×64 drawings are enlarged
COLOURS = {"black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42),
           "gray": (128, 128, 128), "green": (0, 255, 0), "red": (255, 0, 0),
           "teal": (0, 128, 128), "yellow": (255, 255, 0)}
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True)
class Subject:
    """A picture and what people said about it.

    Attributes:
        name: of the picture, for error reports.
        load: gives it, RGB.
        questions: with their right answers.
        captions: of people.
    """

    name: str
    load: Callable[[], Image.Image]
    questions: tuple[tuple[str, str], ...] = ()
    captions: tuple[str, ...] = ()


S = TypeVar("S", bound=Subject)


def pictures(subjects: Sequence[S], failed: list[Row], progress: Progress
             ) -> Iterator[tuple[S, Image.Image]]:
    """Each subject with its picture; those that cannot be read are left out.

    Args:
        subjects: in this order.
        failed: gets a row with ``picture`` and ``error`` for each that is left out.
        progress: called as ``progress(done, all)``.
    """
    for done, subject in enumerate(subjects):
        progress(done, len(subjects))
        try:
            image = subject.load()
        except UnimicError as error:
            failed.append({"picture": subject.name, "error": str(error)})
            continue
        yield subject, image
    progress(len(subjects), len(subjects))


# ── easy-VQA ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Drawing(Subject):
    """A drawing of one shape.

    Attributes:
        colour: where its questions say it.
        shape: likewise.
    """

    colour: str | None = None
    shape: str | None = None


def easy_vqa(count: int) -> list[Drawing]:
    """The first ``count`` drawings of the easy-VQA test split, enlarged to `SIDE`.

    Raises:
        InvalidInput: the package ``easy-vqa`` is not installed.
    """
    try:
        import easy_vqa as package
    except ImportError as error:
        raise InvalidInput("easy-vqa", "is not installed", "pip install easy-vqa") from error
    asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, number in zip(*package.get_test_questions(), strict=True):
        asked[number].append((question, answer))
    paths = package.get_test_image_paths()

    def load(path: str) -> Image.Image:
        return load_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC)

    return [Drawing(Path(paths[number]).name, partial(load, paths[number]), tuple(pairs),
                    colour=_known(pairs, COLOURS), shape=_known(pairs, SHAPES))
            for number, pairs in sorted(asked.items())[:count]]


def _known(pairs: Sequence[tuple[str, str]], names: Collection[str]) -> str | None:
    """Which of ``names`` the picture shows, by what is asked and answered; None if unknown."""
    shown = set()
    for question, answer in pairs:
        words = set(re.findall("[a-z]+", question))
        if answer not in ("yes", "no"):  # "what is the color of the triangle?" presumes one
            shown |= words | {answer}
        elif (answer == "yes") != bool(words & {"no", "not"}):
            shown |= words
    found = shown & {*names}
    return found.pop() if len(found) == 1 else None


# ── DAQUAR ────────────────────────────────────────────────────────────────────────────────────


def daquar(folder: Path, count: int) -> list[Subject]:
    """The first ``count`` pictures of DAQUAR's evaluation split.

    Args:
        folder: ``daquar-eval.csv`` with the columns image_id, question, answer; and the pictures
            beside it, any format, named by their image_id.
        count: of pictures.

    Raises:
        InvalidInput: the folder lacks them.
    """
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, question, answer in _rows(folder / "daquar-eval.csv"):
        asked[name].append((question, answer))
    files = _files(folder)
    known = [name for name in asked if name in files][:count]
    if not known:
        raise InvalidInput(str(folder), "has no picture that daquar-eval.csv names",
                           "unpack the pictures beside it")
    return [Subject(name, partial(load_image, files[name]), tuple(asked[name]))
            for name in known]


def usual_answers(folder: Path) -> Callable[[str], str]:
    """Answers without a look: the most frequent one to questions that begin alike.

    Of the questions of ``daquar-train.csv`` those count that share the most words with the
    question, from its first one on.

    Raises:
        InvalidInput: the file cannot be read.
    """
    answers: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for _, question, answer in _rows(folder / "daquar-train.csv"):
        for beginning in _beginnings(question):
            answers[beginning][answer] += 1

    def usual(question: str) -> str:
        known = next(b for b in _beginnings(question) if b in answers)
        return answers[known].most_common(1)[0][0]

    return usual


def _beginnings(question: str) -> Iterator[tuple[str, ...]]:
    """All words of a question, then fewer and fewer, to none."""
    words = question.lower().split()
    return (tuple(words[:count]) for count in range(len(words), -1, -1))


def _rows(path: Path) -> list[tuple[str, str, str]]:
    """Image, question and answer of a file of DAQUAR's."""
    found = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            for row in rows:
                cells = row["image_id"], row["question"], row["answer"]
                if None in cells:
                    raise InvalidInput(str(path), f"line {rows.line_num} is too short",
                                       "write image_id, question and answer")
                found.append((cells[0], cells[1].strip(), cells[2].strip()))
        return found
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), f"cannot be read ({error!r})",
                           "name the folder of DAQUAR") from error


# ── Flickr8k ──────────────────────────────────────────────────────────────────────────────────


def flickr8k(folder: Path, split: str) -> list[Subject]:
    """The captioned photos of a split.

    Args:
        folder: ``flickr8k-captions.jsonl``, lines ``{"image": name without extension,
            "split": "train" or "test", "captions": [text, …]}``; and the photos beside it.
        split: of the dataset.

    Raises:
        InvalidInput: the folder lacks them.
    """
    path, files = folder / "flickr8k-captions.jsonl", _files(folder)
    found = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if not row["captions"]:
                    raise InvalidInput(str(path), f"line {number} has no captions",
                                       "add them, or take the line out")
                if row["split"] == split and row["image"] in files:
                    found.append(Subject(row["image"], partial(load_image, files[row["image"]]),
                                         captions=tuple(row["captions"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(str(path), f"cannot be read ({error!r})",
                           "name the folder of Flickr8k") from error
    if not found:
        raise InvalidInput(str(folder), f"has no {split} photo that {path.name} names",
                           "unpack the photos beside it")
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Pictures by their names without extensions."""
    return {path.stem: path for path in sorted(folder.rglob("*")) if picture_format(str(path))}
