"""What several actions of ``unimic measure`` are told, and how they understand it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unimic.codec.errors import InvalidInput
from unimic.measure import outputs

if TYPE_CHECKING:
    from unimic.measure.codecs import Variant

_NAME = "name pictures, or folders of pictures"


def service_options(*, resumable: bool = False) -> argparse.ArgumentParser:
    """A parent for the parsers of what needs a service."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--server", metavar="HOST:PORT",
                        help="use a running service (default: start one)")
    parent.add_argument("--report", type=Path, metavar="FILE", help="write a report as HTML")
    kept = ("; as they come they are kept as JSON lines in the file of the same name with .jsonl"
            if resumable else "")
    parent.add_argument("--json", type=Path, metavar="FILE",
                        help=f"write the figures as JSON{kept}")
    again = parent.add_mutually_exclusive_group()
    if resumable:
        again.add_argument("--resume", action="store_true",
                           help="go on with the JSON lines that are there")
    again.add_argument("-f", "--force", action="store_true", help="overwrite the files")
    parent.add_argument("-v", "--verbose", action="count", default=0,
                        help="say more on standard error")
    return parent


def comma_list(text: str) -> list[str]:
    """Names that are separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def codec_families(names: list[str]) -> tuple[list[list[Variant]], dict[str, str]]:
    """Each codec with its scalings, and versions; codecs that are missing are told and left out."""
    from unimic.measure import codecs

    if codecs.OURS in names:
        raise InvalidInput("--codecs", f"{codecs.OURS} is measured in any case", "name the others")
    wanted = [f"{name}/{scale}" if scale > 1 else name for name in names for scale in codecs.SCALES]
    with outputs.for_results():
        variants, missing = codecs.find(wanted)
    tell_missing(missing)
    families: dict[str, list[Variant]] = {}
    versions: dict[str, str] = {}
    for variant in variants:
        families.setdefault(variant.codec.name, []).append(variant)
        versions |= variant.codec.versions
    return list(families.values()), versions


def tell_missing(missing: dict[str, str]) -> None:
    """Say what is left out, with its remedy."""
    for name, remedy in missing.items():
        print(f"unimic: {name} is skipped: {remedy}", file=sys.stderr)


def picture_files(paths: list[Path]) -> list[Path]:
    """Files, and those in folders that are pictures by their names, each once.

    Raises:
        InvalidInput: there is no such file, or a folder has none.
    """
    from PIL import Image

    from unimic.edge.images import FORMATS

    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    files: dict[Path, Path] = {}
    for path in paths:
        try:
            path.stat()
            found = [path] if not path.is_dir() else sorted(
                file for file in path.iterdir()
                if file.suffix.lower() in endings and file.is_file())
        except OSError as error:
            raise InvalidInput(str(path), f"cannot be read ({error.strerror})", _NAME) from error
        if not found:
            raise InvalidInput(str(path), "is a folder without pictures", _NAME)
        for file in found:
            files.setdefault(file.resolve(), file)
    return [*files.values()]


def text_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, but for empty ones.

    Raises:
        InvalidInput: it cannot be read, or has none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), f"cannot be read ({error})", "name a UTF-8 file") from error
    if not lines:
        raise InvalidInput(str(path), "is empty", "name a file with lines of text")
    return lines
