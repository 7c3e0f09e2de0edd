"""The files that results go to: looked at before all work, which may take hours."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from unimic.codec.errors import InvalidInput
from unimic.edge.console import PIPE, check_output


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
        if str(path) != PIPE:
            _check_folder(path.resolve().parent)


def make_folder(path: Path) -> None:
    """Make a folder to write to, if it is not there.

    Raises:
        InvalidInput: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be made a folder ({error.strerror})",
                           "name another") from error
    _check_folder(path)


def _check_folder(path: Path) -> None:
    """By trying: permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InvalidInput(str(path), f"no file can be written there ({error.strerror})",
                           "check its permissions, or use another folder") from error
