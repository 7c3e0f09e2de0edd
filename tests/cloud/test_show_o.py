"""The Show-o backend on a small checkpoint with random weights.

``show_o_golden.npz`` holds what Show-o's published code (github.com/showlab/Show-o) made of the
same weights, see docs/show-o.md.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from show_o_checkpoint import SIDE, SMALL, write_checkpoint  # noqa: E402

from unimic.cloud.backends.base import (  # noqa: E402
    AnswerRequest,
    Cancelled,
    FillRequest,
    GenerateRequest,
    Sampling,
)
from unimic.cloud.backends.show_o.backend import ShowOBackend  # noqa: E402
from unimic.cloud.backends.show_o.checkpoint import digest, find_checkpoint  # noqa: E402
from unimic.cloud.backends.show_o.magvit import load_magvit  # noqa: E402
from unimic.cloud.backends.show_o.model import load_show_o  # noqa: E402
from unimic.cloud.backends.show_o.sampling import Drawing  # noqa: E402
from unimic.codec.errors import CorruptData, UnknownModel  # noqa: E402
from unimic.codec.tokens import TokenSpace  # noqa: E402

SPACE = TokenSpace(b"show-o--")
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def backend(checkpoint: Path) -> ShowOBackend:
    found = find_checkpoint(str(checkpoint))
    return ShowOBackend(*load_show_o(found, "cpu"), load_magvit(found.magvit), SPACE)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "show_o_golden.npz") as file:
        return {name: torch.from_numpy(value) if value.dtype.kind != "U" else value.tolist()
                for name, value in file.items()}


def picture(height: int, width: int):
    """What the golden numbers were made of, for 48 × 64."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 3 % 256, y * 5 % 256, (x + 2 * y) % 256]).astype(np.float32) / 255
    return torch.from_numpy(pixels)[None]


def test_parameters_are_named_as_published(backend, golden):
    assert sorted(backend.model.state_dict()) == golden["showo_keys"]
    assert sorted(backend.magvit.state_dict()) == golden["vq_keys"]


def test_tokenizer_is_that_of_the_published_code(backend, golden):
    with torch.no_grad():
        latents = backend.magvit.encoder(picture(48, 64) * 2 - 1)
    torch.testing.assert_close(latents, golden["latents"], **TOLERANCE)
    codes = backend.magvit.encode(picture(48, 64))
    assert codes[0].tolist() == golden["codes"].tolist()
    torch.testing.assert_close(backend.magvit.decode(codes)[0], golden["pixels"], **TOLERANCE)


PROMPTS = ([7, 8, 9, 10], list(range(200)))  # the second is cut


def known():
    codes = torch.from_numpy(np.random.RandomState(3).randint(0, 8192, (1, SIDE * SIDE)))
    hidden = torch.zeros(codes.shape, dtype=torch.bool)
    hidden[0, [1, 2, 5, 6, 9, 10, 11]] = True
    return codes, hidden


@pytest.mark.parametrize("number", [0, 1])
def test_drawing_is_that_of_the_published_code(backend, golden, number):
    model, vocabulary = backend.model, backend.model.vocabulary
    codes, hidden = known()
    prompts = vocabulary.prompts([PROMPTS[number], []])
    image = vocabulary.image(codes, hidden)
    sequences = torch.cat([prompts, image.expand(2, -1)], 1)
    assert torch.equal(sequences, golden[f"draw{number}_sequences"].long())

    visible = vocabulary.drawing_visible(prompts, image.shape[1])
    bits = np.unpackbits(golden[f"draw{number}_visible"].numpy())[:visible.numel()]
    assert (visible.numpy().ravel() == bits).all()

    start = prompts.shape[1]
    with torch.no_grad():
        _, memory = model.read(prompts, visible[..., :start, :start])
        for _ in range(2):  # the image is not remembered
            logits = model.image_logits(memory, image.expand(2, -1), visible[..., start:, :])
            torch.testing.assert_close(logits[:, :, ::64], golden[f"draw{number}_logits"],
                                       **TOLERANCE)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("guidance", [0, 2.5])
@pytest.mark.parametrize("task", ["fill", "generate"])
def test_seeds_give_the_tokens_of_the_published_code(backend, golden, monkeypatch, number,
                                                     guidance, task):
    codes, hidden = known()
    if task == "generate":
        hidden = torch.ones_like(hidden)
    monkeypatch.setattr(backend, "text", IdsForText({"prompt": PROMPTS[number]}))
    request = FillRequest(codes.view(SIDE, SIDE).numpy().astype(np.int32),
                          hidden.view(SIDE, SIDE).numpy(), "prompt",
                          Sampling(seed=11, steps=6, temperature=1.0, guidance=guidance))
    (drawn,) = backend.fill([request], lambda *_: None)
    assert drawn.ravel().tolist() == golden[f"draw{number}_{task}_{guidance:g}"].tolist()


class IdsForText:
    def __init__(self, ids):
        self.ids = ids

    def encode(self, text):
        return self.ids[text]


def test_answers_are_those_of_the_published_code(backend, golden):
    model, vocabulary = backend.model, backend.model.vocabulary
    codes, _ = known()
    question = [20, 21, 22, 23, 24]
    ids = vocabulary.questions(codes, [question])
    assert ids[0].tolist() == golden["answer_sequence"].tolist()
    visible = vocabulary.answering_visible(ids, SIDE * SIDE + 2)
    assert torch.equal(visible[0, 0], golden["answer_visible"])
    with torch.no_grad():
        features, _ = model.read(ids, visible)
        torch.testing.assert_close(model.word_logits(features)[0], golden["answer_logits"],
                                   **TOLERANCE)
        ((said, _),) = backend.say(codes, [question], lambda step: None)
    assert said == golden["answer_tokens"].tolist()


def test_questions_of_different_lengths_share_a_batch(backend):
    codes, _ = known()
    questions = [[20, 21, 22, 23, 24], [30], list(range(40, 60))]
    with torch.no_grad():
        together = backend.say(codes.expand(3, -1), questions, lambda step: None)
        alone = [backend.say(codes, [q], lambda step: None)[0] for q in questions]
    assert [said for said, _ in together] == [said for said, _ in alone]
    assert [sure for _, sure in together] == pytest.approx([sure for _, sure in alone], abs=1e-4)


def test_no_temperature_takes_the_likeliest():
    logits = torch.randn(16, 8192, generator=torch.Generator().manual_seed(1))
    drawing = Drawing(torch.zeros(16).long(), torch.ones(16).bool(), 4, 0.0, torch.Generator())
    for left in (14, 11, 6, 0):
        drawing.take(logits)
        assert int(drawing.hidden.sum()) == left
    assert torch.equal(drawing.codes, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-40])
def test_however_little_temperature_there_is(temperature):
    logits = 50 * torch.randn(16, 8192, generator=torch.Generator().manual_seed(1))
    drawing = Drawing(torch.zeros(16).long(), torch.ones(16).bool(), 1, temperature,
                      torch.Generator())
    drawing.take(logits)
    assert torch.equal(drawing.codes, logits.argmax(-1))


def test_settings_are_the_published_ones(backend, monkeypatch):
    for side, steps, guidance in (16, 18, 1.75), (32, 50, 5.0):
        monkeypatch.setattr(backend.model, "side", side)
        its = type(backend)(backend.model, backend.text, backend.magvit, backend.space)
        assert (its.defaults.steps, its.defaults.guidance) == (steps, guidance)
        filling = its.fill_defaults("a cat", 0)
        assert (filling.steps, filling.guidance) == (16, 1.75)


def sampling(**changes) -> Sampling:
    return Sampling(**{"seed": 3, "steps": 3, "temperature": 1.0, "guidance": 2.0, **changes})


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 4), (2, 9), (9, 7)])
def test_grids_of_every_shape(backend, shape):
    chance = np.random.default_rng(0)
    codes = chance.integers(0, 8192, shape, dtype=np.int32)
    mask = chance.random(shape) < 0.6
    mask[0, 0] = True
    steps = []
    requests = [FillRequest(codes, mask, prompt, sampling(seed=seed))
                for seed, prompt in ((1, "a cat"), (2, ""), (1, "a cat"))]
    drawn = backend.fill(requests, lambda *step: steps.append(step))
    assert (drawn[0][~mask] == codes[~mask]).all()
    assert (drawn[0] == drawn[2]).all()
    assert all(grid.dtype == np.int32 and grid.shape == shape for grid in drawn)
    assert steps[-1][0] == steps[-1][1]
    assert [step for step, _ in steps] == sorted({step for step, _ in steps})
    (alone,) = backend.fill(requests[1:2], lambda *_: None)
    assert (alone == drawn[1]).all()

    answers = backend.answer([AnswerRequest(codes, question, sampling())
                              for question in ("", "what is it?", "?" * 2000)], lambda *_: None)
    assert all(isinstance(a.text, str) and 0 <= a.confidence <= 1 for a in answers)


def test_prompt_seed_and_guidance_matter(backend):
    def draw(prompt="a cat", **changes):
        request = GenerateRequest(prompt, SIDE, SIDE, sampling(**changes))
        return backend.generate([request], lambda *_: None)[0].tolist()
    assert draw() == draw()
    assert len({str(draw(**changes)) for changes in (
        {}, {"prompt": "a dog"}, {"seed": 4}, {"guidance": 0.0}, {"steps": 4})}) == 5


def test_view_keeps_the_whole_picture(backend):
    codes = backend.magvit.encode(picture(16 * 2 * SIDE, 16 * SIDE))[0].numpy().astype(np.int32)
    alive = []
    view = backend._view(codes, lambda: alive.append(True))
    assert backend.magvit.decode(torch.from_numpy(view)[None]).shape[2:] == (SIDE * 16, SIDE * 16)
    assert len(alive) == 2
    square = codes[:SIDE]
    assert backend._view(square, lambda: None) is square


def test_cancelling(backend):
    def stop(step, steps):
        raise Cancelled
    with pytest.raises(Cancelled):
        backend.generate([GenerateRequest("a cat", SIDE, SIDE, sampling())], stop)
    with pytest.raises(Cancelled):
        backend.answer([AnswerRequest(np.zeros((SIDE, SIDE), np.int32), "", sampling())], stop)


@pytest.fixture
def copy(checkpoint, tmp_path):
    shutil.copytree(checkpoint.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_positions_are_precise_where_weights_are_not(checkpoint):
    model, _ = load_show_o(find_checkpoint(str(checkpoint)), "meta")
    assert model.showo.lm_head.weight.dtype == torch.bfloat16
    frequencies = model.showo.model.rotary_emb.inv_freq
    assert (frequencies.dtype, frequencies.device.type) == (torch.float32, "meta")


def test_pickled_weights(copy, backend):
    for name in ("show-o", "magvitv2"):
        file = copy / name / "model.safetensors"
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
    found = find_checkpoint(str(copy / "show-o"))
    assert digest(load_show_o(found, "cpu")[0]) == digest(backend.model)
    assert digest(load_magvit(found.magvit)) == digest(backend.magvit)


def test_any_mismatch_names_the_keys(copy):
    file = copy / "show-o" / "model.safetensors"
    tensors = load_file(file)
    tensors["extra.weight"] = tensors.pop("showo.lm_head.bias")
    tensors["showo.model.final_layernorm.bias"] = torch.zeros(3)
    save_file(tensors, file)
    with pytest.raises(CorruptData) as caught:
        load_show_o(find_checkpoint(str(copy / "show-o")), "cpu")
    for part in ("missing: showo.lm_head.bias;", "left over: extra.weight;",
                 "showo.model.final_layernorm.bias (3,) instead of (64,)"):
        assert part in str(caught.value)


def test_incomplete_checkpoints(copy):
    def load():
        found = find_checkpoint(str(copy / "show-o"))
        return load_magvit(found.magvit), load_show_o(found, "cpu")
    config = copy / "show-o" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "llm_vocab_size": SMALL.text + 1}))
    with pytest.raises(CorruptData, match="do not fit"):
        load()
    config.write_text(json.dumps({**values, "w_clip_vit": True}))
    with pytest.raises(CorruptData, match="CLIP"):
        load()
    config.write_text("{}")
    with pytest.raises(CorruptData, match="lacks"):
        load()
    config.write_text("{")
    with pytest.raises(CorruptData, match="JSON"):
        load()
    (copy / "phi-1_5" / "tokenizer.json").unlink()
    (copy / "phi-1_5" / "tokenizer_config.json").unlink()
    config.write_text(json.dumps(values))
    with pytest.raises(CorruptData, match="text tokens of"):
        load()
    (copy / "magvitv2" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CorruptData, match="cannot be read"):
        load()
    (copy / "magvitv2" / "model.safetensors").unlink()
    with pytest.raises(UnknownModel, match="no weights"):
        load()
    shutil.rmtree(copy / "magvitv2")
    with pytest.raises(UnknownModel, match="showlab/magvitv2"):
        load()
