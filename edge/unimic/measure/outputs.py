"""Where results go: files are looked at before all work, which may take hours."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unimic.codec.errors import InvalidInput
from unimic.edge.console import PIPE, check_output, report, write_output

RESULTS = Path("results.json")
"""Where they go if nothing else is said."""


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


def journal_path(results: Path) -> Path:
    """Beside the results; where these go to standard output, beside where else they would be."""
    beside = RESULTS if str(results) == PIPE else results
    return beside.parent / f"{beside.stem}.jsonl"


def write(args: argparse.Namespace, facts: dict[str, Any], lines: list[str], page: str,
          plots: Mapping[str, str]) -> None:
    """Write the files, then print the figures, unless one of the files is standard output.

    Whether files may be overwritten is known by now. Plots of an earlier run are replaced like its
    report.
    """
    if args.json:
        write_output(str(args.json), as_json(facts, indent=1).encode(), force=True)
    if args.report:
        write_output(str(args.report), page.encode(errors="replace"), force=True)
    for name, drawing in plots.items():
        write_output(str(args.plots / f"{name}.svg"), drawing.encode(), force=True)
    if PIPE not in (str(args.json), str(args.report)):
        print("\n".join(lines))


def tell(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Print figures, as JSON where that is asked for."""
    report(args, facts, answer="\n".join(_table(facts)))


def _table(facts: dict[str, Any]) -> list[str]:
    from unimic.measure.html import shown

    lines = []
    for title, figures in facts.items():
        lines.append(title)
        for name, value in _flat(figures):
            cell = shown(value, 3 if isinstance(value, float) else None)
            lines.append(f"  {name:<40} {cell:>12}")
    return lines


def _flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Figures by their names in words, those of figures within them too."""
    for key, value in figures.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            yield from ((f"{name}: {inner}", number) for inner, number in value.items())
        else:
            yield name, value
