"""Text to the codec's own text tokens and back, exactly.

A byte-level BPE: text is cut into bytes, frequent runs of bytes are one token, every single byte is
one too. So each Unicode string has tokens, without an unknown token and without a normaliser, and
the tokens give back the very same string. Id 0 marks the beginning of a text for the
models; it stands for no text, and `TextTokenizer.encode` never returns it.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from unimic.codec.errors import CorruptData, InvalidInput, UnknownModel
from unimic.codec.store import TEXT_TOKENIZER, ModelStore
from unimic.codec.tokens import Codes, check_codes

TOKENIZER_FILE = "tokenizer.json"
MARKER = "<|text|>"
MARKER_ID = 0


class TextTokenizer:
    """The tokens of a ``tokenizer.json`` made by ``unimic.cloud.training.train_text_tokenizer``.

    Args:
        path: of the ``tokenizer.json``.

    Attributes:
        longest: bytes of the longest token.

    Raises:
        UnknownModel: there is no such file.
        CorruptData: the file is not a byte-level BPE with the marker as id 0.
    """

    @classmethod
    def of(cls, store: ModelStore) -> TextTokenizer:
        """That of a store; raises as `ModelStore.path`, and as the class itself."""
        return cls(store.path(TEXT_TOKENIZER, TOKENIZER_FILE))

    def __init__(self, path: str | PathLike[str]) -> None:
        try:
            definition = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UnknownModel("text-tokenizer", f"cannot read {path} ({error.strerror})",
                               "install the model files or name their folder") from error
        except UnicodeDecodeError as error:
            raise _broken(path, "is not UTF-8") from error
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:  # the library raises plain Exception
            raise _broken(path, f"is no tokenizer ({error})") from error
        byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
        vocabulary = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        if [index for _, index in vocabulary] != list(range(len(vocabulary))):
            raise _broken(path, "has gaps in its ids")
        if not vocabulary or vocabulary[MARKER_ID][0] != MARKER:
            raise _broken(path, f"does not have {MARKER} as id {MARKER_ID}")
        try:
            self._bytes = [b""] + [
                bytes(byte_of[character] for character in token) for token, _ in vocabulary[1:]
            ]
        except KeyError as error:
            raise _broken(path, "is not byte-level") from error
        self.longest = max(map(len, self._bytes))

    @property
    def size(self) -> int:
        """Number of ids, the marker included."""
        return len(self._bytes)

    def encode(self, text: str) -> Codes:
        """Ids of ``text``: int32 ``(n,)``, each in ``[1, size)``; the empty string has none.

        Raises:
            InvalidInput: ``text`` holds lone surrogates, so it is not Unicode text.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInput("text", f"a lone surrogate at character {error.start}",
                               "pass valid Unicode") from error
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int32)

    def decode(self, ids: Codes) -> str:
        """The text of ``ids`` (int32 ``(n,)``).

        Raises:
            InvalidInput: an id is out of range or the marker, or the bytes are not UTF-8.
        """
        check_codes("ids", ids, self.size)
        if ids.size and ids.min() == MARKER_ID:
            raise InvalidInput("ids", f"hold the marker, id {MARKER_ID}", "cut the text there")
        try:
            return b"".join(self._bytes[i] for i in ids.tolist()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput("ids", f"do not spell UTF-8 text (byte {error.start})",
                               "pass ids that a text was encoded to") from error


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE's vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _broken(path: str | PathLike[str], what: str) -> CorruptData:
    return CorruptData("text-tokenizer", f"{path} {what}", "install the model files anew")
