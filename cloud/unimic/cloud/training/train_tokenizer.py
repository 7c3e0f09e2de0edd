"""Train the image tokenizer.

First stage: everything. Second stage (``--polish FIRST``): the encoder stays as it is, so tokens
keep their meaning, and only the decoder goes on learning. With ``--entropy-model``, tokens are
pushed to be cheap as well as good: a bit under that model costs ``--bit-price``. The losses of the
pixels are those of `unimic.cloud.training.fidelity`, the perceptual ones under a random rescaling
and shift that are the same for original and reconstruction.

With ``--emoji``, one crop in ten is of a drawing: of the emoji, and of coloured shapes as the
compact model draws them. Photos alone leave outlines dented.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from unimic.cloud.models.image_entropy import ImageEntropyNet
from unimic.cloud.models.image_tokenizer import ImageTokenizer
from unimic.cloud.training import shapes
from unimic.cloud.training.command import command, count, positive, run_options
from unimic.cloud.training.cost import TokenCost
from unimic.cloud.training.data import read_emoji, training_images
from unimic.cloud.training.fidelity import Fidelity
from unimic.cloud.training.loop import (
    Average,
    Run,
    autocast,
    channels_last,
    compiled,
    default_device,
    own_seed,
    prepared,
)
from unimic.cloud.training.shipped import load_exact, load_image_tokenizer, made_by

CROP = 160
DRAWN = 0.1  # share of crops that are of drawings, where there are any
DRAWINGS = 960  # of each kind
BIT_PRICE = 0.02
PRICED = 24  # crops of a batch whose tokens are priced: their rows are made on the CPU


class Crops(IterableDataset[Tensor]):
    """Endless batches of random crops, uint8 ``(B, side, side, 3)``."""

    def __init__(self, photos: list[np.ndarray], drawings: list[np.ndarray], batch: int, seed: int,
                 side: int = CROP) -> None:
        self.photos, self.drawings, self.side = photos, drawings, side
        self.batch, self.seed = batch, seed

    def __iter__(self) -> Iterator[Tensor]:
        chance = random.Random(repr(own_seed(self.seed)))
        while True:
            yield torch.from_numpy(np.stack([self._crop(chance) for _ in range(self.batch)]))

    def _crop(self, chance: random.Random) -> np.ndarray:
        """From almost twice as small to more than twice as large as it is in its image."""
        drawn = self.drawings and chance.random() < DRAWN
        image = Image.fromarray(chance.choice(self.drawings if drawn else self.photos))
        width, height = image.size
        side = min(width, height, int(self.side * 2 ** chance.uniform(-1.1, 0.8)))
        x = chance.randint(0, width - side)
        y = chance.randint(0, height - side)
        box = (x, y, x + side, y + side)
        crop = np.asarray(image.resize((self.side, self.side), Image.Resampling.BICUBIC, box))
        return crop[:, ::-1] if chance.random() < 0.5 else crop


def drawings(emoji: Path) -> list[np.ndarray]:
    """Drawings of easy-VQA's training split, renderings and emoji, uint8 ``(256, 256, 3)``."""
    rng = np.random.default_rng(0)
    drawn = [shapes.original(shown, 256, rng) for shown in shapes.training_drawings()[:DRAWINGS]]
    drawn += [shapes.rendering(shown, 256, rng) for shown in shapes.rendered_drawings(DRAWINGS)]
    named, _ = read_emoji(emoji, random.Random(0))
    drawn += list(named.values())[:DRAWINGS]
    return [np.asarray(image) for image in drawn]


def same_warp(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One random part and size for both, so that no metric's pixel grid or scale can be gamed.

    Enlarged parts matter: the networks' first strides of 2 and 4 would hide fine texture otherwise.
    """
    side = random.randrange(CROP // 2, CROP + 1)
    size = random.randrange(CROP * 3 // 4, CROP * 5 // 4 + 1, 8)
    x, y = random.randint(0, CROP - side), random.randint(0, CROP - side)
    both = torch.cat([a, b])[:, :, y:y + side, x:x + side]
    both = F.interpolate(both, (size, size), mode="bilinear", antialias=size < side)
    if random.random() < 0.5:
        both = both.transpose(2, 3).contiguous(memory_format=torch.channels_last)
    warped_a, warped_b = both.chunk(2)
    return warped_a, warped_b


def usage_push(latents: Tensor) -> Tensor:
    """Keeps each latent channel near zero mean and unit variance over the batch.

    The quantiser's sigmoid maps a unit normal to a nearly uniform spread over the levels.
    """
    mean = latents.mean((0, 2, 3))
    deviation = latents.std((0, 2, 3))
    return (mean.pow(2) + (deviation - 1).pow(2)).sum()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar shards")
    run_options(parser, minutes=60, rate=5e-4)
    parser.add_argument("--batch", type=count, default=24)
    parser.add_argument("--start", type=Path, help="folder of an exported tokenizer, or a "
                        "checkpoint, to go on from")
    parser.add_argument("--polish", type=Path, help="likewise, its encoder kept as it is")
    parser.add_argument("--entropy-model", type=Path, help="weights.safetensors of the image "
                        "entropy model that prices tokens")
    parser.add_argument("--bit-price", type=positive, metavar="LOSS", help="of a bit per token "
                        f"under the entropy model (default: {BIT_PRICE})")
    parser.add_argument("--adversarial", type=float, default=0.0, metavar="SHARE",
                        help="gradient of a discriminator on the pixels, as a share of the "
                        "norm of the other losses'")
    parser.add_argument("--emoji", type=Path, help="assets of the npm package "
                        "@lobehub/fluent-emoji-3d: learn from drawings too")
    parser.add_argument("--compile", action="store_true", help="fuse element-wise operations, "
                        "after a minute or two; needs a C++ compiler, on a GPU Triton")
    args = parser.parse_args(argv)
    if not args.adversarial >= 0:
        parser.error("--adversarial: use 0 or more")
    if args.polish and args.entropy_model:
        parser.error("--polish changes no token, so --entropy-model has nothing to do")
    if args.bit_price and not args.entropy_model:
        parser.error("--bit-price is of bits under an --entropy-model: name one")

    torch.manual_seed(args.seed)
    device = default_device()
    start = args.polish or args.start
    model = (load_image_tokenizer(start) if start else ImageTokenizer()).train()
    model = channels_last(model.to(device))
    if args.polish:
        model.encoder.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.rate, betas=(0.9, 0.98),
                                  weight_decay=0.01, fused=True)
    average = Average(model, 0.999)
    run = Run(args.out, args.minutes, args.rate,
              made_for={"--polish": made_by(model) if args.polish else ""})
    fidelity = Fidelity(device, args.adversarial)
    state: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": model, "average": average.module, "optimizer": optimizer, **fidelity.state()}
    run.restore(state)
    random.seed(args.seed + run.step)
    cost = None
    if args.entropy_model:
        network = ImageEntropyNet().requires_grad_(False)
        load_exact(args.entropy_model, network)
        cost = TokenCost(network.to(device), model.quantizer)
    photos = [image for _, image in training_images(args.data)]
    drawn = drawings(args.emoji) if args.emoji else []
    crops = prepared(Crops(photos, drawn, args.batch, args.seed + run.step))
    nothing = torch.zeros((), device=device)
    encoder, decoder = model.encoder, model.decoder
    if args.compile:
        encoder, decoder = compiled(encoder), compiled(decoder)

    for fraction in run:
        run.set_rate(optimizer, fraction)
        pixels = next(crops).to(device, non_blocking=True)
        real = pixels.permute(0, 3, 1, 2).float() / 255  # channels last as they came
        with autocast(device):
            with torch.set_grad_enabled(not args.polish):
                latents = encoder(real).float()
                digits = model.quantizer.digits(latents)
            fake = decoder(model.quantizer.normalise(digits))
            bits = cost(latents[:PRICED]) if cost else nothing
        fake = fake.float()
        gradient, losses = fidelity.gradient(fake, real, same_warp(fake, real))
        roots, gradients = [fake], [gradient]
        if not args.polish:
            roots.append(0.1 * usage_push(latents) + (args.bit_price or BIT_PRICE) * bits)
            gradients.append(torch.ones((), device=device))
        optimizer.zero_grad()
        torch.autograd.backward(roots, gradients)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(model, run.step)
        used = torch.zeros(model.quantizer.size, device=device)
        used[model.quantizer.codes(digits.detach()).flatten()] = 1
        run.log(**losses, bits=bits, codes=used.sum())
        run.keep(state)
    run.save(state)


if __name__ == "__main__":
    command(main)
