"""Files of token grids: what the image tokenizer made of a set of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unimic.codec.tokens import Codes


def save_grids(path: Path, grids: list[tuple[str, Codes]]) -> None:
    """Write ``(name, codes)`` pairs as one .npz."""
    np.savez_compressed(
        path,
        names=np.array([name for name, _ in grids]),
        shapes=np.array([codes.shape for _, codes in grids], np.int32),
        codes=np.concatenate([codes.ravel() for _, codes in grids]).astype(np.uint16),
    )


def load_grids(path: Path) -> list[tuple[str, Codes]]:
    """Read what `save_grids` wrote."""
    with np.load(path) as file:
        names, shapes, codes = file["names"], file["shapes"], file["codes"].astype(np.int32)
    ends = np.cumsum(shapes.prod(1))
    return [(str(name), part.reshape(shape))
            for name, part, shape in zip(names, np.split(codes, ends[:-1]), shapes, strict=True)]
