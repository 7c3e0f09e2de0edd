"""The Show-o backend.

The model was trained on squares of 16 × 16 (or, ``show-o-512x512``, 32 × 32) tokens, which it reads
row by row without being told where a row ends. Other grids are never cropped:

* A grid that is lower or narrower stands in the middle of a square whose other tokens are hidden;
  they are drawn along, and left out.
* A larger one is filled in squares, those with most known surroundings first, each seeing what is
  known and what was made before it.
* A question about another grid is answered from a square view: the tokens are decoded, the picture
  is scaled to fit the square and the rest of it is grey, its tokens are taken. Nothing of this
  view leaves the cloud.

A prompt counts as far as its first 126 text tokens, a question as far as 256 hold it with the words
around it; the rest is ignored. Answers are the likeliest next word, whatever the seed and the
temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedTokenizerBase

from unimic.cloud.backends.base import (
    Answer,
    AnswerRequest,
    Backend,
    FillRequest,
    Sampling,
    Watch,
)
from unimic.cloud.backends.show_o.checkpoint import digest, find_checkpoint
from unimic.cloud.backends.show_o.magvit import PATCH, Magvit, load_magvit
from unimic.cloud.backends.show_o.model import ShowO, load_show_o
from unimic.cloud.backends.show_o.sampling import Drawing
from unimic.cloud.backends.windows import batches, fill_by_windows
from unimic.codec.errors import UnknownModel
from unimic.codec.store import IMAGE_TOKENIZER, ModelStore
from unimic.codec.tokens import Codes, TokenSpace

CHECKPOINT = "checkpoint"
"""Figure of the exported image tokenizer that names the weights it was made of."""

QUESTION, CUE = "USER: \n{} ASSISTANT:", " ASSISTANT:"
CAPTION = "Please describe this image."
QUESTION_TOKENS, ANSWER_TOKENS = 256, 100
GREY = (128, 128, 128)


class GuidedDrawings:
    """Squares of image tokens that are drawn together, each with its prompt and guidance.

    Guidance is classifier-free (Ho and Salimans, arXiv 2207.12598): what the prompt changes in the
    logits is added once more, times the guidance.
    """

    def __init__(self, model: ShowO, drawings: list[Drawing], prompts: list[list[int]],
                 guidance: list[float]) -> None:
        self._model, self._drawings, self._guidance = model, drawings, guidance
        self._guided = [i for i, strength in enumerate(guidance) if strength]
        ids = model.vocabulary.prompts(prompts + [[] for _ in self._guided])
        visible = model.vocabulary.drawing_visible(ids, model.side ** 2 + 2)
        start = ids.shape[1]
        _, self._memory = model.read(ids, visible[..., :start, :start])
        self._visible = visible[..., start:, :]

    def advance(self) -> None:
        """Do one step of each drawing."""
        shown = self._drawings + [self._drawings[i] for i in self._guided]
        images = self._model.vocabulary.image(torch.stack([d.codes for d in shown]),
                                              torch.stack([d.hidden for d in shown]))
        logits = self._model.image_logits(self._memory, images, self._visible)
        for unprompted, i in zip(logits[len(self._drawings):], self._guided, strict=True):
            logits[i] += self._guidance[i] * (logits[i] - unprompted)
        for drawing, found in zip(self._drawings, logits, strict=False):
            drawing.take(found.cpu())


class ShowOBackend(Backend):
    """See the module.

    Args:
        model: in evaluation mode, on its device.
        text: its text tokenizer.
        magvit: its image tokenizer, on the same device.
        space: of the tokens that come and go.
    """

    name = "show-o"
    max_tokens = 65_536

    def __init__(self, model: ShowO, text: PreTrainedTokenizerBase, magvit: Magvit,
                 space: TokenSpace) -> None:
        self.model, self.text, self.magvit, self.space = model, text, magvit, space
        steps, guidance = (18, 1.75) if model.side <= 16 else (50, 5.0)  # as published for each
        self.defaults = Sampling(seed=0, steps=steps, temperature=1.0, guidance=guidance)

    def fill_defaults(self, prompt: str, seed: int) -> Sampling:
        """See `Backend`; as published for inpainting and extrapolation."""
        return replace(self.defaults, steps=16, guidance=1.75)

    @torch.inference_mode()
    def fill(self, requests: Sequence[FillRequest], watch: Watch) -> list[Codes]:
        """See `Backend`."""
        return fill_by_windows(requests, self.model.side, self._draw, watch)

    def _draw(self, requests: list[FillRequest], chances: list[torch.Generator], watch: Watch
              ) -> list[Codes]:
        """Fill the masks of grids of one shape that fit the square."""
        side, shape, steps = self.model.side, requests[0].shape, requests[0].sampling.steps
        place = tuple(slice((side - size) // 2, (side - size) // 2 + size) for size in shape)
        drawings = []
        for request, chance in zip(requests, chances, strict=True):
            codes, hidden = np.zeros((side, side), np.int64), np.ones((side, side), bool)
            codes[place], hidden[place] = request.codes, request.mask
            drawings.append(Drawing(
                torch.from_numpy(codes).flatten(), torch.from_numpy(hidden).flatten(), steps,
                request.sampling.temperature, chance))
        prompts = [self.text.encode(r.prompt) for r in requests]
        guidance = [r.sampling.guidance if r.prompt else 0.0 for r in requests]
        guided = [GuidedDrawings(self.model, drawings[part], prompts[part], guidance[part])
                  for part in batches(len(requests), self.model.device)]
        for step in range(1, steps + 1):
            for batch in guided:
                batch.advance()
            watch(step, steps)
        return [d.codes.view(side, side)[place].numpy().astype(np.int32) for d in drawings]

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest], watch: Watch) -> list[Answer]:
        """See `Backend`.

        The confidence is the geometric mean of the probabilities of the answer's tokens.
        """
        parts = batches(len(requests), self.model.device)
        answers: list[Answer] = []
        for turn, part in enumerate(parts):
            def watch_part(step: int, before: int = turn * ANSWER_TOKENS) -> None:
                watch(before + step, len(parts) * ANSWER_TOKENS)

            asked = requests[part]
            codes = torch.from_numpy(np.stack(
                [self._view(r.codes, partial(watch_part, 0)) for r in asked]))
            for said, confidence in self.say(
                    codes.long().flatten(1), [self._question(r.question) for r in asked],
                    watch_part):
                text = str(self.text.decode(said, skip_special_tokens=True))
                answers.append(Answer(text.strip(), confidence))
        return answers

    def say(self, codes: torch.Tensor, questions: list[list[int]], watch_step: Callable[[int], None]
            ) -> list[tuple[list[int], float]]:
        """Answers to ``questions`` about images ``(B, n)``: text ids and confidence of each."""
        vocabulary = self.model.vocabulary
        ids = vocabulary.questions(codes, questions)
        visible = vocabulary.answering_visible(ids, codes.shape[1] + 2)
        features, memory = self.model.read(ids, visible)
        said: list[list[int]] = [[] for _ in questions]
        sums, counts = [0.0] * len(questions), [0] * len(questions)
        open_ = set(range(len(questions)))
        for step in range(1, ANSWER_TOKENS + 1):
            odds = self.model.word_logits(features).log_softmax(-1).cpu()
            words = odds.argmax(-1)
            for i in sorted(open_):
                sums[i] += float(odds[i, words[i]])
                counts[i] += 1
                if int(words[i]) == vocabulary.boundary:
                    open_.discard(i)
                else:
                    said[i].append(int(words[i]))
            watch_step(step if open_ else ANSWER_TOKENS)
            if not open_:
                break
            features, memory = self.model.next_features(memory, words)
        return [(words, math.exp(total / count))
                for words, total, count in zip(said, sums, counts, strict=True)]

    def _question(self, question: str) -> list[int]:
        ids: list[int] = self.text.encode(QUESTION.format(question.strip() or CAPTION))
        if len(ids) > QUESTION_TOKENS:
            cue: list[int] = self.text.encode(CUE)
            ids = ids[:QUESTION_TOKENS - len(cue)] + cue
        return ids

    def _view(self, codes: Codes, alive: Callable[[], None]) -> Codes:
        """The grid as the square that the model looks at; ``alive`` is called on the way."""
        side = self.model.side
        if codes.shape == (side, side):
            return codes
        picture = Image.fromarray(self._pixels(codes, alive))
        scale = side * PATCH / max(picture.size)
        picture = picture.resize([max(1, round(length * scale)) for length in picture.size],
                                 Image.Resampling.BICUBIC)
        square = Image.new("RGB", (side * PATCH, side * PATCH), GREY)
        square.paste(picture, ((square.width - picture.width) // 2,
                               (square.height - picture.height) // 2))
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255
        view: Codes = self.magvit.encode(pixels.to(self.model.device))[0].cpu().numpy()
        return view

    def _pixels(self, codes: Codes, alive: Callable[[], None]) -> NDArray[np.uint8]:
        """The picture of a grid, ``(height, width, 3)``, made in squares to bound the memory."""
        side = self.model.side
        rows = []
        for top in range(0, codes.shape[0], side):
            row = []
            for left in range(0, codes.shape[1], side):
                tile = torch.from_numpy(codes[None, top:top + side, left:left + side]).long()
                pixels = self.magvit.decode(tile.to(self.model.device))[0].permute(1, 2, 0)
                row.append((pixels * 255).round().byte().cpu().numpy())
                alive()
            rows.append(np.concatenate(row, 1))
        return np.concatenate(rows, 0)


def load(store: ModelStore, device: str = "cpu", weights: str | None = None) -> ShowOBackend:
    """The backend of a checkpoint, see `find_checkpoint`.

    Raises:
        UnknownModel: the checkpoint is not whole, or the store's tokens are not its tokens.
        CorruptData: it does not fit.
    """
    found = find_checkpoint(weights)
    magvit = load_magvit(found.magvit)
    if store.entry(IMAGE_TOKENIZER).figures.get(CHECKPOINT) != digest(magvit):
        raise UnknownModel("models", f"the image tokens of {store.folder} are not those of "
                           f"{found.magvit}", "export them with python -m "
                           "unimic.cloud.training.export_show_o and name the folder in "
                           "UNIMIC_MODELS, here and at the clients")
    model, text = load_show_o(found, device)
    return ShowOBackend(model, text, magvit.to(device), store.space())
