"""Reading the training data: tar shards of images, caption and question files.

A folder has images in shards ``NAME-00.tar`` …, the captions as JSON lines, question–answer pairs
as CSV, text as gzip. Splits are kept here, in one place: nothing
that trains can reach a test image by accident.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import tarfile
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unimic.cloud.training.files import understood
from unimic.codec.errors import CorruptData, InvalidInput
from unimic.codec.tokens import PITCH

LABELLED = ("flickr8k", "daquar")
UNLABELLED = ("imagenette", "photos", "imagenet-sample", "bsds500")
COPY = 0.98
"""How much alike thumbnails of two pictures are, at least, if one is a copy of the other."""


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
    """Yield ``(stem, RGB image)`` of every shard ``name-NN.tar`` (or ``name.tar``).

    Images that are less than a token high or wide are passed over.

    Raises:
        FileNotFoundError: there is no shard.
        CorruptData: one of them, or an image in it, is broken.
    """
    paths = sorted(root.glob(f"{name}-[0-9][0-9].tar")) or sorted(root.glob(f"{name}.tar"))
    if not paths:
        raise FileNotFoundError(f"no shard {name}-NN.tar or {name}.tar in {root}")
    for path in paths:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if (file := tar.extractfile(member)) is None:
                        continue
                    image = _decoded(file.read(), f"{path}: {member.name}")
                    if min(image.size) >= PITCH:
                        yield Path(member.name).stem, image
                left = path.stat().st_size - tar.offset  # some end without their block of zeros
                if left and left < tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("unexpected end")
        except tarfile.ReadError as error:
            raise CorruptData(str(path), f"is no whole tar ({error})", "fetch it again") from error


def _decoded(data: bytes, name: str, mode: str = "RGB") -> Image.Image:
    try:
        return Image.open(io.BytesIO(data)).convert(mode)
    except (OSError, ValueError) as error:
        raise CorruptData(name, f"is no whole picture ({error})",
                          "fetch it again, or leave it out") from error


def _text(path: Path) -> AbstractContextManager[None]:
    return understood(path, "cannot be understood", "fetch it again")


def read_captions(root: Path) -> dict[str, Caption]:
    """Flickr8k captions by image stem."""
    path = root / "flickr8k-captions.jsonl"
    with _text(path), path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
        return {r["image"]: Caption(r["image"], r["split"], tuple(r["captions"])) for r in rows}


def read_questions(root: Path, split: str) -> list[Question]:
    """DAQUAR pairs of ``split`` (``train`` or ``eval``)."""
    path = root / f"daquar-{split}.csv"
    with _text(path), path.open(encoding="utf-8", newline="") as file:
        return [
            Question(r["image_id"], r["question"].strip(), r["answer"].strip())
            for r in csv.DictReader(file)
        ]


SKIN_TONES = {0x1F3FB: "light skin", 0x1F3FC: "medium-light skin", 0x1F3FD: "medium skin",
              0x1F3FE: "medium-dark skin", 0x1F3FF: "dark skin"}
JOINERS = {0x200D, 0x20E3, 0xFE0F}
EMOJI_HELD_OUT = 10  # one in so many of those that combine several code points


def emoji_name(stem: str) -> str:
    """Name of an emoji from its code points: "waving hand sign, medium skin" of ``1f44b-1f3fd``.

    Empty for flags, which are spelled in letters, for code points without a name, and for names of
    files that are none.
    """
    try:
        points = [point for point in (int(part, 16) for part in re.split("[-_]", stem))
                  if point not in JOINERS]
    except ValueError:  # another picture
        return ""
    parts = [SKIN_TONES.get(point) or unicodedata.name(chr(point), "").lower() for point in points]
    return ", ".join(parts) if all(parts) and "regional" not in parts[0] else ""


def read_emoji(folder: Path, grounds: random.Random | None = None
               ) -> tuple[dict[str, Image.Image], dict[str, Image.Image]]:
    """Emoji by name, for training and held out, on white or each on a random colour.

    ``folder`` is ``assets`` of the npm package ``@lobehub/fluent-emoji-3d``: WebP files of
    256×256 pixels named by code points. Held out are combinations of parts (a hand in a skin tone)
    of which training sees every part in other combinations.

    Raises:
        FileNotFoundError: there are none.
        CorruptData: one is broken.
    """
    train: dict[str, Image.Image] = {}
    held_out: dict[str, Image.Image] = {}
    combined = 0
    for path in sorted(folder.glob("*.webp")):
        name = emoji_name(path.stem)
        if not name:
            continue
        image = _decoded(path.read_bytes(), str(path), "RGBA")
        combined += "," in name
        part = held_out if "," in name and combined % EMOJI_HELD_OUT == 0 else train
        colour = "white" if grounds is None else tuple(grounds.randbytes(3))
        ground = Image.new("RGBA", image.size, colour)
        part[name] = Image.alpha_composite(ground, image).convert("RGB").resize((256, 256))
    if not train:
        raise FileNotFoundError(f"no emoji *.webp in {folder}")
    return train, held_out


def read_text(root: Path, stem: str) -> list[str]:
    """Lines of ``text/stem.txt.gz``."""
    return read_lines(root / "text" / f"{stem}.txt.gz")


def read_lines(path: Path) -> list[str]:
    """Lines of a compressed text."""
    with _text(path), gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    if not lines:
        raise CorruptData(str(path), "is empty", "fetch it again")
    return lines


def training_images(root: Path) -> list[tuple[str, np.ndarray]]:
    """Every image that may be trained on, by stem, as uint8 ``(H, W, 3)`` arrays.

    Flickr8k ``train`` and ``rest``, DAQUAR images without an evaluation question, and the
    unlabelled sets. Kodak and every dev, test and evaluation image are left out.

    Raises:
        InvalidInput: there is none.
    """
    images, known = [], []
    for stem, image, held_out in _labelled(root):
        if held_out:
            known.append(_thumbnail(image))
        else:
            images.append((stem, np.asarray(image)))
    images += _without_copies(root, known)
    if not images:
        raise InvalidInput("--data", f"{root} has no picture of {PITCH}×{PITCH} or more to learn "
                           "from", "add some")
    return images


def unlabelled_images(root: Path) -> list[tuple[str, np.ndarray]]:
    """Images of which nothing is said, by stem, as uint8 ``(H, W, 3)`` arrays.

    Their sets were collected from everywhere: what is a copy of a dev, test or evaluation image, of
    any size, is left out.
    """
    return _without_copies(root, [_thumbnail(image) for _, image, held_out in _labelled(root)
                                  if held_out])


def _labelled(root: Path) -> Iterator[tuple[str, Image.Image, bool]]:
    """Yield ``(stem, RGB image, whether nothing may learn from it)``."""
    held_out = {name for name, c in read_captions(root).items() if c.split in ("dev", "test")}
    held_out |= {q.image for q in read_questions(root, "eval")}
    for shard in LABELLED:
        for stem, image in read_shards(root, shard):
            yield stem, image, stem in held_out


def _without_copies(root: Path, known: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """The unlabelled images but those that are like one of the ``known`` thumbnails."""
    thumbnails = np.reshape(known, (-1, 256))
    return [(stem, np.asarray(image)) for shard in UNLABELLED
            for stem, image in read_shards(root, shard)
            if (thumbnails @ _thumbnail(image)).max(initial=0) < COPY]


def _thumbnail(image: Image.Image) -> np.ndarray:
    """16×16 grey levels, their mean 0 and their norm 1, so that a product is a correlation."""
    grey = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float32).ravel()
    grey = grey - grey.mean()
    thumbnail: np.ndarray = grey / max(float(np.linalg.norm(grey)), 1e-6)
    return thumbnail


def flickr_images(root: Path, split: str) -> dict[str, np.ndarray]:
    """Flickr8k images of one split by stem, uint8 ``(224, 224, 3)``; one has no captions."""
    captions = read_captions(root)
    return {
        stem: np.asarray(image)
        for stem, image in read_shards(root, "flickr8k")
        if stem in captions and captions[stem].split == split
    }
