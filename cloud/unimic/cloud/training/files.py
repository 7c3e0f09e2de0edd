"""Files that are there as a whole or not at all, and what is wrong with others' files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from unimic.codec.errors import CorruptData


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` if nothing goes wrong."""
    partial = path.with_name(f".{path.name}")  # it ends alike: that says in which format
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def understood(path: Path, wrong: str, remedy: str) -> Iterator[None]:
    """Errors of what a file holds as `CorruptData`: what is ``wrong``, and what to do.

    Those of reading it, such as that it is missing, stay what they are.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile,
            gzip.BadGzipFile, zlib.error) as error:
        raise CorruptData(str(path), f"{wrong} ({error!r})", remedy) from error
