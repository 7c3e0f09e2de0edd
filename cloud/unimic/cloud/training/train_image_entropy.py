"""Train the entropy model of image tokens for its four scenarios at once.

Every batch draws images, each in a view it was never seen in before (a random part, size and
mirroring) and tokenizes them: with the same grids in every epoch, 13,000 photos are soon known by
heart. Their windows are as the coder would plan them: alone or with context from neighbouring
windows, all tokens coded or only those under a random mask (the others known or held by nobody),
with or without the caption as prompt. The last part of the budget is quantisation-aware.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from unimic.cloud.backends.show_o.magvit import Magvit
from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.models.image_tokenizer import PATCH, ImageTokenizer
from unimic.cloud.training.command import command, count, run_options
from unimic.cloud.training.cost import FEW_SHAPES, WindowRows, row_bits
from unimic.cloud.training.data import flickr_images, read_captions, training_images
from unimic.cloud.training.loop import (
    Average,
    Run,
    autocast,
    channels_last,
    compiled,
    default_device,
    mark,
    optimizers,
    own_seed,
    prepared,
    rounded_late,
)
from unimic.cloud.training.shipped import load_exact, made_by
from unimic.cloud.training.tokenize_images import encoded, load_tokenizer, tokenize
from unimic.codec.image_rows import Layout, WindowPlan, plan_window
from unimic.codec.networks import image_layout
from unimic.codec.order import CONTEXT, WINDOW, Window, waves
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import Codes, Mask

QUANTISED_FROM = 0.8
DEV = 24  # images that are looked at on the way
AHEAD = 3  # batches that are made while others are trained on
TEXT_LIMIT = 32  # tokens of a training prompt
MASKED = 0.35  # of the windows: only what is under a mask is coded
PARTIAL = 0.15  # of those: and nobody holds the rest
VIEWS = {14: 0.6, 16: 0.25, 20: 0.15}  # tokens a side of the views of a batch: how often
WHOLE = 0.3  # of the views show all of their image
LEAST = 0.7  # of an image's shorter side that a view shows
STRETCH = 1.15  # of a view's width against its height, at most, and the other way round


def random_mask(rng: np.random.Generator, rows: int, columns: int) -> Mask:
    """Single tokens, a side, a rectangle, or everything but a rectangle: what an edit sends."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.random((rows, columns)) < rng.uniform(0.1, 0.9)
    mask = np.zeros((rows, columns), np.bool_)
    if kind == 1:
        axis = int(rng.integers(2))
        edge = int(rng.integers(1, max(2, mask.shape[axis])))
        np.moveaxis(mask, axis, 0)[:edge] = True
        return ~mask if rng.random() < 0.5 and not mask.all() else mask
    height, width = (int(rng.integers(max(1, n // 4), n + 1)) for n in (rows, columns))
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    mask[top:top + height, left:left + width] = True
    return ~mask if kind == 2 and not mask.all() else mask


def random_view(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of an image, mirrored or not, uint8 ``(side, side, 3)``."""
    height, width = image.shape[:2]
    box = (0.0, 0.0, float(width), float(height))
    if rng.random() > WHOLE:
        span = rng.uniform(LEAST, 1) * min(height, width)
        stretch = STRETCH ** rng.uniform(-0.5, 0.5)
        across, down = min(width, span * stretch), min(height, span / stretch)
        left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
        box = (left, top, left + across, top + down)
    view = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box))
    return view[:, ::-1] if rng.random() < 0.5 else view


class Views(IterableDataset[tuple[list[str], Tensor]]):
    """Endless batches of names and views of images, uint8 ``(B, side, side, 3)``."""

    def __init__(self, images: list[tuple[str, np.ndarray]], batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed

    def __iter__(self) -> Iterator[tuple[list[str], Tensor]]:
        rng = np.random.default_rng(own_seed(self.seed))
        while True:
            side = PATCH * int(rng.choice(list(VIEWS), p=list(VIEWS.values())))
            chosen = [self.images[i] for i in rng.integers(len(self.images), size=self.batch)]
            views = np.stack([random_view(image, side, rng) for _, image in chosen])
            yield [name for name, _ in chosen], torch.from_numpy(views)


class Sampler:
    """Random plans of training windows."""

    def __init__(self, layout: Layout, prompts: dict[str, list[Codes]], seed: int) -> None:
        self.layout, self.prompts = layout, prompts
        self.rng = np.random.default_rng(seed)

    def _window(self, rows: int, columns: int) -> Window:
        def span(length: int) -> tuple[int, int]:
            size = min(length, WINDOW)
            if length <= WINDOW or self.rng.random() < 0.4:
                return 0, size
            start = int(self.rng.integers(1, min(CONTEXT, length - size) + 1))
            return start, start + size
        (top, bottom), (left, right) = span(rows), span(columns)
        return Window(top, left, bottom, right)

    def plan(self, name: str, codes: Codes) -> WindowPlan:
        """What is to be coded of the view ``codes`` of the image ``name``, and given what."""
        window = self._window(*codes.shape)
        coded, hole = np.ones(codes.shape, np.bool_), None
        if self.rng.random() < MASKED:
            coded = random_mask(self.rng, *codes.shape)
            if not coded[window.top:window.bottom, window.left:window.right].any():
                coded[:] = True
            hole = ~coded if self.rng.random() < PARTIAL else None
        prompts, prompt = self.prompts.get(name), None
        if prompts and self.rng.random() < 0.5:
            prompt = prompts[self.rng.integers(len(prompts))]
        return plan_window(self.layout, codes, coded, window, prompt, hole)


def planned(sampler: Sampler, tokenizer: ImageTokenizer | Magvit,
            views: Iterator[tuple[list[str], Tensor]]) -> Iterator[WindowRows]:
    """Rows of random windows of ``views``, made by a thread while the device trains."""
    def make() -> WindowRows:
        names, pixels = next(views)
        grids = encoded(tokenizer, pixels, fast=True)
        plans = [sampler.plan(*named) for named in zip(names, grids, strict=True)]
        return WindowRows.of(sampler.layout, plans, grids, FEW_SHAPES)

    with ThreadPoolExecutor(1) as maker:  # Python waits for its thread, which computes, at exit
        ready = deque(maker.submit(make) for _ in range(AHEAD))
        while True:
            yield ready.popleft().result()
            ready.append(maker.submit(make))


@torch.no_grad()
def bits_per_token(network: ImageEntropyNet, layout: Layout, grids: list[Codes]) -> float:
    """Mean ideal bits of whole grids, coded without a prompt."""
    bits = []
    for codes in grids:
        coded = np.ones(codes.shape, np.bool_)
        for window in chain.from_iterable(waves(*codes.shape)):
            plan = plan_window(layout, codes, coded, window, None)
            rows = WindowRows.of(layout, [plan], [codes], FEW_SHAPES)
            bits.append(row_bits(network, rows.to(network.rotations.device)).sum())
    return float(torch.stack(bits).sum()) / sum(codes.size for codes in grids)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--image-tokenizer", type=Path, required=True,
                        help="its exported folder, a checkpoint, or the folder magvitv2 of Show-o")
    parser.add_argument("--text-tokenizer", type=Path, required=True, help="tokenizer.json")
    run_options(parser, minutes=45, rate=2e-3)
    parser.add_argument("--start", type=Path, help="weights.safetensors to go on from")
    parser.add_argument("--batch", type=count, default=16)
    parser.add_argument("--compile", action="store_true", help="fuse element-wise operations: "
                        "steps in half the time, after minutes; needs a C++ compiler")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    device = default_device()
    network = ImageEntropyNet(ImageEntropyConfig()).to(device)
    if args.start:
        load_exact(args.start, network)
    average = Average(network, 0.998)
    towers = nn.ModuleList([network.content_layers, network.query_layers])
    parts = optimizers(network, towers, args.rate)
    tokenizer = channels_last(load_tokenizer(args.image_tokenizer).to(device))
    run = Run(args.out, args.minutes, args.rate, made_for={
        "--image-tokenizer": made_by(tokenizer),
        "--text-tokenizer": mark(args.text_tokenizer)})
    state = {"model": network, "average": average.module, **parts}
    run.restore(state)
    layout = image_layout(asdict(network.config))
    text = TextTokenizer(args.text_tokenizer)
    prompts = {name: [text.encode(t)[:TEXT_LIMIT] for t in c.captions]
               for name, c in read_captions(args.data).items() if c.split in ("train", "rest")}
    seed = args.seed + run.step
    views = prepared(Views(training_images(args.data), args.batch, seed))
    batches = planned(Sampler(layout, prompts, seed), tokenizer, views)
    unseen = list(flickr_images(args.data, "dev").items())[:DEV]
    dev = [codes for _, codes in tokenize(tokenizer, unseen, fast=False)]

    if args.compile:
        # mypy does not let methods be replaced.
        network.content = compiled(network.content)  # type: ignore[method-assign]
        network.query = compiled(network.query)  # type: ignore[method-assign]
    for fraction in rounded_late(run, QUANTISED_FROM, network, average):
        rows = next(batches).to(device)
        with autocast(device):
            loss = row_bits(network, rows).sum() / rows.kept.sum()
        run.descend(fraction, network, loss, parts)
        average.update(network, run.step)
        run.log(bits_per_token=loss)
        if run.keep(state):
            figure = bits_per_token(average.module, layout, dev)
            print(f"Flickr8k dev: {figure:.3f} bits a token", flush=True)
    run.save(state)


if __name__ == "__main__":
    command(main)
