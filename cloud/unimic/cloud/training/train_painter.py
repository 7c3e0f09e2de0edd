"""Teach the compact model to paint: to fill what is hidden at once, as near as can be expected; and
the refinement network to join that to the pixels around it.

    python -m unimic.cloud.training.train_painter --data DATA --start WEIGHTS.safetensors \\
        --tokenizer TOKENIZER --out OUT --minutes 75

Of the model only the painter (`unimic.cloud.models.compact.Painter`) learns: the rest of it, and so
all its other tasks, and the image tokenizer stay as they are. A part of each image is hidden, in
half of the steps before the image is tokenized, so that no token knows of it. What the painter puts
there is decoded, joined to the pixels around it as the client does, refined
(`unimic.cloud.models.refiner`) and compared with the pixels that were there, by the losses of
`unimic.cloud.training.fidelity`. The discriminator is needed: LPIPS alone is served best by curls
that nobody would take for a photo. Some images keep their tokens, so that the refiner also learns
what to do where there is more to go by.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.backends.compact import load_weights
from unimic.cloud.models.compact import PROMPT, Block, Compact, Painter
from unimic.cloud.models.image_tokenizer import ImageTokenizer
from unimic.cloud.models.refiner import Refiner
from unimic.cloud.training.command import command, count, run_options
from unimic.cloud.training.data import training_images
from unimic.cloud.training.fidelity import Fidelity
from unimic.cloud.training.joining import covered, joined
from unimic.cloud.training.loop import (
    Average,
    Run,
    autocast,
    channels_last,
    default_device,
    optimizers,
    prepared,
)
from unimic.cloud.training.shipped import load_image_tokenizer, load_refiner, made_by
from unimic.cloud.training.train_tokenizer import Crops, drawings
from unimic.codec.errors import InvalidInput
from unimic.codec.store import MANIFEST, ModelStore
from unimic.codec.tokens import PITCH

SIDE = 14  # tokens of an image, each way: photos of 224 pixels are not enlarged
MARGIN = 3  # tokens around what is hidden that are decoded with it
GIVEN = 0.15  # of the images keep their own tokens
UNKNOWN = 0.5  # of the steps hide a part before the tokenizer sees the image
SMALLEST = 64  # pixels a side that the perceptual networks see
STEP = 16  # they see multiples of it: a GPU plans its convolutions anew for each new size
ADVERSARIAL = 0.3  # see `Fidelity`
INCEPTION = 0.5
PIXEL = 0.02  # more takes contrast away: DISTS and LPIPS-AlexNet mind

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Part:
    """What is hidden of images, in tokens.

    Attributes:
        rows: first, and one after the last.
        columns: likewise.
        hole: bool ``(SIDE, SIDE)``, True in all of these rows and columns or in most of them.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    hole: Tensor

    @property
    def window(self) -> Window:
        """Its rows and columns, and `MARGIN` around them."""
        rows, columns = (slice(max(first - MARGIN, 0), min(end + MARGIN, SIDE))
                         for first, end in (self.rows, self.columns))
        return rows, columns

    def around(self, values: Tensor, cell: int = 1) -> Tensor:
        """The window of ``(B, C, h, w)``, ``cell`` values a side to a token."""
        y, x = (slice(cut.start * cell, cut.stop * cell) for cut in self.window)
        return values[:, :, y, x]

    @property
    def pixels(self) -> Tensor:
        """The hole, bool ``(SIDE · PITCH, SIDE · PITCH)``."""
        return self.hole.repeat_interleave(PITCH, 0).repeat_interleave(PITCH, 1)

    def inside(self, pixels: Tensor) -> Tensor:
        """The part in ``(B, C, h, w)``, the pixels of its window."""
        y, x = (slice((first - cut.start) * PITCH, (end - cut.start) * PITCH)
                for (first, end), cut in zip((self.rows, self.columns), self.window, strict=True))
        return pixels[:, :, y, x]


def hidden_part() -> Part:
    """A rectangle, or a strip along a side; some lack a corner."""
    hole = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    if random.random() < 0.7:
        height, width = random.randint(3, 9), random.randint(3, 9)
        top, left = random.randint(0, SIDE - height), random.randint(0, SIDE - width)
        rows, columns = (top, top + height), (left, left + width)
    else:
        thick, whole = random.randint(2, 6), (0, SIDE)
        strip = random.choice([(0, thick), (SIDE - thick, SIDE)])
        rows, columns = random.choice([(strip, whole), (whole, strip)])
    hole[slice(*rows), slice(*columns)] = True
    if random.random() < 0.25:
        corner = []
        for first, end in rows, columns:
            size = random.randint(1, end - first - 1)
            corner.append(random.choice([slice(first, first + size), slice(end - size, end)]))
        hole[tuple(corner)] = False
    return Part(rows, columns, hole)


def tokens_around(tokenizer: ImageTokenizer, images: Tensor, part: Part) -> Tensor:
    """Tokens ``(B, SIDE, SIDE)`` as the client makes them of images whose part it does not show; in
    the hole they mean nothing.

    It covers a hole (`unimic.edge.seams.covered`), but of a picture that is to be extended there is
    no more than what it has.
    """
    sides = [(0, first) if end == SIDE else (end, SIDE) for first, end in (part.rows, part.columns)
             if (first, end) != (0, SIDE)]
    if len(sides) == 1 and part.hole[slice(*part.rows), slice(*part.columns)].all():
        (first, end), dim = sides[0], 2 if part.columns == (0, SIDE) else 3
        codes = tokenizer.encode(images.narrow(dim, first * PITCH, (end - first) * PITCH))
        beside = (first, SIDE - end)
        return F.pad(codes, beside if dim == 3 else (0, 0, *beside))
    return tokenizer.encode(covered(images, part.pixels))


def rescaled(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both at one random size, so that no metric's pixel grid can be gamed."""
    factor = max(random.uniform(0.75, 1.25), SMALLEST / min(a.shape[2:]))
    size = [STEP * round(side * factor / STEP) for side in a.shape[2:]]
    both = F.interpolate(torch.cat([a, b]), size, mode="bilinear", antialias=True)
    rescaled_a, rescaled_b = both.chunk(2)
    return rescaled_a, rescaled_b


def deepened(model: Compact, depth: int) -> Painter:
    """The model's painter, of at least ``depth`` blocks."""
    painter = model.painter
    for _ in range(len(painter.blocks), depth):
        painter.blocks.append(Block(model.config))
    model.config = replace(model.config, painter_depth=len(painter.blocks))
    return painter


def check_start(weights: Path) -> None:
    """Raise `InvalidInput` if weights lie in a store whose tokenizers they were not made for."""
    model = weights.resolve().parent
    if (model.parent / MANIFEST).exists():
        store = ModelStore(model.parent)
        if model.name in store.entries and not store.fits(model.name):
            raise InvalidInput("--start", f"{weights} was made for other tokenizers than those of "
                               "its store", "train and export it for these first")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar shards")
    parser.add_argument("--start", type=Path, required=True, help="weights.safetensors of the "
                        "compact model")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of an exported image "
                        "tokenizer, or a checkpoint")
    parser.add_argument("--refiner", type=Path, help="folder of an exported refinement network, or "
                        "a checkpoint, to go on from")
    parser.add_argument("--emoji", type=Path, help="assets of the npm package "
                        "@lobehub/fluent-emoji-3d: learn from drawings too")
    run_options(parser, minutes=75, rate=3e-3)
    parser.add_argument("--depth", type=int, default=0, help="blocks; those that START lacks are "
                        "added, and begin by changing nothing")
    parser.add_argument("--batch", type=count, default=16)
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    device = default_device()
    check_start(args.start)
    model = load_weights(args.start).to(device)
    tokenizer = channels_last(load_image_tokenizer(args.tokenizer).to(device)).requires_grad_(False)
    quantizer = tokenizer.quantizer
    painter = deepened(model, args.depth).to(device).requires_grad_(True)
    refiner = channels_last((load_refiner(args.refiner) if args.refiner else
                             Refiner()).to(device).train())
    learning = nn.ModuleList([painter, refiner])
    average, refined = Average(model, 0.998), Average(refiner, 0.998)
    optimizer = optimizers(learning, painter.blocks, args.rate)
    run = Run(args.out, args.minutes, args.rate, warmup=100,
              made_for={"--tokenizer": made_by(tokenizer)})
    fidelity = Fidelity(device, ADVERSARIAL, "vgg", INCEPTION, PIXEL)
    state: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": model, "average": average.module, "refiner": refiner,
        "refiner_average": refined.module, **optimizer, **fidelity.state()}
    run.restore(state)
    random.seed(args.seed + run.step)
    photos = [image for _, image in training_images(args.data)]
    drawn = drawings(args.emoji) if args.emoji else []
    crops = prepared(Crops(photos, drawn, args.batch, args.seed + run.step, SIDE * PITCH))
    prompt = torch.full((args.batch, 1), PROMPT, device=device)

    for fraction in run:
        pixels = next(crops).to(device, non_blocking=True)
        real = pixels.permute(0, 3, 1, 2).float() / 255  # channels last as they came
        part = hidden_part()
        hidden = part.hole.to(device).expand(args.batch, -1, -1)
        given = torch.rand(args.batch, 1, 1, 1, device=device) < GIVEN
        with autocast(device):
            with torch.no_grad():
                own = codes = tokenizer.encode(real)
                if random.random() < UNKNOWN:
                    codes = torch.where(hidden, own, tokens_around(tokenizer, real, part))
                features, _ = model.look(codes, hidden, prompt)
            latents = painter(features, (SIDE, SIDE))
            digits = torch.where(hidden.unsqueeze(1) & ~given, quantizer.digits(latents),
                                 quantizer.from_codes(codes))
            seen = part.around(quantizer.normalise(digits))
            new = tokenizer.decoder(seen.contiguous(memory_format=torch.channels_last)).float()
        old = part.around(real, PITCH)
        hole = part.around(part.pixels[None, None], PITCH)[0, 0]
        fake = joined(new, old, hole, refiner)
        fake, true = part.inside(fake), part.inside(old)
        gradient, losses = fidelity.gradient(fake, true, rescaled(fake, true))
        # The gradient of the pixels is all that the networks need to know of the losses.
        run.descend(fraction, learning, (fake * gradient).sum(), optimizer)
        average.update(model, run.step)
        refined.update(refiner, run.step)
        run.log(**losses)
        run.keep(state)
    run.save(state)


if __name__ == "__main__":
    command(main)
