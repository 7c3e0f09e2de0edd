"""Reading the training data: tar shards of images, caption and question files.

The layout is that of ``data/README.md`` beside the shards: ``NAME-00.tar`` …, the captions as
JSON lines, question–answer pairs as CSV, text as gzip. Splits are kept here, in one place: nothing
that trains can reach a test image by accident.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

UNLABELLED = ("imagenette", "photos", "imagenet-sample", "bsds500")


@dataclass(frozen=True)
class Caption:
    """One Flickr8k image with its split and its five captions."""

    image: str
    split: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """One DAQUAR question; several answers are separated by commas."""

    image: str
    question: str
    answer: str


def read_shards(root: Path, name: str) -> Iterator[tuple[str, Image.Image]]:
    """Yield ``(stem, RGB image)`` of every shard ``name-NN.tar`` (or ``name.tar``)."""
    paths = sorted(root.glob(f"{name}-[0-9][0-9].tar")) or sorted(root.glob(f"{name}.tar"))
    if not paths:
        raise FileNotFoundError(f"no shard {name}-NN.tar or {name}.tar in {root}")
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    image = Image.open(io.BytesIO(file.read())).convert("RGB")
                    yield Path(member.name).stem, image


def read_captions(root: Path) -> dict[str, Caption]:
    """Flickr8k captions by image stem."""
    with (root / "flickr8k-captions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {r["image"]: Caption(r["image"], r["split"], tuple(r["captions"])) for r in rows}


def read_questions(root: Path, split: str) -> list[Question]:
    """DAQUAR pairs of ``split`` (``train`` or ``eval``)."""
    with (root / f"daquar-{split}.csv").open(encoding="utf-8", newline="") as file:
        return [
            Question(r["image_id"], r["question"].strip(), r["answer"].strip())
            for r in csv.DictReader(file)
        ]


def read_text(root: Path, stem: str) -> list[str]:
    """Lines of ``text/stem.txt.gz``."""
    with gzip.open(root / "text" / f"{stem}.txt.gz", "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def training_images(root: Path) -> list[np.ndarray]:
    """Every image that may be trained on, as uint8 ``(H, W, 3)`` arrays.

    Flickr8k ``train`` and ``rest``, DAQUAR images without an evaluation question, and the
    unlabelled sets. Kodak and every dev, test and evaluation image are left out.
    """
    captions = read_captions(root)
    held_out = {name for name, c in captions.items() if c.split in ("dev", "test")}
    held_out |= {q.image for q in read_questions(root, "eval")}
    images = []
    for shard in ("flickr8k", "daquar", *UNLABELLED):
        for stem, image in read_shards(root, shard):
            if stem not in held_out:
                images.append(np.asarray(image))
    return images


def flickr_images(root: Path, split: str) -> dict[str, np.ndarray]:
    """Flickr8k images of one split by stem, uint8 ``(224, 224, 3)``; one has no captions."""
    captions = read_captions(root)
    return {
        stem: np.asarray(image)
        for stem, image in read_shards(root, "flickr8k")
        if stem in captions and captions[stem].split == split
    }
