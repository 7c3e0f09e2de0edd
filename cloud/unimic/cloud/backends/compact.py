"""The embedded backend: the project's own compact model, small enough for a CPU.

A hole that nothing is said about is painted: filled at once, as near to what was there as can be
expected (`unimic.cloud.models.compact.Painter`). With a prompt, a seed or a temperature above 0,
tokens are drawn.

They are drawn as in MaskGIT (Chang et al., arXiv 2202.04200, section 3.2): all hidden tokens are
predicted at once, some are kept, by chance and the surest rather than the others, and the rest is
predicted again, fewer and fewer along a cosine.
Guidance is classifier-free (Ho and Salimans, arXiv 2207.12598). Answers and captions are the
likeliest next word, one after the other, whatever the seed and the temperature.

What the model takes at once is bounded, what a user may ask is not:

* A prompt or a question counts as far as its first 64 text tokens (some 50 words); the rest is
  ignored. Case and closing punctuation do not matter.
* A grid of more than 20 rows or columns is filled in windows of 20 × 20 tokens, those with most
  known surroundings first, each seeing what is known and what was made before it.
* A question about a grid of more than 24 rows or columns or 384 tokens is answered from a smaller
  view: the tokens are decoded, the picture is reduced, its tokens are taken. Nothing of this view
  leaves the cloud.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimic.cloud.backends.base import (
    Answer,
    AnswerRequest,
    Backend,
    FillRequest,
    GenerateRequest,
    Sampling,
    Watch,
)
from unimic.cloud.backends.windows import batches, fill_by_windows
from unimic.cloud.models.compact import (
    ANSWER,
    ASK,
    CAPTION,
    END,
    LOW,
    PROMPT,
    TEXT_CODES,
    Compact,
    CompactConfig,
    Memory,
    Words,
    left_padded,
    packed_texts,
    unpacked,
)
from unimic.codec.errors import CorruptData, UnknownModel
from unimic.codec.networks import WEIGHTS
from unimic.codec.proof import METADATA
from unimic.codec.runtime import Session, open_graph
from unimic.codec.store import IMAGE_TOKENIZER, ModelStore
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import PITCH, Codes, TokenSpace

PROMPT_TOKENS = 64
ANSWER_TOKENS = 32
SIDE = 20
VIEW_SIDE, VIEW_TOKENS = 24, 384
CHOICE_NOISE = 8.0
"""How far chance, at temperature 1, moves the order in which tokens are settled (nats).

Much: where the surest tokens come first, plain background spreads and leaves no room for a thing.
"""


CANDIDATES = 4
SEED_STEP = 1_000_003  # between the seeds of candidates, so that neighbouring seeds share none


class View:
    """Reduces a large grid to one that the model can look at, by way of pixels."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.sessions: dict[str, Session] = {}

    def run(self, name: str, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """Output of the image tokenizer's half ``name``, ``encoder`` or ``decoder``."""
        if name not in self.sessions:
            self.sessions[name] = open_graph(self.store.path(IMAGE_TOKENIZER, f"{name}.onnx"))
        session = self.sessions[name]
        output: NDArray[np.generic] = session.run(
            [session.get_outputs()[0].name], {session.get_inputs()[0].name: inputs})[0]
        return output

    def reduce(self, codes: Codes, rows: int, columns: int, watch: Callable[[], None]) -> Codes:
        """The same picture in ``rows`` × ``columns`` tokens; what ``watch`` raises ends the work.
        """
        height, width = codes.shape
        canvas = np.zeros((height * PITCH, width * PITCH, 3), np.uint8)
        for top in range(0, height, SIDE):  # tiles, so that memory stays bounded
            watch()
            for left in range(0, width, SIDE):
                tile = np.ascontiguousarray(codes[None, top:top + SIDE, left:left + SIDE])
                pixels = self.run("decoder", tile)[0].transpose(1, 2, 0)
                canvas[top * PITCH:top * PITCH + pixels.shape[0],
                       left * PITCH:left * PITCH + pixels.shape[1]] = np.rint(pixels * 255)
        small = Image.fromarray(canvas).resize(
            (columns * PITCH, rows * PITCH), Image.Resampling.BICUBIC)
        pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None] / 255
        reduced: Codes = self.run("encoder", np.ascontiguousarray(pixels))[0].astype(np.int32)
        return reduced


def view_shape(rows: int, columns: int) -> tuple[int, int]:
    """The largest shape of about the same aspect that the model looks at directly."""
    scale = min(1.0, VIEW_SIDE / max(rows, columns), math.sqrt(VIEW_TOKENS / (rows * columns)))
    return max(1, int(rows * scale)), max(1, int(columns * scale))


class CompactBackend(Backend):
    """See the module.

    Args:
        model: in evaluation mode, on its device.
        words: the project's text tokens.
        space: that the model was trained in.
        view: reduces large grids.
    """

    name = "compact"
    defaults = Sampling(seed=0, steps=16, temperature=0.9, guidance=1.5)
    max_tokens = 65_536

    def __init__(self, model: Compact, words: Words, space: TokenSpace, view: View) -> None:
        self.model, self.words, self.space, self.view = model, words, space, view
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def generate(self, requests: Sequence[GenerateRequest], watch: Watch) -> list[Codes]:
        """See `Backend`. Of `CANDIDATES` drawings the one whose caption is likeliest the prompt.

        As DALL·E's samples are ranked (Ramesh et al., arXiv 2102.12092, section 2.6), but by the
        model itself. Where there is no prompt, no chance, or a grid of several windows, there is
        one drawing.
        """
        count = CANDIDATES if max(requests[0].shape) <= SIDE else 1
        tries = [[_another(r, k) for k in range(
            count if r.prompt.strip() and r.sampling.temperature else 1)] for r in requests]
        drawn = iter(super().generate([one for some in tries for one in some], watch))
        chosen = []
        for request, some in zip(requests, tries, strict=True):
            candidates = list(islice(drawn, len(some)))
            fits = self._caption_fits(candidates, request.prompt) if len(some) > 1 else [0.0]
            chosen.append(candidates[int(np.argmax(fits))])
        return chosen

    def _caption_fits(self, grids: list[Codes], caption: str) -> list[float]:
        """Log-probability of the caption under each grid."""
        ids = [CAPTION, *self.words(caption, PROMPT_TOKENS), END]
        memory = self._look(grids)
        fits = []
        for part in batches(len(grids), self.device):
            some = range(len(grids))[part]
            features = self._read(memory.take(some), [ids] * len(some))
            odds = self.model.word_logits(features[:, :-1]).float().log_softmax(-1).cpu()
            fits += odds[:, range(len(ids) - 1), ids[1:]].sum(-1).tolist()
        return fits

    def fill_defaults(self, prompt: str, seed: int) -> Sampling:
        """See `Backend`. With neither prompt nor seed there is no chance."""
        left_to_us = not prompt.strip() and not seed
        return replace(self.defaults, temperature=0.0) if left_to_us else self.defaults

    @torch.inference_mode()
    def fill(self, requests: Sequence[FillRequest], watch: Watch) -> list[Codes]:
        """See `Backend`."""
        return fill_by_windows(requests, SIDE, self._paint_or_draw, watch)

    def _paint_or_draw(self, requests: list[FillRequest], chances: list[torch.Generator],
                       watch: Watch) -> list[Codes]:
        """Fill the masks of grids of one shape.

        Painted are those that know something, and have neither prompt nor chance. Where nothing is
        known at all, what is likeliest is black; such a picture needs chance.
        """
        requests = [replace(r, sampling=replace(r.sampling, temperature=self.defaults.temperature))
                    if r.mask.all() and not r.prompt.strip() else r for r in requests]
        drawn = [i for i, r in enumerate(requests)
                 if r.prompt.strip() or r.sampling.temperature]
        painted = sorted({*range(len(requests))} - {*drawn})
        filled = dict(zip(painted, self._paint([requests[i] for i in painted]), strict=True))
        if drawn:
            filled |= zip(drawn, self._draw([requests[i] for i in drawn],
                                            [chances[i] for i in drawn], watch), strict=True)
        else:
            watch(requests[0].sampling.steps, requests[0].sampling.steps)
        return [filled[i] for i in range(len(requests))]

    def _paint(self, requests: list[FillRequest]) -> list[Codes]:
        """Fill the masks of grids of one shape with what is expected there."""
        painted: list[Codes] = []
        for part in batches(len(requests), self.device):
            some = requests[part]
            codes = torch.from_numpy(np.stack([r.codes for r in some])).long()
            hidden = torch.from_numpy(np.stack([r.mask for r in some]))
            features = self._image_features(codes, hidden, [[PROMPT]] * len(some))
            latents = self.model.painter(features, some[0].shape)
            new = self.model.quantizer.codes(self.model.quantizer.digits(latents)).cpu()
            painted.extend(torch.where(hidden, new, codes).numpy().astype(np.int32))
        return painted

    def _draw(self, requests: list[FillRequest], chances: list[torch.Generator], watch: Watch
              ) -> list[Codes]:
        """Fill the masks of grids of one shape."""
        tokens = torch.from_numpy(np.stack([r.codes for r in requests])).long().flatten(1)
        hidden = torch.from_numpy(np.stack([r.mask for r in requests])).flatten(1)
        samplings = [r.sampling for r in requests]
        shape, total, steps = requests[0].shape, hidden.sum(1), samplings[0].steps
        prompted = [[PROMPT, *self.words(r.prompt, PROMPT_TOKENS)] for r in requests]
        guided = [i for i, s in enumerate(samplings) if s.guidance and len(prompted[i]) > 1]
        who = [*range(len(requests)), *guided]
        plain = torch.tensor([len(requests) + guided.index(i) if i in guided else i
                              for i in range(len(requests))])
        for step in range(1, steps + 1):
            features = self._image_features(
                tokens[who].unflatten(1, shape), hidden[who].unflatten(1, shape),
                prompted + [[PROMPT]] * len(guided))
            whose, where = hidden.nonzero().unbind(1)
            left = hidden.sum(1).tolist()
            drawn, sureness = self._sample(
                features[whose, where], features[plain[whose], where] if guided else None,
                samplings, chances, left)
            share = step / steps
            for i, (at, codes, sure) in enumerate(zip(
                    *(part.split(left) for part in (where, drawn, sureness)), strict=True)):
                noise = _gumbel((left[i],), chances[i])
                sure = sure + CHOICE_NOISE * samplings[i].temperature * (1 - share) * noise
                keep_hidden = int(total[i] * math.cos(share * math.pi / 2) + 1e-6)
                settled = sure.argsort(descending=True)[:max(left[i] - keep_hidden, 0)]
                tokens[i, at[settled]] = codes[settled]
                hidden[i, at[settled]] = False
            watch(step, steps)
        return [t.view(shape).numpy().astype(np.int32) for t in tokens]

    def _sample(self, features: Tensor, unprompted: Tensor | None, samplings: list[Sampling],
                chances: list[torch.Generator], counts: list[int]) -> tuple[Tensor, Tensor]:
        """Draw a code for each of ``(n, width)`` features; codes and log-probabilities ``(n,)``.

        ``counts[i]`` of them belong to request i. Chance is on the CPU, the same for every device.
        """
        of_each = torch.tensor(counts)
        guidance, temperature = (torch.tensor(values).repeat_interleave(of_each).unsqueeze(-1)
                                 for values in ([s.guidance for s in samplings],
                                                [s.temperature for s in samplings]))

        def choose(logits: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor]:
            if other is not None:
                logits = logits + guidance.to(self.device) * (logits - other)
            odds = F.log_softmax(logits.float(), -1).cpu()
            noise = torch.cat([_gumbel((count, odds.shape[1]), chance)
                               for count, chance in zip(counts, chances, strict=True)])
            drawn = (odds + temperature * noise).argmax(-1)
            return drawn, odds.gather(-1, drawn.unsqueeze(-1))[:, 0]

        model = self.model
        high, sure_high = choose(
            model.high_logits(features).log_softmax(-1),
            None if unprompted is None else model.high_logits(unprompted).log_softmax(-1))
        given = high.to(self.device)
        low, sure_low = choose(
            model.low_logits(features, given).log_softmax(-1),
            None if unprompted is None else model.low_logits(unprompted, given).log_softmax(-1))
        return high * LOW + low, sure_high + sure_low

    def _image_features(self, codes: Tensor, masks: Tensor, prompts: list[list[int]]) -> Tensor:
        """Features ``(B, h·w, width)`` of the images' tokens ``(B, h, w)``, after their prompts."""
        found = []
        for part in batches(len(codes), self.device):
            found.append(self.model.look(*(tensor.to(self.device) for tensor in (
                codes[part], masks[part], left_padded(prompts[part]))))[0])
        return torch.cat(found)

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest], watch: Watch) -> list[Answer]:
        """See `Backend`.

        The confidence of an answer is the probability that the model gives it; that of a caption,
        which is long, the geometric mean over its words.
        """
        different, which = _different([r.codes for r in requests])
        begin = partial(watch, 1, ANSWER_TOKENS)
        memory = self._look([self._looked_at(codes, begin) for codes in different])
        texts = [self._asked(r.question) for r in requests]
        lengths = [len(text) for text in texts]
        sums = [0.0] * len(requests)
        open_ = set(range(len(requests)))
        for step in range(1, ANSWER_TOKENS + 1):
            still = sorted(open_)
            for i, logits in zip(still, self._next_words(
                    memory, [which[i] for i in still], [texts[i] for i in still]), strict=True):
                odds = logits[[*range(TEXT_CODES), END]].log_softmax(-1)
                odds[0] = -math.inf  # the marker is no text
                if len(texts[i]) == lengths[i]:
                    odds[TEXT_CODES] = -math.inf  # something is always said
                best = int(odds.argmax())
                sums[i] += float(odds[best])
                if best == TEXT_CODES:
                    open_.discard(i)
                else:
                    texts[i].append(best)
            watch(step if open_ else ANSWER_TOKENS, ANSWER_TOKENS)
            if not open_:
                break
        answers = []
        for i, request in enumerate(requests):
            said = texts[i][lengths[i]:]
            words = 1 if request.question.strip() else len(said) + 1
            answers.append(Answer(self.words.spell(said), math.exp(sums[i] / words)))
        return answers

    def _asked(self, question: str) -> list[int]:
        if not question.strip():
            return [CAPTION]
        return [ASK, *self.words(question, PROMPT_TOKENS), ANSWER]

    def _looked_at(self, codes: Codes, watch: Callable[[], None]) -> Codes:
        shape = view_shape(*codes.shape)
        return codes if shape == codes.shape else self.view.reduce(codes, *shape, watch)

    def _look(self, grids: list[Codes]) -> Memory:
        """What texts see of the grids."""
        parts = []
        for part in batches(len(grids), self.device):
            codes = torch.from_numpy(np.stack(grids[part])).long().to(self.device)
            prompt = codes.new_empty(len(codes), 0)
            parts.append(self.model.look(codes, torch.zeros_like(codes, dtype=torch.bool), prompt))
        return Memory.joined([memory for _, memory in parts])

    def _read(self, memory: Memory, texts: list[list[int]]) -> Tensor:
        """Features ``(n, longest, width)`` of one text about each image of ``memory``."""
        return self.model.read(memory, *packed_texts([[text] for text in texts], self.device))

    def _next_words(self, memory: Memory, which: list[int], texts: list[list[int]]
                    ) -> list[Tensor]:
        """Logits of the word after each text about the images ``which``, on the CPU."""
        found: list[Tensor] = []
        for part in batches(len(texts), self.device):
            features = self._read(memory.take(which[part]), texts[part])
            last = features[range(len(features)), [len(text) - 1 for text in texts[part]]]
            found += self.model.word_logits(last).float().cpu()
        return found


def _different(grids: list[Codes]) -> tuple[list[Codes], list[int]]:
    """Each different grid once, and which of them is whose."""
    places: dict[bytes, int] = {}
    which = [places.setdefault(codes.tobytes(), len(places)) for codes in grids]
    return [grids[which.index(place)] for place in places.values()], which


def _another(request: GenerateRequest, number: int) -> GenerateRequest:
    """The request with the seed of its candidate ``number``; that of the first is its own."""
    seed = (request.sampling.seed + number * SEED_STEP) % 2**64
    return replace(request, sampling=replace(request.sampling, seed=seed))


def _gumbel(shape: Sequence[int], chance: torch.Generator) -> Tensor:
    uniform = torch.rand(tuple(shape), generator=chance).clamp_(1e-7, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def load(store: ModelStore, device: str = "cpu", weights: str | None = None) -> CompactBackend:
    """The backend with the shipped weights, or with those of the file or folder ``weights``.

    Raises:
        UnknownModel: there are no weights.
        CorruptData: the file does not hold weights of this model.
    """
    if weights is None:
        path = store.path("compact", WEIGHTS)
    else:
        path = Path(weights)
        path = path / WEIGHTS if path.is_dir() else path
        if not path.is_file():
            raise UnknownModel("--weights", f"there is no {path}", "name a .safetensors file")
    model = load_weights(path).to(device)
    words = Words(TextTokenizer.of(store))
    return CompactBackend(model, words, store.space(), View(store))


def load_weights(path: Path) -> Compact:
    """The model of a safetensors file, whose metadata hold the sizes of `CompactConfig` as JSON."""
    try:
        with safe_open(path, "pt") as file:
            sizes = json.loads((file.metadata() or {})[METADATA])
            state = unpacked({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        model = Compact(CompactConfig(**sizes))
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CorruptData("weights", f"{path} does not hold this model ({error})",
                          "pass weights made by unimic.cloud.training.export_compact") from error
    return model.eval().requires_grad_(False)
