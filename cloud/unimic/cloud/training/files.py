"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` if nothing goes wrong."""
    partial = path.with_name(f".{path.name}")  # it ends alike: that says in which format
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
