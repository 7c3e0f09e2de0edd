"""Measure the image tokenizer of a store on a tar of images (Kodak): fidelity and code usage.

The networks are run by ONNX Runtime, as shipped. LPIPS-AlexNet was a training loss, LPIPS-VGG was
not: only the latter is evidence.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from pytorch_msssim import ms_ssim
from torch import Tensor
from tqdm import tqdm

from unimic.cloud.training.command import command, count
from unimic.cloud.training.data import read_shards
from unimic.codec.runtime import open_graph
from unimic.codec.store import IMAGE_TOKENIZER, ModelStore
from unimic.perceptual import LPIPS


def entropy(codes: np.ndarray) -> float:
    """Order-0 entropy of codes in bits."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum())


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar shards")
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    parser.add_argument("--shard", default="kodak")
    parser.add_argument("--every", type=count, default=1, help="measure every nth image")
    args = parser.parse_args(argv)

    store = ModelStore(args.store)
    encoder, decoder = (open_graph(store.path(IMAGE_TOKENIZER, f"{n}.onnx"))
                        for n in ("encoder", "decoder"))
    networks = {name: LPIPS(name) for name in ("alex", "vgg")}
    rows: list[dict[str, float]] = []
    seen = []
    images = [np.asarray(image) for _, image in read_shards(args.data, args.shard)][::args.every]
    for image in tqdm(images, disable=None):
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        codes, = encoder.run(["codes"], {"pixels": pixels})
        decoded, = decoder.run(["pixels"], {"codes": codes})
        seen.append(codes.ravel())
        a = torch.from_numpy(pixels)
        b: Tensor = (torch.from_numpy(decoded) * 255).round() / 255
        row = {"psnr": float(-10 * torch.log10((a - b).square().mean())),
               "ms_ssim": float(ms_ssim(a, b, data_range=1.0))}
        for name, network in networks.items():
            row[f"lpips_{name}"] = float(network(a, b))
        rows.append(row)
    figures = {name: round(float(np.mean([r[name] for r in rows])), 4) for name in rows[0]}
    codes = np.concatenate(seen)
    figures |= {"codes_used": len(np.unique(codes)), "tokens": codes.size,
                "own_histogram_bits": round(entropy(codes), 3)}
    print(json.dumps(figures))


if __name__ == "__main__":
    command(main)
