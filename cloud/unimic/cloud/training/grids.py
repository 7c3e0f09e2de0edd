"""Files of token grids: what the image tokenizer made of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import Codes


def save_grids(path: Path, grids: list[tuple[str, Codes]], tokenizer: str) -> None:
    """Write ``(name, codes)`` pairs as one .npz; ``tokenizer`` is the `mark` of what made them."""
    np.savez_compressed(
        path,
        tokenizer=np.array(tokenizer),
        names=np.array([name for name, _ in grids]),
        shapes=np.array([codes.shape for _, codes in grids], np.int32),
        codes=np.concatenate([codes.ravel() for _, codes in grids]).astype(np.uint16),
    )


def check_tokenizer(paths: Iterable[Path]) -> str:
    """The `mark` of the tokenizer that all of these files of tokens are of; empty if none says so.

    Raises:
        InvalidInput: they are of several.
    """
    known: dict[str, Path] = {}
    for path in paths:
        with np.load(path) as file:
            if "tokenizer" in file:
                known.setdefault(str(file["tokenizer"]), path)
    if len(known) > 1:
        one, other, *_ = known.values()
        raise InvalidInput(str(one), f"was made by another tokenizer than {other}",
                           "make both by one")
    return next(iter(known), "")


def load_grids(path: Path) -> list[tuple[str, Codes]]:
    """Read what `save_grids` wrote."""
    with np.load(path) as file:
        names, shapes, codes = file["names"], file["shapes"], file["codes"].astype(np.int32)
    ends = np.cumsum(shapes.prod(1))
    return [(str(name), part.reshape(shape))
            for name, part, shape in zip(names, np.split(codes, ends[:-1]), shapes, strict=True)]
