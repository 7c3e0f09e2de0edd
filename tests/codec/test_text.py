"""The text tokenizer: exact for every string there is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import unimic.codec
from unimic.codec.errors import CorruptData, InvalidInput, UnknownModel
from unimic.codec.text import MARKER, MARKER_ID, TextTokenizer

SHIPPED = Path(unimic.codec.__path__[0]) / "models" / "text-tokenizer" / "tokenizer.json"
TOKENIZER = TextTokenizer(SHIPPED)

unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(unicode)
@example("")
@example(" ")
@example("  two  spaces  ")
@example("\n\r\n\t\x00\x7f\x1b")
@example("\ufeffbyte order mark\u2028\ufffe\U0010ffff")
@example("e\u0301 and \u00e9, \ufb01 and fi")  # a normaliser would make them equal
@example("👨‍👩‍👧 🏳️‍🌈 日本語 العربية")
@example(MARKER)
@example(f"a{MARKER}b")
def test_every_string_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32
    assert TOKENIZER.decode(ids) == text
    assert len(ids) <= len(text.encode())
    assert not len(ids) or (ids.min() > MARKER_ID and ids.max() < TOKENIZER.size)


@pytest.mark.parametrize("text", [
    "a" * 100_000, " " * 100_000, "日" * 33_000, "A dog runs on the beach. " * 4000,
])
def test_long_texts(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_the_shipped_vocabulary() -> None:
    assert TOKENIZER.size == 4096
    caption = "A dog runs on the beach."
    assert len(TOKENIZER.encode(caption)) == 7
    assert len(TOKENIZER.encode("")) == 0


@pytest.mark.parametrize("text", ["\ud800", "ok\udfff", "\udc00\ud800"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        TOKENIZER.encode(text)


@given(st.lists(st.integers(-1, 4096), max_size=6))
@example([MARKER_ID])
def test_any_ids_are_text_or_refused(ids: list[int]) -> None:
    try:
        text = TOKENIZER.decode(np.array(ids, dtype=np.int32))
    except InvalidInput:
        return
    assert MARKER_ID not in ids
    assert isinstance(text, str)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UnknownModel, match=r"tokenizer\.json"):
        TextTokenizer(path)
    good = json.loads(SHIPPED.read_text(encoding="utf-8"))
    renamed = json.loads(SHIPPED.read_text(encoding="utf-8").replace(f'"{MARKER}":', '"!!!!":'))
    gap = {**good, "model": {**good["model"], "vocab": {
        token: index + (index > 4000) for token, index in good["model"]["vocab"].items()}}}
    not_bytes = {**good, "model": {**good["model"], "merges": [], "vocab": {MARKER: 0, "☃": 1}}}
    for broken in (b"", b"{}", b"\xff", *(json.dumps(v).encode() for v in
                                          (renamed, gap, not_bytes))):
        path.write_bytes(broken)
        with pytest.raises(CorruptData, match="text-tokenizer"):
            TextTokenizer(path)
