"""What an edge device codes with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unimic.codec.coder import Coder, load_coder
from unimic.codec.progress import Progress
from unimic.codec.store import ModelStore
from unimic.codec.text import TextTokenizer
from unimic.edge.image_tokenizer import ImageTokenizer


@dataclass(frozen=True)
class Models:
    """Tokenizers and entropy models; may be used by many clients and from several threads."""

    images: ImageTokenizer
    text: TextTokenizer
    coder: Coder

    @classmethod
    def load(cls, store: ModelStore | None = None, threads: int | None = None) -> Models:
        """The models of a store, by default those that the package ships.

        Args:
            store: a folder of models.
            threads: CPU threads of each network; all cores by default.

        Raises:
            UnknownModel: a tokenizer is missing. (Without an entropy model that is exact here,
                tokens can only be coded raw.)
        """
        store = store or ModelStore.default()
        return cls(ImageTokenizer(store, threads),
                   TextTokenizer.of(store),
                   load_coder(store, threads=threads))

    def watched(self, watch: Progress) -> Models:
        """These, telling ``watch`` of each tile and wave; what that raises ends the work."""
        return replace(self, images=self.images.watched(watch), coder=self.coder.watched(watch))
