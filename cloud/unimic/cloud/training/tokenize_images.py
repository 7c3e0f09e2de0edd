"""Turn the training, development and test images into token grids, once for all later trainings."""

from __future__ import annotations

import argparse
import random
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from unimic.cloud.backends.show_o.magvit import Magvit, load_magvit
from unimic.cloud.models.image_tokenizer import PATCH, ImageTokenizer
from unimic.cloud.training.command import command
from unimic.cloud.training.data import (
    flickr_images,
    read_emoji,
    read_questions,
    read_shards,
    unlabelled_images,
)
from unimic.cloud.training.grids import save_grids
from unimic.cloud.training.loop import autocast, channels_last, default_device
from unimic.cloud.training.shipped import load_image_tokenizer, made_by
from unimic.codec.errors import UnknownModel
from unimic.codec.store import ENCODER
from unimic.codec.tokens import Codes

BATCH = 16
HISTOGRAM_OF = ("flickr-train", "flickr-train-flipped", "flickr-train-320", "unlabelled",
                "daquar-train")  # files of the grids whose codes the order-0 yardstick counts
Named = tuple[str, np.ndarray]


def cropped(image: np.ndarray) -> np.ndarray:
    """The image without the right and bottom edges that do not fill a patch."""
    height, width = (side - side % PATCH for side in image.shape[:2])
    return image[:height, :width]


def resized(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def load_tokenizer(path: Path) -> ImageTokenizer | Magvit:
    """The project's own tokenizer, exported or in training, or the MAGVIT-v2 of a folder.

    Raises:
        OSError, CorruptData, UnknownModel: it is none of them, or not whole.
    """
    if path.is_dir() and not (path / ENCODER).exists():
        if not (path / "config.json").exists():
            raise UnknownModel(str(path), "holds no tokenizer", "name the folder of an exported "
                               "one, or checkpoint.pt in that of a training")
        return load_magvit(path)
    return load_image_tokenizer(path)


def encoded(model: ImageTokenizer | Magvit, pixels: Tensor, fast: bool) -> list[Codes]:
    """Grids of uint8 images ``(B, H, W, 3)``; ``fast`` is bfloat16, for training data only."""
    device = next(model.parameters()).device
    with autocast(device) if fast else nullcontext():
        codes = model.encode(pixels.to(device).permute(0, 3, 1, 2).float() / 255)
    return list(codes.to(torch.int32).cpu().numpy())


def tokenize(model: ImageTokenizer | Magvit, images: list[Named], fast: bool
             ) -> list[tuple[str, Codes]]:
    """Grids of images of any shapes; see `encoded`."""
    by_shape: dict[tuple[int, ...], list[Named]] = {}
    for name, image in images:
        by_shape.setdefault(image.shape, []).append((name, image))
    batches = [group[i:i + BATCH] for group in by_shape.values()
               for i in range(0, len(group), BATCH)]
    grids: list[tuple[str, Codes]] = []
    for batch in tqdm(batches, disable=None):
        names, arrays = zip(*batch, strict=True)
        pixels = torch.from_numpy(np.stack(arrays))
        grids += zip(names, encoded(model, pixels, fast), strict=True)
    return grids


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar shards")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the exported "
                        "tokenizer, a checkpoint, or the folder magvitv2 of Show-o")
    parser.add_argument("--emoji", type=Path,
                        help="assets of the npm package @lobehub/fluent-emoji-3d; the compact "
                        "model's training needs them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the .npz files")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    model = channels_last(load_tokenizer(args.tokenizer).to(default_device()))
    marked = made_by(model)

    def write(name: str, images: list[Named], fast: bool = False) -> None:
        save_grids(args.out / f"{name}.npz", tokenize(model, images, fast), marked)
        print(f"{name}: {len(images)} grids", flush=True)

    if args.emoji:
        parts = read_emoji(args.emoji)
        coloured, _ = read_emoji(args.emoji, random.Random(0))
        for name, images in zip(("emoji-train", "emoji-test", "emoji-coloured"),
                                (*parts, coloured), strict=True):
            write(name, [(said, np.asarray(image)) for said, image in images.items()], fast=True)
    flickr = {split: list(flickr_images(args.data, split).items())
              for split in ("dev", "test", "train", "rest")}
    evaluated = {q.image for q in read_questions(args.data, "eval")}
    daquar = [(n, cropped(np.asarray(i))) for n, i in read_shards(args.data, "daquar")]
    write("flickr-dev", flickr["dev"])
    write("flickr-test", flickr["test"])
    write("kodak", [(n, np.asarray(i)) for n, i in read_shards(args.data, "kodak")])
    train = flickr["train"] + flickr["rest"]
    write("flickr-train", train, fast=True)
    write("daquar-train", [(n, i) for n, i in daquar if n not in evaluated], fast=True)
    write("daquar-eval", [(n, i) for n, i in daquar if n in evaluated])
    write("flickr-train-flipped", [(n, i[:, ::-1]) for n, i in train], fast=True)
    write("unlabelled", [(n, cropped(i)) for n, i in unlabelled_images(args.data)], fast=True)
    write("flickr-train-320", [(n, resized(i, 320)) for n, i in train], fast=True)


if __name__ == "__main__":
    command(main)
