"""Train the compact multimodal model on tokens.

    python -m unimic.cloud.training.train_compact --data DATA --tokens TOKENS --shapes SHAPES.npz \\
        --tokenizer CHECKPOINT --text-tokenizer TOKENIZER.json --out OUT --minutes 60

``TOKENS`` is what ``unimic.cloud.training.tokenize_images`` made of the photos and, with
``--emoji``, of emoji. ``SHAPES.npz``
holds the tokens of drawings (see `unimic.cloud.training.shapes`) and is made with ``--tokenizer``
if it does not exist.

Every step adds the gradients of three batches: answers about drawings, answers about photos
(DAQUAR questions, Flickr8k captions), and images to be completed (renderings, photos and emoji,
from what is said about them, from their own rest, or both). All the texts about one image share
one pass over it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from tqdm import tqdm

from unimic.cloud.backends.compact import load_weights
from unimic.cloud.models.compact import (
    ANSWER,
    ASK,
    CAPTION,
    END,
    LOW,
    PROMPT,
    Batch,
    Compact,
    CompactConfig,
    Words,
    left_padded,
    packed_texts,
)
from unimic.cloud.training import shapes
from unimic.cloud.training.command import command, count, run_options
from unimic.cloud.training.data import read_captions, read_questions
from unimic.cloud.training.files import whole
from unimic.cloud.training.grids import check_tokenizer, load_grids, opened
from unimic.cloud.training.loop import (
    Average,
    Run,
    autocast,
    default_device,
    mark,
    optimizers,
    own_seed,
    prepared,
)
from unimic.cloud.training.shipped import load_image_tokenizer, made_by
from unimic.codec.errors import InvalidInput
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import Codes

X = TypeVar("X")
TEXT_LIMIT = 40
"""Tokens of a question, answer or prompt in training; longer ones are cut."""

ALBUMS = {"drawing": {64: 0.05, 128: 0.2, 224: 0.45, 256: 0.3},
          "rendering": {128: 0.05, 224: 0.4, 256: 0.45, 320: 0.1}}
"""Easy-VQA's drawings and our renderings: sides in pixels, shares of the batches."""

RENDERINGS = 2400
"""Of each side."""

SHARES = {"drawing": 0.15, "photo": 0.25, "picture": 0.6}
"""Of the tokens of a step that each of its batches has."""

PICTURE = 215
"""Tokens of a photo and what is said about it."""

PICTURES = {"rendering": 0.6, "photo": 0.25, "emoji": 0.08, "unlabelled": 0.07}
"""How often each kind of image is completed."""

UNPROMPTED = {"rendering": 0.0, "photo": 0.35, "emoji": 0.4, "unlabelled": 1.0}
"""How often each is completed without a prompt. Renderings never, and emoji on grounds of all
colours then: else a hole beside a single object is filled with white, whatever its ground."""

DRAWN = 0.7
"""Of the batches of answers about drawings: about easy-VQA's; the rest about renderings."""

WEIGHTS = {"drawing": 0.05, "photo": 0.05, "picture": 0.5}
"""Of the image loss of each batch, beside 1 for the text loss."""


class Texts:
    """What is said about an image, as the model reads it."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._known: dict[str, list[int]] = {}

    def words(self, text: str) -> list[int]:
        """Its first `TEXT_LIMIT` ids."""
        if text not in self._known:
            self._known[text] = self._words(text, TEXT_LIMIT)
        return self._known[text]

    def answered(self, question: str, answer: str) -> list[int]:
        """A question with its answer."""
        return [ASK, *self.words(question), ANSWER, *self.words(answer), END]

    def caption(self, caption: str) -> list[int]:
        """A caption."""
        return [CAPTION, *self.words(caption), END]

    def prompt(self, prompt: str) -> list[int]:
        """The prompt of an image; of no words if it is empty."""
        return [PROMPT, *self.words(prompt)]


@dataclass
class Photo:
    """An image's tokens, int32 ``(h, w)``, with what is said about it."""

    codes: Codes
    captions: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass
class Album:
    """Drawings of one kind with their codes, uint16 ``(n, side / 16, side / 16)``, by side."""

    drawings: list[shapes.Drawing]
    sides: dict[int, float]
    codes: dict[int, np.ndarray]

    def some(self, chance: random.Random) -> np.ndarray:
        """All of them at one side."""
        return self.codes[chance.choices(list(self.sides), list(self.sides.values()))[0]]


def random_mask(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """What is to be made anew, bool ``(rows, columns)``.

    Half of the time a share of scattered tokens (MaskGIT's cosine of a uniform number), as in the
    middle of sampling from nothing; else a rectangle, a strip at one or more borders, or the
    complement of either, of which again a scattered share may be known already.
    """
    scattered = rng.random((rows, columns)) < math.cos(rng.random() * math.pi / 2)
    if rng.random() < 0.5:
        mask = scattered
    else:
        height, width = rng.integers(2, rows + 1), rng.integers(2, columns + 1)
        top, left = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
        mask = np.zeros((rows, columns), bool)
        mask[top:top + height, left:left + width] = True
        if rng.random() < 0.4:
            mask = ~mask
        if rng.random() < 0.7:
            mask &= scattered
    if not mask.any():
        mask[rng.integers(rows), rng.integers(columns)] = True
    return mask


def crop(codes: np.ndarray, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """A window of ``codes`` at a random place."""
    top = rng.integers(0, codes.shape[0] - rows + 1)
    left = rng.integers(0, codes.shape[1] - columns + 1)
    return codes[top:top + rows, left:left + columns]


def some(chance: random.Random, all_: Sequence[X], count: int) -> list[X]:
    """At least one of them, and at most all."""
    return chance.sample(all_, min(max(1, count), len(all_)))


class Mixture(IterableDataset[dict[str, Batch]]):
    """Endless steps of about ``tokens`` tokens, each of three batches."""

    rng: np.random.Generator  # chance of the process that draws
    random: random.Random

    def __init__(self, photos: list[Photo], emoji: list[Photo], coloured: list[Photo],
                 albums: dict[str, Album], texts: Texts, tokens: int, seed: int) -> None:
        self.seed, self.texts = seed, texts
        self.tokens = {name: int(share * tokens) for name, share in SHARES.items()}
        if self.tokens["picture"] < PICTURE:
            raise InvalidInput("--batch", f"{tokens} tokens are too few for a picture a step",
                               f"use {math.ceil(PICTURE / SHARES['picture'])} or more")
        self.photos, self.emoji, self.coloured = photos, emoji, coloured
        self.captioned = [p for p in photos if p.captions]
        self.questioned = [p for p in photos if p.pairs]
        self.albums = albums
        for name, found in (("emoji", emoji and coloured), ("photo with captions", self.captioned),
                            ("photo with questions", self.questioned)):
            if not found:
                raise InvalidInput("--tokens", f"there is no {name}", "make the grids of all data")

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        seed = own_seed(self.seed)
        self.rng, self.random = np.random.default_rng(seed), random.Random(repr(seed))
        while True:
            yield {"drawing": self.drawing_answers(), "photo": self.photo_answers(),
                   "picture": self.pictures()}

    def drawing_answers(self) -> Batch:
        """Nine questions and a description for each of some drawings."""
        album = self.albums["drawing" if self.random.random() < DRAWN else "rendering"]
        codes = album.some(self.random)
        chosen = some(self.random, album.drawings,
                      self.tokens["drawing"] // (codes[0].size + 110))
        texts = []
        for drawing in chosen:
            kinds: dict[tuple[str, str], list[shapes.Pair]] = {}
            for pair in drawing.pairs:
                kinds.setdefault(shapes.kind(pair), []).append(pair)
            said = []
            for (about, _), pairs in kinds.items():
                count = 2 if about == "shape" else 1  # shapes are the harder ones to see
                asked = some(self.random, pairs, count)
                said += [self.texts.answered(*pair) for pair in asked]
            if drawing.colour and drawing.shape:
                said.append(self.texts.caption(f"a {drawing.colour} {drawing.shape}"))
            texts.append(said)
        return self._answers(np.stack([codes[d.image] for d in chosen]), texts)

    def photo_answers(self) -> Batch:
        """All questions about some indoor photos, or all captions of some others."""
        if self.rng.random() < 0.4:
            chosen = some(self.random, self.questioned, self.tokens["photo"] // 450)
            texts = [[self.texts.answered(*p) for p in some(self.random, photo.pairs, 10)]
                     for photo in chosen]
        else:
            chosen = some(self.random, self.captioned, self.tokens["photo"] // 280)
            texts = [[self.texts.caption(c) for c in photo.captions] for photo in chosen]
        rows = min(p.codes.shape[0] for p in chosen)
        columns = min(p.codes.shape[1] for p in chosen)
        grids = [crop(p.codes, rows, columns, self.rng) for p in chosen]
        return self._answers(np.stack(grids), texts)

    def _answers(self, codes: np.ndarray, texts: list[list[list[int]]]) -> Batch:
        """Half of the images lose some tokens: predicting those teaches the model to see."""
        ratio = self.rng.random((len(codes), 1, 1)) * 0.6 - 0.3
        masked = self.rng.random(codes.shape) < ratio
        masked[0, 0, 0] = True
        text, segment, place = packed_texts(texts)
        prompt = torch.empty(len(codes), 0, dtype=torch.long)
        return Batch(torch.from_numpy(codes.astype(np.int64)), torch.from_numpy(masked), prompt,
                     text, segment, place)

    def pictures(self) -> Batch:
        """Images to be completed, most of them with a prompt."""
        tokens = self.tokens["picture"]
        kind = self.random.choices(list(PICTURES), list(PICTURES.values()))[0]
        told = self.rng.random(tokens) >= UNPROMPTED[kind]  # of each image, and more
        if kind == "rendering":
            codes = self.albums[kind].some(self.random)
            drawings = some(self.random, self.albums[kind].drawings,
                            tokens // (codes[0].size + 12))
            grids = [codes[d.image] for d in drawings]
            prompts = [self.random.choice(shapes.DESCRIPTIONS).format(
                colour=d.colour, shape=d.shape) for d in drawings]
        elif kind == "unlabelled":
            side = self.random.choice((14, 16, 20))
            large = [p for p in self.photos if min(p.codes.shape) >= side]
            chosen = some(self.random, large, tokens // (side * side))
            grids = [crop(p.codes, side, side, self.rng) for p in chosen]
            prompts = [""] * len(chosen)
        else:
            named, unnamed = ((self.captioned, self.captioned) if kind == "photo" else
                              (self.emoji, self.coloured))
            chosen = [self.random.choice(named if said else unnamed)
                      for said in told[:tokens // PICTURE]]
            grids = [p.codes for p in chosen]
            prompts = [self.random.choice(p.captions) for p in chosen]
        codes = np.stack(grids).astype(np.int64)
        masked = np.stack([random_mask(grid.shape[0], grid.shape[1], self.rng) for grid in grids])
        kept = [p if said else "" for p, said in zip(prompts, told, strict=False)]
        nothing = torch.empty(len(codes), 0, dtype=torch.long)
        return Batch(torch.from_numpy(codes), torch.from_numpy(masked),
                     left_padded([self.texts.prompt(p) for p in kept]), nothing, nothing, nothing)


def image_loss(model: Compact, features: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of the hidden image tokens, nats."""
    hidden = batch.masked.flatten()
    features = features.flatten(0, 1)[hidden]
    codes = batch.codes.flatten()[hidden]
    high = F.cross_entropy(model.high_logits(features).float(), codes // LOW)
    low = F.cross_entropy(model.low_logits(features, codes // LOW).float(), codes % LOW)
    return high + low


def text_loss(model: Compact, features: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of captions and answers, nats a token; questions are not predicted."""
    text, segment = batch.text, batch.segment
    starts = (text == ANSWER) | (text == CAPTION)
    number = torch.cummax(torch.where(starts, segment, -1), 1).values
    told = ((number == segment) & (segment >= 0))[:, :-1] & (segment[:, 1:] == segment[:, :-1])
    logits = model.word_logits(features[:, :-1][told]).float()
    return F.cross_entropy(logits, text[:, 1:][told])


def load_part(tokens: Path, part: str) -> list[tuple[str, Codes]]:
    """The grids of one of the files that ``tokenize_images`` makes.

    Raises:
        InvalidInput: there is none.
    """
    path = tokens / f"{part}.npz"
    if not path.exists():
        raise InvalidInput("--tokens", f"{tokens} has no {path.name}",
                           "make it with tokenize_images, whose --emoji makes those of emoji")
    return load_grids(path)


def load_photos(data: Path, tokens: Path) -> list[Photo]:
    """Every photo that may be trained on, with its captions and questions."""
    captions = read_captions(data)
    pairs: dict[str, list[tuple[str, str]]] = {}
    for q in read_questions(data, "train"):
        pairs.setdefault(q.image, []).append((q.question, q.answer))
    photos = [Photo(codes, captions[name].captions)
              for part in ("flickr-train", "flickr-train-flipped")
              for name, codes in load_part(tokens, part)]
    photos += [Photo(codes, pairs=tuple(pairs.get(name, ())))
               for part in ("daquar-train", "unlabelled", "flickr-train-320")
               for name, codes in load_part(tokens, part)]
    return photos


def load_albums(path: Path, tokenizer: Path | None) -> dict[str, Album]:
    """The drawings of `ALBUMS` with their codes, which are made if there is no ``path``.

    Raises:
        InvalidInput: there is none, and no ``tokenizer``; or another one made it.
    """
    drawings = {"drawing": shapes.training_drawings(),
                "rendering": shapes.rendered_drawings(RENDERINGS)}
    model = load_image_tokenizer(tokenizer) if tokenizer else None
    if not path.exists():
        if model is None:
            raise InvalidInput("--shapes", f"there is no {path}", "name a --tokenizer to make it")
        made = {"tokenizer": np.array(made_by(model))}
        for name, draw in (("drawing", shapes.original), ("rendering", shapes.rendering)):
            for side in ALBUMS[name]:
                rng = np.random.default_rng(side)
                print(f"tokens of {name}s of {side} pixels", flush=True)
                shown = tqdm(drawings[name], disable=None)
                made[f"{name}-{side}"] = shapes.tokenize(
                    model, (draw(drawing, side, rng) for drawing in shown))
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            np.savez(file, **made)  # type: ignore[arg-type]
    elif model and check_tokenizer([path]) not in ("", made_by(model)):
        raise InvalidInput("--tokenizer", f"{path} was made by another", "name another --shapes")
    with opened(path) as file:
        return {name: Album(drawings[name], sides, {s: file[f"{name}-{s}"] for s in sides})
                for name, sides in ALBUMS.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of captions, questions")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the photos' tokens")
    parser.add_argument("--shapes", type=Path, required=True, help="tokens of the drawings, .npz")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer to make --shapes with")
    parser.add_argument("--text-tokenizer", type=Path, required=True, help="tokenizer.json")
    run_options(parser, minutes=60, rate=2.5e-3)
    parser.add_argument("--start", type=Path, help="weights.safetensors to go on from")
    parser.add_argument("--batch", type=count, default=3200, help="tokens of a step")
    parser.add_argument("--width", type=int, default=CompactConfig.width, help="without --start")
    parser.add_argument("--depth", type=int, default=CompactConfig.depth, help="without --start")
    args = parser.parse_args(argv)
    if args.width < 1 or args.width % CompactConfig.head:
        parser.error(f"--width: use a multiple of {CompactConfig.head}")

    torch.manual_seed(args.seed)
    device = default_device()
    model = (load_weights(args.start).train().requires_grad_(True) if args.start else
             Compact(CompactConfig(width=args.width, depth=args.depth))).to(device)
    average = Average(model, 0.99)
    optimizer = optimizers(model, model.blocks, args.rate)
    texts = Texts(Words(TextTokenizer(args.text_tokenizer)))
    photos = load_photos(args.data, args.tokens)
    emoji, coloured = ([Photo(codes, captions=(name,))
                        for name, codes in load_part(args.tokens, f"emoji-{part}")]
                       for part in ("train", "coloured"))
    albums = load_albums(args.shapes, args.tokenizer)  # last: to make them takes a while
    tokens = check_tokenizer([args.shapes, *sorted(args.tokens.glob("*.npz"))])
    run = Run(args.out, args.minutes, args.rate, warmup=100, made_for={
        "--tokens": tokens, "--text-tokenizer": mark(args.text_tokenizer)})
    state: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": model, "average": average.module, **optimizer}
    run.restore(state)
    steps = prepared(Mixture(photos, emoji, coloured, albums, texts, args.batch,
                             args.seed + run.step))

    for fraction in run:
        losses = {}
        model.zero_grad()
        for name, batch in next(steps).items():
            batch = batch.to(device)
            with autocast(device):
                image, text = model(batch)
                losses[name + "_image"] = image_loss(model, image, batch)
                loss = WEIGHTS[name] * losses[name + "_image"]
                if batch.text.numel():
                    losses[name] = text_loss(model, text, batch)
                    loss = loss + losses[name]
            torch.autograd.backward(loss)
        run.follow(fraction, model, optimizer)
        average.update(model, run.step)
        run.log(**losses)
        run.keep(state)
    run.save(state)


if __name__ == "__main__":
    command(main)
