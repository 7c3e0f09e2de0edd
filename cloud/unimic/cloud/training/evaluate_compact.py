"""A quick look, while training, at what the compact model of the store makes of test tokens.

    python -m unimic.cloud.training.evaluate_compact --data DATA --tokens TOKENS --json FIGURES.json

* easy-VQA test: share of right answers, drawings enlarged to 224×224, and at their own 64×64.
* DAQUAR eval: exact matches.
* Text to image: "a red circle" and the like, judged by the model's own answers.
* Emoji: what the names of unseen ones tell about their tokens.
* Inpainting: token accuracy and bits a token for the middle 6×6 of the Flickr8k test photos.
* Seconds for each task at 256×256 pixels.

``unimic measure tasks`` has the figures to report: through a service, beside other methods.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import easy_vqa
import numpy as np
import torch
from PIL import Image

from unimic.cloud.backends.base import AnswerRequest, FillRequest, GenerateRequest
from unimic.cloud.backends.compact import PROMPT_TOKENS, CompactBackend, load
from unimic.cloud.models.compact import LOW, PROMPT, left_padded
from unimic.cloud.training import shapes
from unimic.cloud.training.command import command
from unimic.cloud.training.data import read_questions
from unimic.cloud.training.grids import load_grids
from unimic.codec.progress import ignore
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, Mask

SEEDS = 2  # of each drawing


def answers(backend: CompactBackend, codes: Codes, questions: list[str]) -> list[str]:
    """What is said to each question about one image."""
    requests = [AnswerRequest(codes, question, backend.defaults) for question in questions]
    return [answer.text for answer in backend.answer(requests, ignore)]


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
    """Share of exact matches on the first ``count`` images of DAQUAR eval, cut to whole tokens."""
    def plain(answer: str) -> str:
        return answer.replace("_", " ").lower().strip()

    grids = dict(load_grids(tokens / "daquar-eval.npz"))
    asked = defaultdict(list)
    for q in read_questions(data, "eval"):
        asked[q.image].append((q.question, q.answer))
    right = total = 0
    for image, pairs in list(asked.items())[:count]:
        said = answers(backend, grids[image], [q for q, _ in pairs])
        right += sum(plain(a) == plain(b) for a, (_, b) in zip(said, pairs, strict=True))
        total += len(pairs)
    return {"daquar_exact_match_whole_tokens": right / total}


def text_to_image(backend: CompactBackend) -> float:
    """How often the model sees in its own drawing the colour and shape that were asked for."""
    judged = []
    for colour in shapes.COLOURS:
        for shape in shapes.SHAPES:
            for seed in range(SEEDS):
                sampling = replace(backend.defaults, seed=seed)
                codes = backend.generate(
                    [GenerateRequest(f"a {colour} {shape}", 14, 14, sampling)], ignore)[0]
                judged.append(answers(backend, codes, [
                    "what color is the shape?", "what shape is in the image?"]) == [colour, shape])
    return sum(judged) / len(judged)


@torch.inference_mode()
def bits(backend: CompactBackend, codes: Codes, hidden: Mask, prompt: str) -> tuple[float, float]:
    """Bits of the hidden tokens, and how many of them are the likeliest ones."""
    grid, mask = (torch.from_numpy(array)[None].to(backend.device) for array in (codes, hidden))
    words = left_padded([[PROMPT, *backend.words(prompt, PROMPT_TOKENS)]], backend.device)
    features = backend.model.look(grid.long(), mask, words)[0][mask.flatten(1)]
    true = grid[mask].long()
    high = backend.model.high_logits(features).log_softmax(-1)
    guess = high.argmax(-1)
    guess = guess * LOW + backend.model.low_logits(features, guess).argmax(-1)
    low = backend.model.low_logits(features, true // LOW).log_softmax(-1)
    nats = high.gather(1, (true // LOW)[:, None]) + low.gather(1, (true % LOW)[:, None])
    return -float(nats.sum()) / math.log(2), int((guess == true).sum())


def inpainting(backend: CompactBackend, tokens: Path, count: int) -> dict[str, float]:
    """Accuracy of the likeliest tokens and cost in bits of the true ones, middle 6×6 of 14×14."""
    grids = [codes for _, codes in load_grids(tokens / "flickr-test.npz")[:count]]
    hidden = np.zeros(grids[0].shape, bool)
    hidden[4:10, 4:10] = True
    cost, right = np.sum([bits(backend, codes, hidden, "") for codes in grids], 0)
    total = len(grids) * int(hidden.sum())
    return {"inpainting_likeliest_token_accuracy": float(right / total),
            "inpainting_bits_a_token": float(cost / total)}


def emoji(backend: CompactBackend, tokens: Path, count: int) -> dict[str, float]:
    """What names say about emoji that were not trained on.

    Bits a token with the name as prompt and without one, and how often an emoji is likelier with
    its own name than with that of the next one in a shuffled list (chance: 0.5).
    """
    known = load_grids(tokens / "emoji-test.npz")
    known = [known[i] for i in np.random.default_rng(0).permutation(len(known))[:count]]
    costs = []
    for (name, codes), (other, _) in zip(known, known[1:] + known[:1], strict=True):
        everything = np.ones(codes.shape, bool)
        costs.append([bits(backend, codes, everything, prompt)[0] / codes.size
                      for prompt in (name, other, "")])
    named, misnamed, nameless = np.array(costs).T
    return {"emoji_bits_a_token_named": float(named.mean()),
            "emoji_bits_a_token_nameless": float(nameless.mean()),
            "emoji_own_name_likelier": float(np.mean(named < misnamed))}


def seconds(backend: CompactBackend) -> dict[str, float]:
    """Time of each task at 16×16 tokens, with the default sampling; the better of two."""
    codes = np.random.default_rng(0).integers(0, 8192, (16, 16)).astype(np.int32)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    tasks: dict[str, Callable[[], object]] = {
        "generate": lambda: backend.generate(
            [GenerateRequest("two dogs run on a beach", 16, 16, backend.defaults)], ignore),
        "fill": lambda: backend.fill(
            [FillRequest(codes, mask, "a red vase", backend.defaults)], ignore),
        "answer": lambda: backend.answer(
            [AnswerRequest(codes, "what is on the table?", backend.defaults)], ignore),
        "caption": lambda: backend.answer([AnswerRequest(codes, "", backend.defaults)], ignore),
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
        lambda: {"drawing_right_by_own_answers": text_to_image(backend)},
        lambda: inpainting(backend, args.tokens, args.images),
        lambda: emoji(backend, args.tokens, args.images),
        lambda: daquar(backend, args.data, args.tokens, args.images),
    )
    for part in parts:
        found = {name: round(value, 4) for name, value in part().items()}
        print(json.dumps(found, indent=2), flush=True)
        figures |= found
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
