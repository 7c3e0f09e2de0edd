"""Measure the compact model of the store on what it was not trained on.

    python -m unimic.cloud.training.evaluate_compact --data DATA --tokens TOKENS --json FIGURES.json

* easy-VQA test: share of right answers, drawings enlarged to 224×224, and at their own 64×64.
* DAQUAR eval: exact matches, beside always giving the training set's most frequent answer to the
  question's type (its first two words).
* Text to image: "a red circle" and the like, judged by the model's own answers and, decoded, by
  the colour of the pixels that stand out.
* Inpainting: token accuracy and bits a token for the middle 6×6 of the Flickr8k test photos,
  beside copying the nearest known token.
* Seconds for each task at 256×256 pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import easy_vqa
import numpy as np
import torch
from PIL import Image

from unimic.cloud.backends.base import AnswerRequest, FillRequest, GenerateRequest, Sampling
from unimic.cloud.backends.compact import PROMPT_TOKENS, CompactBackend, load
from unimic.cloud.models.compact import (
    ANSWER,
    ASK,
    END,
    LOW,
    PROMPT,
    TEXT_CODES,
    Batch,
    left_padded,
    packed_texts,
)
from unimic.cloud.training import shapes
from unimic.cloud.training.data import read_questions
from unimic.cloud.training.grids import load_grids
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes

RGB = {"black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128),
       "green": (0, 128, 0), "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0)}


@torch.inference_mode()
def answers(backend: CompactBackend, codes: Codes, questions: list[str], most: int = 12
            ) -> list[str]:
    """What ``backend.answer`` says to all ``questions`` about one image, in a few passes."""
    texts = [[ASK, *backend.words(q, PROMPT_TOKENS), ANSWER] for q in questions]
    lengths = [len(text) for text in texts]
    grid = torch.from_numpy(codes).long()[None]
    nothing = torch.empty(1, 0, dtype=torch.long)
    allowed = [*range(1, TEXT_CODES), END]
    open_ = set(range(len(texts)))
    for step in range(most):
        batch = Batch(grid, torch.zeros_like(grid, dtype=torch.bool), nothing,
                      *packed_texts([texts]))
        features = backend.model(batch.to(backend.device))[1][0]
        ends = np.cumsum([len(text) for text in texts]) - 1
        logits = backend.model.word_logits(features[ends])[:, allowed].cpu()
        if step == 0:
            logits[:, -1] = -math.inf
        for i, best in enumerate(logits.argmax(-1).tolist()):
            if i in open_ and allowed[best] == END:
                open_.discard(i)
            elif i in open_:
                texts[i].append(allowed[best])
        if not open_:
            break
    return [backend.words.spell(text[n:]) for text, n in zip(texts, lengths, strict=True)]


def encode(backend: CompactBackend, image: Image.Image) -> Codes:
    """Tokens as an edge device makes them; sides divisible by 16."""
    pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
    codes: Codes = backend.view.run("encoder", np.ascontiguousarray(pixels))[0].astype(np.int32)
    return codes


def easy_vqa_accuracy(backend: CompactBackend, side: int, count: int) -> float:
    """Share of right answers about the first ``count`` drawings of the easy-VQA test split."""
    asked = defaultdict(list)
    for number, question, answer in shapes.test_questions():
        asked[number].append((question, answer))
    paths, right, total = easy_vqa.get_test_image_paths(), 0, 0
    for number, pairs in sorted(asked.items())[:count]:
        image = Image.open(paths[number]).convert("RGB")
        codes = encode(backend, image.resize((side, side), Image.Resampling.BICUBIC))
        said = answers(backend, codes, [q for q, _ in pairs])
        right += sum(a == b for a, (_, b) in zip(said, pairs, strict=True))
        total += len(pairs)
    return right / total


def daquar(backend: CompactBackend, data: Path, tokens: Path, count: int) -> dict[str, float]:
    """Exact matches on DAQUAR eval, the model's and the baseline's."""
    def kind(question: str) -> str:
        return " ".join(question.lower().split()[:2])

    def same(a: str, b: str) -> bool:
        return a.replace("_", " ").lower().strip() == b.replace("_", " ").lower().strip()

    frequent: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for q in read_questions(data, "train"):
        frequent[kind(q.question)][q.answer] += 1
        overall[q.answer] += 1
    grids = dict(load_grids(tokens / "daquar-eval.npz"))
    asked = defaultdict(list)
    for q in read_questions(data, "eval"):
        asked[q.image].append(q)
    right = baseline = total = 0
    for image, questions in list(asked.items())[:count]:
        said = answers(backend, grids[image], [q.question for q in questions])
        for answer, q in zip(said, questions, strict=True):
            usual = frequent.get(kind(q.question), overall).most_common(1)[0][0]
            right += same(answer, q.answer)
            baseline += same(usual, q.answer)
            total += 1
    return {"daquar_exact_match": right / total, "daquar_most_frequent_answer": baseline / total}


def colour_that_stands_out(backend: CompactBackend, codes: Codes) -> str:
    """The named colour nearest to the tenth of the pixels that differ most from the border."""
    pixels = backend.view.run("decoder", codes[None])[0].transpose(1, 2, 0) * 255
    border = np.median(np.concatenate([pixels[:8].reshape(-1, 3), pixels[-8:].reshape(-1, 3)]), 0)
    apart = np.abs(pixels - border).sum(-1)
    colour = np.median(pixels[apart >= np.quantile(apart, 0.95)], 0)
    return min(RGB, key=lambda name: float(np.square(colour - RGB[name]).sum()))


def text_to_image(backend: CompactBackend, seeds: int = 2) -> dict[str, float]:
    """How often a drawing that was asked for has the right colour and shape."""
    judged, seen, total = 0, 0, 0
    for colour in shapes.COLOURS:
        for shape in shapes.SHAPES:
            for seed in range(seeds):
                sampling = replace(backend.defaults, seed=seed)
                codes = backend.generate(
                    [GenerateRequest(f"a {colour} {shape}", 14, 14, sampling)], _nobody)[0]
                said = answers(backend, codes,
                               ["what color is the shape?", "what shape is in the image?"])
                judged += said == [colour, shape]
                seen += colour_that_stands_out(backend, codes) == colour
                total += 1
    return {"drawing_right_by_own_answers": judged / total, "drawing_right_colour": seen / total}


@torch.inference_mode()
def inpainting(backend: CompactBackend, tokens: Path, count: int) -> dict[str, float]:
    """Token accuracy of the likeliest fill and its cost in bits, for the middle 6×6 of 14×14."""
    inner = slice(4, 10)
    right = copied = made = 0
    bits, hidden = 0.0, 0
    sampling = Sampling(seed=0, steps=12, temperature=0.0, guidance=0.0)
    for _, codes in load_grids(tokens / "flickr-test.npz")[:count]:
        mask = np.zeros(codes.shape, bool)
        mask[inner, inner] = True
        grid = torch.from_numpy(codes).long()[None]
        nothing = torch.empty(1, 0, dtype=torch.long)
        features = backend.model(Batch(grid, torch.from_numpy(mask)[None], left_padded([[PROMPT]]),
                                       nothing, nothing, nothing).to(backend.device))[0][0]
        features = features[mask.ravel()]
        true = grid.flatten()[mask.ravel()]
        high = backend.model.high_logits(features).log_softmax(-1).cpu()
        given = high.argmax(-1)
        guess = given * LOW + backend.model.low_logits(features, given).cpu().argmax(-1)
        low = backend.model.low_logits(features, true // LOW).log_softmax(-1).cpu()
        chosen = (high.gather(1, (true // LOW)[:, None]) + low.gather(1, (true % LOW)[:, None]))
        bits -= float(chosen.sum()) / math.log(2)
        right += int((guess == true).sum())
        filled = backend.fill([FillRequest(codes, mask, "", sampling)], _nobody)[0]
        made += int((filled == codes)[mask].sum())
        nearest = codes.copy()
        for row, column in np.argwhere(mask):
            steps = {(3, column): row - 3, (10, column): 10 - row,
                     (row, 3): column - 3, (row, 10): 10 - column}
            nearest[row, column] = codes[min(steps, key=lambda place: steps[place])]
        copied += int((nearest == codes)[mask].sum())
        hidden += int(mask.sum())
    return {"inpainting_token_accuracy": right / hidden,
            "inpainting_token_accuracy_in_12_steps": made / hidden,
            "inpainting_token_accuracy_copying_nearest": copied / hidden,
            "inpainting_bits_a_token": bits / hidden}


def seconds(backend: CompactBackend) -> dict[str, float]:
    """Time of each task at 16×16 tokens, with the default sampling; the better of two."""
    codes = np.random.default_rng(0).integers(0, 8192, (16, 16)).astype(np.int32)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    tasks: dict[str, Callable[[], object]] = {
        "generate": lambda: backend.generate(
            [GenerateRequest("two dogs run on a beach", 16, 16, backend.defaults)], _nobody),
        "fill": lambda: backend.fill(
            [FillRequest(codes, mask, "a red vase", backend.defaults)], _nobody),
        "answer": lambda: backend.answer(
            [AnswerRequest(codes, "what is on the table?", backend.defaults)], _nobody),
        "caption": lambda: backend.answer([AnswerRequest(codes, "", backend.defaults)], _nobody),
    }
    found = {}
    for name, task in tasks.items():
        times = []
        for _ in range(2):
            start = time.perf_counter()
            task()
            times.append(time.perf_counter() - start)
        found[f"seconds_{name}"] = min(times)
    return found


def _nobody(step: int, steps: int) -> None:
    """Nobody watches."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the questions")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the photos' tokens")
    parser.add_argument("--store", type=Path, help="model store, if not the package's")
    parser.add_argument("--weights", help="weights in place of the store's")
    parser.add_argument("--images", type=int, default=1000, help="of each test set, at most")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args(argv)
    store = ModelStore(args.store) if args.store else ModelStore.default()
    backend = load(store, "cuda" if torch.cuda.is_available() else "cpu", args.weights)
    figures = {"test_images": float(args.images),
               "parameters": float(sum(p.numel() for p in backend.model.parameters()))}
    parts: tuple[Callable[[], dict[str, float]], ...] = (
        lambda: seconds(backend),
        lambda: {f"easy_vqa_accuracy_{side}": easy_vqa_accuracy(backend, side, args.images)
                 for side in (224, 64)},
        lambda: text_to_image(backend),
        lambda: inpainting(backend, args.tokens, args.images),
        lambda: daquar(backend, args.data, args.tokens, args.images),
    )
    for part in parts:
        found = {name: round(value, 4) for name, value in part().items()}
        print(json.dumps(found, indent=2), flush=True)
        figures |= found
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
