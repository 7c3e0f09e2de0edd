"""What revealing tokens in groups costs: the same budget for several orders of coding.

    python -m unimic.cloud.training.compare_orders --tokens TOKENS --out OUT --json ORDERS.json

Trains, in ordinary float, from the same seed, on the same grids (14×14, Flickr8k train) and for the
same minutes each:

* a raster-autoregressive transformer: token after token, every layer over the tokens before;
* the entropy model of the project, with its ten groups, with twelve and with six.

All have as many layers of the same size, so as many weights but for embeddings. Prints bits a token
on Flickr8k test and Kodak, training steps, and seconds to decode a grid with cached keys and
values. Minutes are of the processor, so run it with one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import Mode, set_mode, visible
from unimic.cloud.models.image_entropy import (
    ImageEntropyConfig,
    ImageEntropyNet,
    Layer,
    Memory,
    empty,
    layers,
)
from unimic.cloud.training.command import command, positive
from unimic.cloud.training.cost import bits_of
from unimic.cloud.training.grids import load_grids
from unimic.cloud.training.loop import Average, Run, autocast, optimizers
from unimic.codec.image_rows import join, place_of, stack
from unimic.codec.networks import image_layout
from unimic.codec.order import REVEALED, reveal_groups
from unimic.codec.tokens import Codes

SIDE = 14
BATCH = 16
RATE = 2e-3
TWELVE = (1, 2, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64)
SHARES = {"12 groups": TWELVE, "10 groups": REVEALED, "6 groups": TWELVE[1::2]}


class Raster(ImageEntropyNet):
    """A decoder-only transformer of all the layers of both towers."""

    steps = SIDE * SIDE

    def all_layers(self) -> list[Layer]:
        return layers(self.content_layers) + layers(self.query_layers)

    def step(self, first: int, codes: Tensor, *memory: Tensor) -> tuple[Tensor, Tensor, Memory]:
        """Logits and hidden rows of tokens ``first`` …, given those before.

        ``codes`` ``(B, n)`` are the tokens from ``first - 1`` on; of token -1 the value is ignored.
        """
        c, count = self.config, codes.shape[1]
        order = torch.arange(first, first + count).expand(len(codes), -1)
        start = self.table(torch.full_like(codes, c.table - 2))
        told = self.table(codes // c.lower) + self.table(c.upper + codes % c.lower)
        x = torch.where((order == 0).unsqueeze(-1), start, told)
        turn = self._turn(torch.from_numpy(place_of(*np.divmod(order.numpy(), SIDE))))
        seen = visible(torch.arange(first + count) <= order[:, None, :, None])
        new: Memory = ()
        for i, layer in enumerate(self.all_layers()):
            x, own = layer.read(x, turn, memory[2 * i:2 * i + 2], seen)
            new += own
        x = self.final_norm(x)
        return self.upper_head(x), self.tail_in(x), new

    def nothing(self, batch: int) -> Memory:
        """Memory of no tokens."""
        c = self.config
        return empty(batch, [c.heads] * len(self.all_layers()), c.width // c.heads, self.table)[1:]

    def bits(self, codes: Tensor) -> Tensor:
        """Bits of every token of ``(B, 196)``."""
        before = F.pad(codes[:, :-1], (1, 0))
        logits, hidden, _ = self.step(0, before, *self.nothing(len(codes)))
        upper, lower = codes // self.config.lower, codes % self.config.lower
        return bits_of(upper, logits) + bits_of(lower, self.tail(hidden, upper))

    def decode(self, codes: Tensor) -> None:
        """The calls that decoding one grid takes; the tokens are given."""
        memory = self.nothing(1)
        for i in range(codes.shape[1]):
            _, hidden, memory = self.step(i, codes[:, max(0, i - 1):max(1, i)], *memory)
            self.tail(hidden, codes[:, i:i + 1] // self.config.lower)


class Grouped(ImageEntropyNet):
    """The project's network with another number of groups."""

    def __init__(self, config: ImageEntropyConfig, shares: tuple[int, ...]) -> None:
        super().__init__(config)
        self.layout = image_layout(asdict(config))
        group = reveal_groups(np.ones((SIDE, SIDE), np.bool_), shares)
        order = np.argsort(group.ravel(), kind="stable")
        row, column = np.unravel_index(order, group.shape)
        self.place = place_of(row, column)
        self.order, self.groups = torch.from_numpy(order), group.ravel()[order].astype(np.int64)
        self.steps = int(group.max())

    def rows(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Content and query rows of grids already in coding order, each ``(4, B, n)``."""
        start, query = self.layout.start(None), self.layout.queries(self.place, self.groups)
        content = [join([start, self.layout.tokens(grid, self.place, self.groups)])
                   for grid in codes.numpy()]
        return (torch.from_numpy(stack(content, self.layout)),
                torch.from_numpy(stack([query] * len(codes), self.layout)))

    def bits(self, codes: Tensor) -> Tensor:
        """Bits of every token of ``(B, 196)``, in coding order."""
        codes = codes[:, self.order]
        content, query = self.rows(codes)
        memory = self.content(*content, *self.empty_memory(len(codes)))
        logits, hidden = self.query(*query, *self.asked(memory))
        upper, lower = codes // self.layout.lower, codes % self.layout.lower
        return bits_of(upper, logits) + bits_of(lower, self.tail(hidden, upper))

    def decode(self, codes: Tensor) -> None:
        """The calls that decoding one grid takes; the tokens are given."""
        codes = codes[:, self.order]
        content, query = self.rows(codes)
        memory = self.content(*content[..., :1], *self.empty_memory(1))
        for group in range(1, self.steps + 1):
            which = torch.from_numpy(self.groups == group)
            _, hidden = self.query(*query[..., which], *self.asked(memory))
            self.tail(hidden, codes[:, which] // self.layout.lower)
            if group < self.steps:
                memory = self.content(*content[..., 1:][..., which], *memory)


def windows(path: Path) -> Tensor:
    """The middle 14×14 tokens of every grid of a file, ``(n, 196)``."""
    def middle(codes: Codes) -> Codes:
        top, left = ((size - SIDE) // 2 for size in codes.shape)
        return codes[top:top + SIDE, left:left + SIDE]

    return torch.from_numpy(np.stack([middle(codes).ravel() for _, codes in load_grids(path)])
                            ).long()


def trained(network: Raster | Grouped, grids: Tensor, run: Run) -> Raster | Grouped:
    """The network's average at the end of ``run``."""
    set_mode(network, Mode.FLOAT)
    average = Average(network, 0.998)
    towers = nn.ModuleList([network.content_layers, network.query_layers])
    parts = optimizers(network, towers, RATE)
    chance = torch.Generator().manual_seed(run.step)
    for fraction in run:
        some = grids[torch.randint(len(grids), (BATCH,), generator=chance)]
        with autocast(torch.device("cpu")):
            loss = network.bits(some).mean()
        run.descend(fraction, network, loss, parts)
        average.update(network, run.step)
        run.log(bits_per_token=loss)
    if run.stopped:  # nothing is kept to go on from
        raise KeyboardInterrupt
    return average.module


@torch.inference_mode()
def seconds(decode: Callable[[Tensor], None], codes: Tensor) -> float:
    """Least of five runs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        decode(codes)
        times.append(time.perf_counter() - start)
    return min(times)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the photos' tokens")
    parser.add_argument("--minutes", type=positive, default=10,
                        help="of processor time, for each order")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args(argv)

    grids = torch.cat([windows(args.tokens / f"{part}.npz")
                       for part in ("flickr-train", "flickr-train-flipped")])
    tests = {"flickr8k_test": windows(args.tokens / "flickr-test.npz")[::8],
             "kodak": windows(args.tokens / "kodak.npz")}
    config = ImageEntropyConfig(groups=max(len(shares) for shares in SHARES.values()))
    makers: dict[str, Callable[[], Raster | Grouped]] = {"raster": lambda: Raster(config)}
    for name, shares in SHARES.items():
        makers[name] = lambda shares=shares: Grouped(config, shares)  # type: ignore[misc]
    found: dict[str, dict[str, float]] = {}
    for name, make in makers.items():
        torch.manual_seed(1)
        run = Run(args.out / name.replace(" ", "-"), args.minutes, RATE, warmup=60,
                  clock=time.process_time)
        network = trained(make(), grids, run)
        found[name] = {"training_steps": run.step,
                       "sequential_steps": network.steps,
                       "decode_seconds": round(seconds(network.decode, grids[:1]), 4)}
        with torch.inference_mode():
            for test, codes in tests.items():
                bits = torch.cat([network.bits(part) for part in codes.split(BATCH)])
                found[name][f"bits_per_token_{test}"] = round(float(bits.mean()), 4)
        print(name, json.dumps(found[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
