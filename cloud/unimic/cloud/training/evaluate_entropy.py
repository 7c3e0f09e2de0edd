"""What exactness costs and what it saves, on the grids of a test set.

Two questions about the image entropy model of a store. How many bits more does it take in integers
than the same weights in ordinary float32? And how many streams fail when one executor of such a
float network writes them and another reads them: PyTorch on one CPU, with one grid and one thread
here, a batch of grids and all threads there? (Other libraries and devices differ more.)

    python -m unimic.cloud.training.evaluate_entropy --store MODELS --grids GRIDS/flickr-test.npz
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from unimic.cloud.models.arithmetic import LOGIT_SCALE
from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.networks import TorchImageNetwork, load_image_network
from unimic.cloud.training.grids import load_grids
from unimic.cloud.training.shipped import load_exact
from unimic.codec.frequencies import frequencies
from unimic.codec.image_rows import plan_window
from unimic.codec.lockstep import known_logits
from unimic.codec.networks import IMAGE_ENTROPY, WEIGHTS, configuration
from unimic.codec.order import WINDOW, Window
from unimic.codec.rangecoder import PRECISION, RangeDecoder, RangeEncoder, information
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes

BATCH = 32
Tables = list[NDArray[np.int32]]


def float_frequencies(logits: NDArray[np.float32]) -> NDArray[np.int32]:
    """Frequencies as an ordinary codec makes them: a float softmax, scaled and rounded."""
    weights = np.exp((logits - logits.max(1, keepdims=True)) / np.float32(LOGIT_SCALE))
    share = weights / weights.sum(1, keepdims=True)
    total = (1 << PRECISION) - logits.shape[1]
    out = np.floor(share * total).astype(np.int64)
    rows = np.arange(len(out))
    out[rows, out.argmax(1)] += total - out.sum(1)
    return np.asarray(out, np.int32)


def tables(network: TorchImageNetwork, grids: list[Codes], exact: bool) -> Iterator[Tables]:
    """Frequencies of the upper and the lower parts of each grid's tokens, coded in one window."""
    layout, table = network.layout, frequencies if exact else float_frequencies
    window = Window(0, 0, *grids[0].shape)
    everything = np.ones(grids[0].shape, np.bool_)
    plans = [plan_window(layout, grid, everything, window, None) for grid in grids]
    for parts in known_logits(network, list(zip(plans, grids, strict=True))):
        yield [table(part) for part in parts]


def symbols(network: TorchImageNetwork, grid: Codes) -> list[Codes]:
    """The parts of a grid's tokens in coding order."""
    window = Window(0, 0, *grid.shape)
    plan = plan_window(network.layout, grid, np.ones(grid.shape, np.bool_), window, None)
    return [p.astype(np.int32) for p in network.layout.split(grid[plan.rows, plan.columns])]


def fails(parts: list[Codes], written: Tables, read: Tables) -> bool:
    """Whether a stream written with some frequencies is read wrongly with others."""
    encoder = RangeEncoder()
    for part, table in zip(parts, written, strict=True):
        encoder.encode(part, table)
    decoder = RangeDecoder(encoder.finish())
    # Symbols after the first wrong one are read in the context of right ones, which only helps.
    return any(not np.array_equal(decoder.decode(table), part)
               for part, table in zip(parts, read, strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    parser.add_argument("--grids", type=Path, required=True,
                        help="test grids of tokenize_images, of one shape, at most 16 × 16")
    parser.add_argument("--streams", type=int, default=1000)
    args = parser.parse_args(argv)

    store = ModelStore(args.store)
    grids = [codes for _, codes in load_grids(args.grids)][:args.streams]
    if any(g.shape != grids[0].shape or max(g.shape) > WINDOW for g in grids):
        raise SystemExit(f"--grids: not all of one shape of at most {WINDOW} × {WINDOW}")
    exact = load_image_network(store, "cpu")
    weights = store.path(IMAGE_ENTROPY, WEIGHTS)
    parent = ImageEntropyNet(ImageEntropyConfig(**configuration(weights)))
    load_exact(weights, parent)
    ordinary = TorchImageNetwork(parent.eval())

    bits = {True: 0.0, False: 0.0}
    failed = {True: 0, False: 0}
    threads = torch.get_num_threads()
    for start in tqdm(range(0, len(grids), BATCH), disable=None):
        part = grids[start:start + BATCH]
        for network, is_exact in (exact, True), (ordinary, False):
            torch.set_num_threads(threads)
            together = list(tables(network, part, is_exact))
            torch.set_num_threads(1)
            for grid, read in zip(part, together, strict=True):
                written, = tables(network, [grid], is_exact)
                parts = symbols(network, grid)
                bits[is_exact] += sum(information(s, t).sum()
                                      for s, t in zip(parts, written, strict=True))
                failed[is_exact] += fails(parts, written, read)
    tokens = sum(g.size for g in grids)
    print(json.dumps({
        "streams": len(grids), "integer_bits_per_token": round(bits[True] / tokens, 4),
        "float_bits_per_token": round(bits[False] / tokens, 4),
        "integer_over_float_percent": round(100 * (bits[True] / bits[False] - 1), 3),
        "integer_streams_failed": failed[True], "float_streams_failed": failed[False]}))


if __name__ == "__main__":
    main()
