"""The compact backend on a tiny model with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unimic.cloud.backends import compact
from unimic.cloud.backends.base import (
    AnswerRequest,
    Cancelled,
    FillRequest,
    GenerateRequest,
    Sampling,
)
from unimic.cloud.backends.compact import (
    SIDE,
    CompactBackend,
    View,
    load_weights,
    view_shape,
)
from unimic.cloud.backends.windows import MARGIN, MOST_STEPS, MOST_WINDOWS, windows
from unimic.cloud.models.compact import (
    ANSWER,
    ASK,
    END,
    LARGE,
    LEVELS,
    PROMPT,
    SCALE,
    Batch,
    Compact,
    CompactConfig,
    Memory,
    Words,
    left_padded,
    packed,
    packed_texts,
    plain,
    unpacked,
)
from unimic.codec.errors import CorruptData, LimitExceeded
from unimic.codec.proof import METADATA
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import Codes, TokenSpace

SPACE = TokenSpace(b"12345678")
TEXT = Path(__file__).parents[2] / "codec/unimic/codec/models/text-tokenizer/tokenizer.json"
CONFIG = CompactConfig(width=64, depth=2, head=32, expansion=2)
TINY_SIZES = {METADATA: '{"width": 64, "depth": 2, "head": 32, "expansion": 2}'}


class NoView(View):
    """Takes every nth token instead of looking at pixels."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def reduce(self, codes: Codes, rows: int, columns: int, watch: Callable[[], None]) -> Codes:
        watch()
        self.calls.append((rows, columns))
        return np.ascontiguousarray(codes[:rows, :columns])


def tiny_model(seed: int = 0) -> Compact:
    torch.manual_seed(seed)
    model = Compact(CONFIG)
    for parameter in model.parameters():  # nothing stays at zero: every part must matter
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def backend() -> CompactBackend:
    return CompactBackend(tiny_model(), Words(TextTokenizer(TEXT)), SPACE, NoView())


def grid(rows: int = 5, columns: int = 7, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, 8192, (rows, columns)).astype(np.int32)


def sampling(seed: int = 1, steps: int = 4, temperature: float = 1.0, guidance: float = 1.0
             ) -> Sampling:
    return Sampling(seed, steps, temperature, guidance)


def nobody(step: int, steps: int) -> None:
    assert 1 <= step <= steps


def batch(codes: Codes, masked: np.ndarray, prompt: list[int], texts: list[list[int]]) -> Batch:
    return Batch(torch.from_numpy(codes[None]).long(), torch.from_numpy(masked[None]),
                 left_padded([prompt]), *packed_texts([texts]))


def test_who_sees_whom() -> None:
    """Prompt causal, image full and after the prompt, texts causal, blind to each other."""
    model = tiny_model()
    known = np.zeros((3, 4), bool)
    first, second = [ASK, 5, ANSWER, 6, END], [ASK, 9, 8, ANSWER]

    def features(codes: Codes, prompt: list[int], texts: list[list[int]]
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        image, text = model(batch(codes, known, prompt, texts))
        return image[0], text[0]

    codes = grid(3, 4)
    image, text = features(codes, [PROMPT, 7], [first, second])
    other = codes.copy()
    other[2, 3] ^= 1
    image_2, text_2 = features(other, [PROMPT, 7], [first, second])
    assert not torch.allclose(image[0], image_2[0])  # the last token reaches the first
    assert not torch.allclose(text, text_2)
    image_3, _ = features(codes, [PROMPT, 3], [first, second])
    assert not torch.allclose(image, image_3)
    assert torch.allclose(features(codes, [PROMPT, 7], [first])[1], text[:5], atol=1e-5)
    assert torch.allclose(features(codes, [PROMPT, 7], [second])[1], text[5:], atol=1e-5)
    longer = features(codes, [PROMPT, 7], [[*second, 11]])[1]
    assert torch.allclose(longer[:4], text[5:], atol=1e-5)
    assert torch.allclose(image, features(codes, [PROMPT, 7], [])[0], atol=1e-5)


def test_padding_is_nothing() -> None:
    model = tiny_model()
    codes = torch.from_numpy(np.stack([grid(3, 4), grid(3, 4, 1)])).long()
    masked = torch.rand(2, 3, 4) < 0.5
    prompts, texts = [[PROMPT, 4, 5, 6], [PROMPT]], [[[ASK, 3, ANSWER]], [[ASK, 3, 4, ANSWER, 9]]]
    image, text = model(Batch(codes, masked, left_padded(prompts), *packed_texts(texts)))
    for i in (0, 1):
        alone = Batch(codes[i:i + 1], masked[i:i + 1], left_padded(prompts[i:i + 1]),
                      *packed_texts(texts[i:i + 1]))
        image_alone, text_alone = model(alone)
        assert torch.allclose(image_alone[0], image[i], atol=1e-5)
        assert torch.allclose(text_alone[0], text[i, :text_alone.shape[1]], atol=1e-5)


def test_hidden_tokens_do_not_leak() -> None:
    model = tiny_model()
    masked = np.random.default_rng(0).random((4, 4)) < 0.5
    a, b = grid(4, 4), grid(4, 4)
    b[masked] = 8191
    assert torch.equal(model(batch(a, masked, [PROMPT], []))[0],
                       model(batch(b, masked, [PROMPT], []))[0])


def test_generate_is_its_seed_alone(backend: CompactBackend) -> None:
    requests = [GenerateRequest(prompt, 5, 7, sampling(seed)) for prompt, seed in
                (("a red circle", 1), ("", 2), ("two dogs run on a beach", 3))]
    together = backend.generate(requests, nobody)
    alone = [backend.generate([r], nobody)[0] for r in requests]
    for codes, again in zip(together, alone, strict=True):
        assert codes.dtype == np.int32
        assert codes.shape == (5, 7)
        assert codes.min() >= 0
        assert codes.max() < 8192
        assert np.array_equal(codes, again)
    changed = [GenerateRequest("a red circle", 5, 7, sampling(2)),
               GenerateRequest("a blue circle", 5, 7, sampling(1)),
               GenerateRequest("a red circle", 5, 7, sampling(1, guidance=4.0)),
               GenerateRequest("a red circle", 5, 7, sampling(1, temperature=0.3))]
    for codes in backend.generate(changed, nobody):
        assert not np.array_equal(codes, alone[0])


def test_the_best_of_several_drawings_is_taken(
    backend: CompactBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = GenerateRequest("a red circle", 5, 7, sampling(1))
    taken = backend.generate([request], nobody)[0]
    monkeypatch.setattr(compact, "CANDIDATES", 1)
    drawn = [backend.generate([compact._another(request, k)], nobody)[0] for k in range(4)]
    fits = backend._caption_fits(drawn, request.prompt)
    assert len(set(fits)) == 4
    assert np.array_equal(taken, drawn[int(np.argmax(fits))])


def test_the_largest_seed(backend: CompactBackend) -> None:
    codes = backend.generate([GenerateRequest("a dog", 4, 4, sampling(2**64 - 1))], nobody)[0]
    assert codes.shape == (4, 4)


def test_the_surest_tokens_are_settled_first(
    backend: CompactBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the first are the surest, and fewer and fewer are left along a cosine."""
    hidden: list[torch.Tensor] = []
    look = CompactBackend._image_features

    def watched(self: CompactBackend, codes: torch.Tensor, masks: torch.Tensor,
                prompts: list[list[int]]) -> torch.Tensor:
        hidden.append(masks[0].flatten().clone())
        return look(self, codes, masks, prompts)

    def sample(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        places = hidden[-1].nonzero()[:, 0]
        return torch.zeros_like(places), -places.float()

    monkeypatch.setattr(CompactBackend, "_image_features", watched)
    monkeypatch.setattr(backend, "_sample", sample)
    everything = FillRequest(grid(4, 4), np.ones((4, 4), bool), "a dog",
                             sampling(temperature=0, guidance=0))
    backend.fill([everything], nobody)
    assert [int(left.sum()) for left in hidden] == [16, 14, 11, 6]
    assert all((left.int().diff() >= 0).all() for left in hidden)


def test_the_marker_is_never_said(backend: CompactBackend, monkeypatch: pytest.MonkeyPatch
                                  ) -> None:
    odds = torch.zeros(END + 1)
    odds[0], odds[END], odds[33] = 9, 6, 3
    monkeypatch.setattr(backend, "_next_words", lambda memory, which, texts: [odds] * len(texts))
    answer = backend.answer([AnswerRequest(grid(), "what?", sampling())], nobody)[0]
    assert answer.text == backend.words.spell([33])


def test_likeliest_needs_no_seed(backend: CompactBackend) -> None:
    a, b = backend.generate([GenerateRequest("a dog", 4, 4, sampling(seed, temperature=0))
                             for seed in (1, 2)], nobody)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("prompt", ["", "a vase", "zxqj ☃ \U0001f600 \x00", "word " * 4000])
def test_fill_changes_only_the_mask(backend: CompactBackend, prompt: str) -> None:
    codes = grid()
    for mask in (np.zeros((5, 7), bool), np.ones((5, 7), bool), codes % 2 == 0):
        filled = backend.fill([FillRequest(codes, mask, prompt, sampling())], nobody)[0]
        assert np.array_equal(filled[~mask], codes[~mask])
    assert np.array_equal(codes, grid())


def hole() -> FillRequest:
    """A hole in a grid, without a prompt."""
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:5] = True
    return FillRequest(grid(), mask, "", sampling(temperature=0))


def test_a_hole_without_prompt_and_chance_is_painted_at_once(
    backend: CompactBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hole()
    steps: list[tuple[int, int]] = []
    painted = backend.fill([asked], lambda *step: steps.append(step))[0]
    assert steps == [(4, 4)]
    assert np.array_equal(painted[~asked.mask], asked.codes[~asked.mask])
    features, _ = backend.model.look(torch.from_numpy(asked.codes[None]).long(),
                                     torch.from_numpy(asked.mask[None]), torch.tensor([[PROMPT]]))
    levels = torch.sigmoid(1.6 * backend.model.painter(features, (5, 7))[0]).permute(1, 2, 0)
    digits = torch.round(levels * (torch.tensor(LEVELS) - 1)).long().numpy()
    code = np.ravel_multi_index(tuple(digits[1, 2]), LEVELS)
    assert painted[1, 2] == code

    other_seed = replace(asked, sampling=sampling(9, temperature=0))
    drawn = [replace(asked, prompt="a dog"), replace(asked, sampling=sampling()),
             replace(asked, mask=np.ones((5, 7), bool))]
    results = backend.fill([drawn[0], other_seed, *drawn[1:], asked], nobody)
    assert np.array_equal(results[1], painted)
    assert np.array_equal(results[4], painted)
    for request, result in zip(drawn, (results[0], *results[2:4]), strict=True):
        assert np.array_equal(backend.fill([request], nobody)[0], result)

    def no_painter(*_: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(backend.model.painter, "forward", no_painter)
    backend.fill(drawn, nobody)


def test_a_hole_that_nothing_is_said_about_has_no_chance(backend: CompactBackend) -> None:
    assert backend.fill_defaults("a dog", 0) == backend.fill_defaults("", 7) == backend.defaults
    for prompt in ("", " \n"):
        assert backend.fill_defaults(prompt, 0) == replace(backend.defaults, temperature=0)


def test_where_nothing_is_known_or_said_there_is_chance(backend: CompactBackend) -> None:
    """What is likeliest of all pictures is a black one."""
    def filled(**changes: float) -> np.ndarray:
        asked = FillRequest(grid(4, 4), np.ones((4, 4), bool), "", sampling(3, **changes))
        return backend.fill([asked], nobody)[0]

    usual = filled(temperature=backend.defaults.temperature)
    assert np.array_equal(filled(temperature=0), usual)
    assert len(np.unique(usual)) > 4


def test_one_step_and_more_steps_than_tokens(backend: CompactBackend) -> None:
    for steps in (1, 9):
        filled = backend.fill([FillRequest(grid(2, 2), np.ones((2, 2), bool), "",
                                           sampling(steps=steps))], nobody)[0]
        assert filled.shape == (2, 2)


def test_large_grid_is_filled_in_windows(backend: CompactBackend) -> None:
    codes = grid(18, 30)
    mask = np.zeros_like(codes, bool)
    mask[3:16, 5:29] = True
    steps: list[int] = []
    filled = backend.fill([FillRequest(codes, mask, "sky", sampling())],
                          lambda step, of: steps.append(step * 1000 + of))[0]
    assert np.array_equal(filled[~mask], codes[~mask])
    assert (filled[mask] != codes[mask]).mean() > 0.9
    count = len(windows(mask, SIDE))
    assert count > 1
    assert steps == [i * 1000 + 4 * count for i in range(1, 4 * count + 1)]
    steps.clear()
    painted = backend.fill([FillRequest(codes, mask, "", sampling(temperature=0))],
                           lambda step, of: steps.append(step * 1000 + of))[0]
    assert np.array_equal(painted[~mask], codes[~mask])
    assert (painted[mask] != codes[mask]).mean() > 0.9
    assert steps == [i * 1000 + 4 * count for i in range(4, 4 * count + 1, 4)]


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (21, 3), (16, 60), (33, 47)])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 1.0])
def test_windows_cover_the_mask(shape: tuple[int, int], density: float) -> None:
    mask = np.random.default_rng(0).random(shape) < density
    left_over = mask.copy()
    for window in windows(mask, SIDE):
        assert left_over[window.place].shape == window.kept.shape
        assert window.kept.shape == (min(shape[0], SIDE), min(shape[1], SIDE))
        assert window.kept.any()
        assert left_over[window.place][window.kept].all(), "each token is kept once"
        left_over[window.place][window.kept] = False
    assert not left_over.any()


def test_what_is_kept_is_far_from_what_is_hidden_out_of_sight() -> None:
    mask = np.zeros((50, 60), bool)
    mask[5:45, 8:] = True
    left_over = mask.copy()
    plan = windows(mask, SIDE)
    assert len(plan) > 2
    for window in plan:
        unseen = left_over.copy()
        unseen[window.place] = False
        kept = np.zeros_like(mask)
        kept[window.place] = window.kept
        for y, x in np.argwhere(kept):
            near = np.s_[max(y - MARGIN, 0):y + MARGIN + 1, max(x - MARGIN, 0):x + MARGIN + 1]
            assert not unseen[near].any()
        left_over &= ~kept


def test_the_window_with_least_unknown_around_it_comes_first() -> None:
    mask = np.zeros((16, 60), bool)
    mask[:, 10:] = True
    order = [window.place[1].start for window in windows(mask, SIDE)]
    assert order == sorted(order)
    assert len(order) > 2


def test_small_hole_is_one_window_around_it() -> None:
    mask = np.zeros((100, 100), bool)
    mask[50:54, 60:66] = True
    window, = windows(mask, SIDE)
    assert window.place == np.s_[42:62, 53:73]


def test_a_piece_of_a_mask_is_not_cut_because_of_others() -> None:
    alone = np.zeros((60, 100), bool)
    alone[6:20, 6:20] = True
    beside = alone.copy()
    beside[18:24, 26:36] = True
    beside[50:54, 90:96] = True
    window, = windows(alone, SIDE)
    same, = (w for w in windows(beside, SIDE) if w.place == window.place)
    assert np.array_equal(same.kept, window.kept)


def test_huge_mask_is_refused() -> None:
    with pytest.raises(LimitExceeded, match=str(MOST_WINDOWS)):
        windows(np.ones((200, 200), bool), SIDE)


def test_steps_of_many_windows_are_limited(backend: CompactBackend) -> None:
    def generate(steps: int) -> list[Codes]:
        sampling = Sampling(0, steps, 0.0, 0.0)
        return backend.generate([GenerateRequest("", 40, 4, sampling)], lambda *_: None)

    assert generate(2)[0].shape == (40, 4)
    rounds = len(windows(np.ones((40, 4), bool), SIDE))
    with pytest.raises(LimitExceeded, match=str(MOST_STEPS // rounds)):
        generate(MOST_STEPS // rounds + 1)


def test_answers(backend: CompactBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "ANSWER_TOKENS", 4)
    questions = ["what is on the table?", "", "what?! " * 3000, "¿qué ☃?"]
    requests = [AnswerRequest(grid(), q, sampling()) for q in questions]
    together = backend.answer(requests, nobody)
    for request, answer in zip(requests, together, strict=True):
        assert 0 <= answer.confidence <= 1
        assert backend.answer([request], nobody) == [answer]


def test_confidence_is_the_probability_of_the_answer(backend: CompactBackend,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine to one for the first word, certain from then on; a caption's is the mean per token."""
    said = [*backend.words("red vase", 8), END]
    asked = 0

    def next_words(memory: Memory, which: list[int], texts: list[list[int]]
                   ) -> list[torch.Tensor]:
        nonlocal asked
        odds = torch.full((END + 1,), -1000.0)
        odds[said[asked]] = 0.0
        if asked == 0:
            odds[said[0]], odds[33] = float(np.log(9)), 0.0
        asked += 1
        return [odds]

    monkeypatch.setattr(backend, "_next_words", next_words)
    answer = backend.answer([AnswerRequest(grid(), "what?", sampling())], nobody)[0]
    assert answer.text == "red vase"
    assert answer.confidence == pytest.approx(0.9)
    asked = 0
    caption = backend.answer([AnswerRequest(grid(), " ", sampling())], nobody)[0]
    assert caption.confidence == pytest.approx(0.9 ** (1 / len(said)))


def test_a_picture_is_looked_at_once(backend: CompactBackend, monkeypatch: pytest.MonkeyPatch
                                     ) -> None:
    """However many questions there are about it; answers are those to each alone."""
    requests = [AnswerRequest(codes, question, sampling()) for codes, question in (
        (grid(), "what?"), (grid(seed=2), "what?"), (grid(), "where is it?"), (grid(), ""))]
    alone = [backend.answer([request], nobody)[0] for request in requests]
    looks = []
    look = Compact.look
    monkeypatch.setattr(Compact, "look", lambda *inputs: looks.append(1) or look(*inputs))
    assert backend.answer(requests, nobody) == alone
    assert len(looks) == 2


def test_large_grid_is_viewed_smaller(backend: CompactBackend,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "ANSWER_TOKENS", 1)
    assert isinstance(backend.view, NoView)
    backend.view.calls.clear()
    backend.answer([AnswerRequest(grid(30, 40), "what?", sampling())], nobody)
    assert backend.view.calls == [view_shape(30, 40)]
    backend.answer([AnswerRequest(grid(30, 40), asked, sampling()) for asked in ("a?", "b?")],
                   nobody)
    assert len(backend.view.calls) == 2  # once more, for both questions
    rows, columns = view_shape(30, 40)
    assert rows * columns <= 384
    assert max(rows, columns) <= 24
    assert view_shape(16, 21) == (16, 21)
    assert view_shape(1, 4000) == (1, 24)


def test_cancelled_at_the_next_step(backend: CompactBackend) -> None:
    calls = 0

    def leave(step: int, steps: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        backend.generate([GenerateRequest("a dog", 4, 4, sampling(steps=8))], leave)
    assert calls == 2
    calls = 0
    with pytest.raises(Cancelled):
        backend.answer([AnswerRequest(grid(), "", sampling())], leave)


def test_plain_text() -> None:
    assert plain("  What is\non the Table_top ?") == " what is on the table top"
    assert plain(" \n?") == ""


def test_weights_round_trip(tmp_path: Path) -> None:
    model = tiny_model()
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path, metadata=TINY_SIZES)
    again = load_weights(path)
    assert all(torch.equal(a, b) for a, b in
               zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptData, match="weights"):
        load_weights(path)
    save_file({"a": torch.zeros(1)}, path, metadata=TINY_SIZES)
    with pytest.raises(CorruptData, match="weights"):
        load_weights(path)


def test_large_matrices_are_stored_in_bytes_and_all_else_in_float16() -> None:
    torch.manual_seed(0)
    state = {"large": torch.randn(LARGE // 64, 64), "small": torch.randn(LARGE // 64 - 1, 64),
             "filters": torch.randn(LARGE, 1, 2, 2)}
    stored = packed(state)
    assert {name: value.dtype for name, value in stored.items() if name in state} == {
        "large": torch.int8, "small": torch.float16, "filters": torch.float16}
    back = unpacked(stored)
    assert back.keys() == state.keys()
    assert ((back["large"] - state["large"]).abs() <= 0.501 * stored["large" + SCALE]).all()
    assert stored["large"].abs().amax(1).eq(127).all()
    for name in ("small", "filters"):
        assert torch.equal(back[name], state[name].half().float())
