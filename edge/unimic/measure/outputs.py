"""Where results go: files are looked at before all work, which may take hours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unimic.codec.errors import InvalidInput
from unimic.edge.console import check_output


def check(options: Mapping[str, Path | None], force: bool, more: Mapping[str, Path] | None = None
          ) -> None:
    """Refuse what could not be written in the end.

    Args:
        options: files by the options that name them; None where one does not.
        force: whether those that are there may be overwritten.
        more: other files by what they are; these may be there.

    Raises:
        InvalidInput: a file is there, its folder cannot be written to, or two files are the same.
    """
    named = {name: path for name, path in options.items() if path} | dict(more or {})
    owners: dict[Path, str] = {}
    for name, path in named.items():
        check_output(str(path), force or name not in options)
        if path.exists() and not path.is_file():
            continue  # a pipe or a device
        owner = owners.setdefault(path.resolve(), name)
        if owner != name:
            raise InvalidInput(owner, f"{path} is also the file of {name}", "use another name")


@contextmanager
def for_results() -> Iterator[None]:
    """Keep standard output for results: what codecs print, in processes begun here too, goes to
    standard error."""
    if sys.stdout is None:  # closed
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON in ASCII, for names of files need be no UTF-8; NumPy's numbers are numbers."""
    return json.dumps(value, indent=indent, default=np.generic.item)
