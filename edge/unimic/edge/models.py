"""What an edge device codes with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unimic.codec.coder import Coder, load_coder
from unimic.codec.errors import InvalidInput, LimitExceeded
from unimic.codec.progress import Progress
from unimic.codec.store import ModelStore
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import Codes
from unimic.edge.arguments import check_kind, check_text, whole
from unimic.edge.image_tokenizer import ImageTokenizer
from unimic.edge.refiner import Refiner


@dataclass(frozen=True)
class Models:
    """Tokenizers, entropy models and what joins pictures.

    May be used by many clients and from several threads.
    """

    images: ImageTokenizer
    text: TextTokenizer
    coder: Coder
    refiner: Refiner

    @classmethod
    def load(cls, store: ModelStore | None = None, threads: int | None = None, *,
             entropy: bool = True) -> Models:
        """The models of a store, by default those that the package ships.

        Args:
            store: a folder of models.
            threads: CPU threads of each network; all cores by default.
            entropy: whether to load the entropy models. Without them, and where one is not exact on
                this machine, tokens can only be coded raw.

        Raises:
            InvalidInput: an argument of another type, or no thread.
            UnknownModel: a file is missing.
            CorruptData: a file is damaged.
        """
        store = ModelStore.default() if store is None else store
        check_kind("store", store, ModelStore, "a ModelStore", "use ModelStore(folder)")
        if threads is not None:
            threads = whole("threads", threads, 1)
        coder = (load_coder(store, threads=threads) if entropy else
                 Coder(store.space(), None, None))
        return cls(ImageTokenizer(store, threads), TextTokenizer.of(store), coder,
                   Refiner(store, threads))

    def watched(self, watch: Progress) -> Models:
        """These, telling ``watch`` of each tile and wave; what that raises ends the work."""
        return replace(self, images=self.images.watched(watch), coder=self.coder.watched(watch))

    def text_ids(self, text: str, field: str, most: int) -> Codes:
        """The text's tokens.

        Args:
            text: the text.
            field: what errors call it.
            most: tokens that are allowed.

        Raises:
            InvalidInput: it is no string, or holds lone surrogates.
            LimitExceeded: it is too long.
        """
        check_text(field, text)
        if len(text) > most * self.text.longest:  # else it would take its time first
            raise LimitExceeded(field, f"{len(text):,} characters are over {most:,} tokens",
                                "shorten it")
        try:
            ids = self.text.encode(text)
        except InvalidInput as error:
            raise InvalidInput(field, error.message, error.remedy) from error
        if ids.size > most:
            raise LimitExceeded(field, f"{ids.size:,} tokens are over {most:,}", "shorten it")
        return ids


def check_models(models: object) -> None:
    """Raise `InvalidInput` unless they are `Models`."""
    check_kind("models", models, Models, "Models", "use Models.load()")
