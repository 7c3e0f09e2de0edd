"""The example of a third party's backend, with a tiny random LLaVA that is made here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from unimic.cloud.backends.base import AnswerRequest, GenerateRequest, Sampling  # noqa: E402
from unimic.codec.errors import InvalidInput  # noqa: E402
from unimic.codec.store import ModelStore  # noqa: E402

EXAMPLE = Path(__file__).parent.parent / "examples" / "transformers_answer.py"
TEMPLATE = ("{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
            "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}")
PATCH, SIDE = 8, 32


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    """A checkpoint as the Hub has them, of a few thousand random weights."""
    folder = tmp_path_factory.mktemp("llava")
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    text = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"])
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE},
                                             crop_size={"height": SIDE, "width": SIDE})
    transformers.LlavaProcessor(
        images, text, patch_size=PATCH, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, num_additional_image_tokens=1).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4}
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH),
        text_config=transformers.LlamaConfig(**sizes, vocab_size=len(text), num_key_value_heads=4,
                                             eos_token_id=text.eos_token_id),
        image_token_id=text.convert_tokens_to_ids("<image>"),
    )).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backend(store: ModelStore, llava: Path):
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        from transformers_answer import TransformersAnswer
    finally:
        sys.path.remove(str(EXAMPLE.parent))
    return TransformersAnswer(store, "cpu", str(llava))


def ask(backend, codes, *questions):
    requests = [AnswerRequest(codes, question, Sampling(0, 1, 0.0, 0.0)) for question in questions]
    return backend.answer(requests, lambda *_: None)


def test_it_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_answers_depend_on_picture_and_question(backend):
    chance = np.random.default_rng(0)
    one, other = (chance.integers(0, 8192, (4, 6), dtype=np.int32) for _ in range(2))
    first, caption = ask(backend, one, "what is it?", "")
    assert 0 < first.confidence < 1
    assert first == ask(backend, one, "what is it?")[0]
    assert len({first, caption, *ask(backend, other, "what is it?")}) == 3


def test_other_tasks_are_refused(backend):
    with pytest.raises(InvalidInput, match="only answers"):
        backend.generate([GenerateRequest("", 1, 1, Sampling(0, 1, 0.0, 0.0))], lambda *_: None)
