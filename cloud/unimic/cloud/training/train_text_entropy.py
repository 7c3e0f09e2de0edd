"""Train the entropy model of text tokens: captions, questions, general English, other languages.

The last part of the budget is quantisation-aware: the network then computes with the same
roundings as the exact model that `export` writes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimic.cloud.models.text_entropy import TextEntropyConfig, TextEntropyNet
from unimic.cloud.training.command import command, run_options
from unimic.cloud.training.cost import bits_of
from unimic.cloud.training.data import read_captions, read_lines, read_questions, read_text
from unimic.cloud.training.loop import (
    Average,
    Run,
    autocast,
    default_device,
    mark,
    optimizers,
    rounded_late,
)
from unimic.cloud.training.shipped import load_exact
from unimic.codec.text import TextTokenizer

TOKENS = 1536  # in one batch
SHARES = {"short": 0.45, "long": 0.15, "other": 0.4}
"""Of the batches: captions and questions; reviews; texts in other languages."""
NEAR = 2000  # texts of a batch differ in length by at most as many places
QUANTISED_FROM = 0.7


def sequences(root: Path, other: Path, tokenizer: TextTokenizer) -> dict[str, list[np.ndarray]]:
    """The texts of each of `SHARES`."""
    captions = [t for c in read_captions(root).values() if c.split in ("train", "rest")
                for t in c.captions]
    questions = read_questions(root, "train")
    short = captions + read_text(root, "multi30k-train") + read_text(root, "coco-captions-val2017")
    short += [q.question for q in questions] * 3 + [q.answer for q in questions] * 2
    # Lower-cased and unpunctuated prompts are as common as careful ones.
    short += [t.lower().rstrip(".") for t in random.Random(0).sample(short, len(short) // 4)]
    texts = {"short": short, "long": read_text(root, "imdb-reviews-7k"),
             "other": read_lines(other)}
    return {name: [tokenizer.encode(text) for text in some] for name, some in texts.items()}


class Batches:
    """Random batches of about equally long sequences, each starting with id 0, padded with -1."""

    def __init__(self, texts: dict[str, list[np.ndarray]], seed: int) -> None:
        self.texts = {name: sorted(some, key=len) for name, some in texts.items()}
        self.random = random.Random(seed)

    def _part(self, length: int) -> np.ndarray:
        text = self.random.choice(self.texts["long"])
        start = self.random.randrange(max(1, len(text) - length // 2))
        return text[start:start + length]

    def next(self, limit: int) -> Tensor:
        name = self.random.choices(list(SHARES), list(SHARES.values()))[0]
        if name == "long":
            chosen = [self._part(limit - 1) for _ in range(TOKENS // limit)]
        else:
            texts = self.texts[name]
            middle = self.random.randrange(len(texts))
            near = range(max(0, middle - NEAR), min(len(texts), middle + NEAR))
            longest = min(limit - 1, len(texts[near[-1]]))
            chosen = [texts[i] for i in self.random.choices(near, k=TOKENS // (longest + 1))]
        chosen = [c[:limit - 1] for c in chosen]
        ids = np.full((len(chosen), max(map(len, chosen)) + 1), -1, np.int64)
        for row, text in zip(ids, chosen, strict=True):
            row[0] = 0
            row[1:len(text) + 1] = text
        return torch.from_numpy(ids)


def bits(network: TextEntropyNet, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Total bits and number of tokens of a padded batch."""
    inputs, targets = ids[:, :-1].clamp_min(0), ids[:, 1:]
    position = torch.arange(inputs.shape[1], device=ids.device).expand(inputs.shape)
    logits, *_ = network.step(inputs, position, *network.empty_memory(len(ids)))
    told = targets >= 0
    return bits_of(targets[told], logits[told]).sum(), told.sum()


@torch.no_grad()
def bits_per_character(network: TextEntropyNet, tokenizer: TextTokenizer,
                       texts: list[str]) -> float:
    """Ideal bits a character of ``texts``, each coded by itself."""
    total, device = 0.0, network.rotations.device
    for text in texts:
        ids = np.concatenate([[0], tokenizer.encode(text)])[:network.config.positions]
        total += float(bits(network, torch.from_numpy(ids)[None].to(device))[0])
    return total / sum(map(len, texts))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--other", type=Path, required=True,
                        help="what unimic.cloud.training.other_languages collected")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    run_options(parser, minutes=30, rate=2e-3)
    parser.add_argument("--start", type=Path, help="weights.safetensors to go on from")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    device = default_device()
    tokenizer = TextTokenizer(args.tokenizer)
    network = TextEntropyNet(TextEntropyConfig()).to(device)
    if args.start:
        load_exact(args.start, network)
    average = Average(network, 0.998)
    parts = optimizers(network, network.layers, args.rate)
    run = Run(args.out, args.minutes, args.rate, made_for={"--tokenizer": mark(args.tokenizer)})
    state = {"model": network, "average": average.module, **parts}
    run.restore(state)
    texts = sequences(args.data, args.other, tokenizer)
    batches = Batches(texts, seed=args.seed + run.step)
    dev = [c.captions[0] for c in read_captions(args.data).values() if c.split == "dev"][:200]

    for fraction in rounded_late(run, QUANTISED_FROM, network, average):
        with autocast(device):
            total, count = bits(network, batches.next(network.config.positions).to(device))
        loss = total / count
        run.descend(fraction, network, loss, parts)
        average.update(network, run.step)
        run.log(bits_per_token=loss)
        if run.keep(state):
            figure = bits_per_character(average.module, tokenizer, dev)
            print(f"dev captions: {figure:.3f} bits a character", flush=True)
    run.save(state)


if __name__ == "__main__":
    command(main)
