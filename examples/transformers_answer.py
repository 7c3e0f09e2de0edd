"""A backend of a third party: any image-text model of `transformers` answers about tokens.

A package that holds this file offers it to ``unimic serve --backend transformers`` by

    [project.entry-points."unimic.backends"]
    transformers = "transformers_answer:TransformersAnswer"

and the user names the model, a folder or a repository of the Hugging Face Hub, by ``--weights``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from unimic.cloud.backends.base import Answer, AnswerRequest, Backend, Sampling, Watch
from unimic.codec.errors import InvalidInput
from unimic.codec.runtime import open_graph
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes

CAPTION = "Describe the image."


class TransformersAnswer(Backend):
    """Decodes the tokens with the store's image decoder and shows the picture to the model."""

    name = "transformers"
    defaults = Sampling(seed=0, steps=1, temperature=0.0, guidance=0.0)
    max_tokens = 64 * 64  # the decoder takes a picture at once

    def __init__(self, store: ModelStore, device: str, weights: str | None) -> None:
        if weights is None:
            raise InvalidInput("--weights", "is missing", "name a folder or a Hub repository")
        self.space = store.space()
        self.decoder = open_graph(store.path("image-tokenizer", "decoder.onnx"))
        self.processor = AutoProcessor.from_pretrained(weights)
        self.model = AutoModelForImageTextToText.from_pretrained(weights).to(device).eval()

    @torch.inference_mode()
    def answer(self, requests: Sequence[AnswerRequest], watch: Watch) -> list[Answer]:
        answers = []
        for step, request in enumerate(requests, start=1):
            inputs = self.inputs(self.picture(request.codes), request.question.strip() or CAPTION)
            found = self.model.generate(**inputs, max_new_tokens=32, do_sample=False,
                                        output_scores=True, return_dict_in_generate=True)
            words = found.sequences[0, -len(found.scores):]
            odds = [float(scores[0].log_softmax(-1)[word])
                    for word, scores in zip(words, found.scores, strict=True)]
            text = self.processor.decode(words, skip_special_tokens=True).strip()
            answers.append(Answer(text, math.exp(sum(odds) / len(odds))))
            watch(step, len(requests))
        return answers

    def picture(self, codes: Codes) -> Image.Image:
        (pixels,) = self.decoder.run(None, {"codes": codes[None].astype(np.int32)})
        return Image.fromarray((pixels[0].transpose(1, 2, 0) * 255).round().astype(np.uint8))

    def inputs(self, picture: Image.Image, question: str) -> BatchFeature:
        if self.processor.chat_template is None:
            inputs = self.processor(images=picture, text=question, return_tensors="pt")
        else:
            asked = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=True,
                return_dict=True, return_tensors="pt")
        return inputs.to(self.model.device)

    def generate(self, requests, watch):
        raise InvalidInput("task", "this model only answers", "ask or caption")

    fill = generate
