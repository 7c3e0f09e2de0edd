"""Trains the text tokenizer: a byte-level BPE of 4,096 ids on captions, questions and some prose.

    python -m unimic.cloud.training.train_text_tokenizer --data DATA --store MODELS

takes seconds; the same data give the same file. The ids are part of the token space: after a change
of them every other model has to be trained anew.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from unimic.cloud.training.command import command
from unimic.cloud.training.data import read_captions, read_questions, read_text
from unimic.cloud.training.files import whole
from unimic.codec.store import TEXT_TOKENIZER, add_model
from unimic.codec.text import MARKER, TOKENIZER_FILE

VOCABULARY = 4096
# Prompts and questions are what is coded; reviews only keep other English from falling apart.
REVIEWS = 1000
DATA = (
    "captions of Flickr8k (train and rest), Multi30k (train) and COCO (val2017), DAQUAR training "
    f"questions and answers, {REVIEWS} IMDB reviews"
)


def training_text(root: Path) -> list[str]:
    """The texts to train text models on, each one caption, question, answer or review."""
    flickr = [
        caption
        for image in read_captions(root).values()
        if image.split in ("train", "rest")
        for caption in image.captions
    ]
    questions = read_questions(root, "train")
    reviews = read_text(root, "imdb-reviews-7k")
    return [
        *flickr,
        *read_text(root, "multi30k-train"),
        *read_text(root, "coco-captions-val2017"),
        *(pair.question for pair in questions),
        # The data set writes no capitals and no question marks; people do.
        *(f"{pair.question.capitalize()}?" for pair in questions),
        *(pair.answer for pair in questions),
        *random.Random(0).sample(reviews, min(REVIEWS, len(reviews))),
    ]


def train(texts: list[str]) -> str:
    """The ``tokenizer.json`` of a byte-level BPE trained on ``texts``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[MARKER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    definition = json.loads(tokenizer.to_str())
    # As an added token the marker would be found inside a text that spells it. Only its place in
    # the vocabulary is wanted; no merge leads there, so no text is encoded to it.
    definition["added_tokens"] = []
    return json.dumps(definition, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the training data")
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    arguments = parser.parse_args(argv)
    texts = training_text(arguments.data)
    definition = train(texts)
    path = arguments.store / TEXT_TOKENIZER / TOKENIZER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        file.write_text(definition, encoding="utf-8")
    ids = sum(len(e.ids) for e in Tokenizer.from_str(definition).encode_batch_fast(texts))
    ratio = round(sum(map(len, texts)) / ids, 2)
    add_model(
        arguments.store, TEXT_TOKENIZER, TEXT_TOKENIZER, licence="Apache-2.0", data=DATA,
        command="python -m unimic.cloud.training.train_text_tokenizer --data DATA --store MODELS",
        figures={"characters_per_id_in_training": ratio}, sizes={"text_codes": VOCABULARY},
    )
    print(f"{path}: {len(texts)} texts, {ratio} characters an id")


if __name__ == "__main__":
    command(main)
