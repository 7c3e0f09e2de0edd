"""Files of token grids: what the image tokenizer made of a set of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unimic.cloud.training.files import understood, whole
from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import Codes


def save_grids(path: Path, grids: list[tuple[str, Codes]], tokenizer: str) -> None:
    """Write ``(name, codes)`` pairs as one .npz; ``tokenizer`` is `made_by` of what made them.

    Raises:
        InvalidInput: there are none.
    """
    if not grids:
        raise InvalidInput("--data", f"has no image for {path.name}", "add one, of 16×16 or more")
    with whole(path) as file:
        np.savez_compressed(
            file,
            tokenizer=np.array(tokenizer),
            names=np.array([name for name, _ in grids]),
            shapes=np.array([codes.shape for _, codes in grids], np.int32),
            codes=np.concatenate([codes.ravel() for _, codes in grids]).astype(np.uint16),
        )


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz.

    Raises:
        OSError: it cannot be read.
        CorruptData: it is none, or lacks an array that is asked for.
    """
    with (understood(path, "is no whole file of tokens", "remove it, and make it anew"),
          np.load(path) as file):
        yield file


def check_tokenizer(paths: Iterable[Path]) -> str:
    """The `made_by` of the tokenizer that all of these tokens are of; empty if no file says it.

    Raises:
        InvalidInput: they are of several.
    """
    known: dict[str, Path] = {}
    for path in paths:
        with opened(path) as file:
            if "tokenizer" in file:
                known.setdefault(str(file["tokenizer"]), path)
    if len(known) > 1:
        one, other, *_ = known.values()
        raise InvalidInput(str(one), f"was made by another tokenizer than {other}",
                           "make both by one")
    return next(iter(known), "")


def load_grids(path: Path) -> list[tuple[str, Codes]]:
    """Read what `save_grids` wrote."""
    with opened(path) as file:
        names, shapes, codes = file["names"], file["shapes"], file["codes"].astype(np.int32)
    ends = np.cumsum(shapes.prod(1))
    return [(str(name), part.reshape(shape))
            for name, part, shape in zip(names, np.split(codes, ends[:-1]), shapes, strict=True)]
