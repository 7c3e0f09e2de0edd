"""What all commands share: files and pipes, reports, progress bars."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from PIL import Image
from tqdm import tqdm

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.progress import Progress
from unimic.edge.arguments import USUAL_QUALITY
from unimic.edge.images import FORMATS, read_bytes

PIPE = "-"
MOST_PIXELS_A_SIDE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 32768, "GIF": 65535}
"""Where an encoder, or for AVIF the decoder, has a limit."""


class HelpFormatter(argparse.HelpFormatter):
    """Wraps texts of one line; what is laid out in lines, as examples are, stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def quality_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--quality``."""
    parser.add_argument("--quality", type=int, default=USUAL_QUALITY, metavar="25-200",
                        help="of the picture: a token stands for 16×16 pixels at 100, 8×8 at 200, "
                        "64×64 at 25 (default: %(default)s)")


def common_options(*, overwrite: bool = False) -> argparse.ArgumentParser:
    """A parent parser with ``-v`` and ``--json``, and ``-f`` for commands that write a file."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("-v", "--verbose", action="count", default=0,
                        help="say more on standard error; repeat for even more")
    parent.add_argument("--json", action="store_true", help="report as JSON")
    if overwrite:
        parent.add_argument("-f", "--force", action="store_true", help="overwrite OUT")
    return parent


def read_input(path: str) -> bytes:
    """The bytes of a file, or of standard input for ``-``."""
    if path != PIPE:
        return read_bytes(path)
    if sys.stdin is None:  # Python's word for a closed one
        raise InvalidInput("standard input", "is closed", "open it, or name a file")
    return read_bytes(sys.stdin.buffer, name="standard input")


def check_output(path: str, force: bool, source: str = PIPE) -> None:
    """Refuse to overwrite before any work is done.

    Raises:
        InvalidInput: the file exists and ``force`` is not set, it is ``source``, which could not be
            had back, or its folder does not exist or cannot be written to.
    """
    if path == PIPE:
        return
    _check_target(path, force)
    if os.path.isfile(path) and os.path.isfile(source) and os.path.samefile(path, source):
        raise InvalidInput(path, "is IN itself", "name another file")
    if not _special(path):
        check_folder(Path(os.path.realpath(path)).parent)


def _check_target(path: str, force: bool) -> None:
    if not path:
        raise InvalidInput("OUT", "is empty", "name a file")
    if os.path.isdir(path):
        raise InvalidInput(path, "is a folder", "name a file")
    if os.path.isfile(path) and not force:
        raise InvalidInput(path, "exists", "use -f to overwrite it")
    if not Path(path).absolute().parent.is_dir():
        raise InvalidInput(path, "its folder does not exist", "make the folder first")


def _special(path: str) -> bool:
    """Whether it is a pipe or a device."""
    return os.path.exists(path) and not os.path.isfile(path)


def make_folder(path: Path) -> None:
    """Make a folder to write to, if it is not there, before any work is done in vain.

    Raises:
        InvalidInput: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(str(path), f"no folder can be made there ({error.strerror})",
                           "name another") from error
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raise `InvalidInput` unless files can be written there; by trying, as permissions alone do
    not tell."""
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InvalidInput(str(path), f"no file can be written there ({error.strerror})",
                           "check its permissions, or use another folder") from error


@contextmanager
def of_file(path: str) -> Iterator[None]:
    """Errors of what is in a file name the file."""
    try:
        yield
    except UnimicError as error:
        name = "standard input" if path == PIPE else path
        raise error.inside(f"{name}: ") from error


def write_output(path: str, data: bytes, force: bool) -> None:
    """Write a file as a whole, or to standard output for ``-``."""
    if path == PIPE:
        with _standard_output() as stdout:
            stdout.buffer.write(data)
        return
    _check_target(path, force)  # someone may have made it since
    try:
        if _special(path):
            Path(path).write_bytes(data)
            return
        target = Path(os.path.realpath(path))  # through a link, not over it
        part = target.with_name(f".unimic-{os.getpid()}.part")
        try:
            part.write_bytes(data)
            if target.exists():  # what others may do with it stays as it was
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(path, f"cannot be written ({error.strerror})",
                           "check the folder, its permissions and the free space") from error


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Standard output, and its errors as a user can act on them."""
    if sys.stdout is None:  # Python's word for a closed one
        raise InvalidInput("standard output", "is closed", "open it, or name a file")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:  # the reader's wish, which is no error
        raise
    except OSError as error:
        discard_output()
        raise InvalidInput("standard output", f"cannot be written ({error.strerror})",
                           "check where it goes, and the free space") from error


def be_lenient() -> None:
    """What standard output has no letters for becomes question marks, and what would go to a closed
    standard error goes nowhere: nothing fails for it."""
    if sys.stderr is None:  # Python's word for a closed one; `print` would take standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)  # lest a file be opened there, for libraries to write into
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def discard_output() -> None:
    """Let what standard output still holds go nowhere when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def picture_format(path: str) -> str | None:
    """Pillow's name of the format that the extension of ``path`` asks for, None if of none.

    Only `FORMATS` count: others shrink a picture or take its colours, or fail, and that when all
    work is done. For ``-`` it is PNG.
    """
    if path == PIPE:
        return "PNG"
    kind = Image.registered_extensions().get(_extension(path))
    return kind if kind in FORMATS and kind in Image.SAVE else None


def output_format(path: str) -> str | None:
    """`picture_format` of a file to write; `InvalidInput` for formats that do not count."""
    kind = picture_format(path)
    if kind is None and _extension(path) in Image.registered_extensions():
        raise InvalidInput(path, "this format does not hold every RGB picture, or cannot be "
                           "written here",
                           "use .png, .jpg, .webp, .avif, .tif, .jp2, .gif, .bmp or .ppm")
    return kind


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def check_picture_size(path: str, kind: str, width: int, height: int) -> None:
    """Refuse a picture that the format ``kind`` of ``path`` cannot hold, before any work is done.
    """
    most = MOST_PIXELS_A_SIDE.get(kind)
    if most and max(width, height) > most:
        raise InvalidInput(path, f"{width}×{height} pixels are more than the {most:,} a side that "
                           f"{kind} holds", "use .png")


def picture_bytes(image: Image.Image, kind: str, path: str = "picture") -> bytes:
    """A picture in the format ``kind``; ``path`` is what errors call it."""
    check_picture_size(path, kind, *image.size)
    file = io.BytesIO()
    try:
        image.save(file, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    except Exception as error:  # each of Pillow's encoders has its own
        raise InvalidInput(path, f"cannot be written as {kind} ({error})", "use .png") from error
    return file.getvalue()


def plain(text: str) -> str:
    """Text of somebody else, without what a terminal would take for commands."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def report(args: argparse.Namespace, facts: dict[str, Any], *, answer: str | None = None,
           details: str | None = None) -> None:
    """Tell the outcome: ``facts`` with ``--json``, else ``answer``, and ``details`` with ``-v``.

    Details go to standard error, and JSON too when the command's own output is a pipe.
    """
    told = json.dumps(facts, ensure_ascii=False) if args.json else answer
    if args.json and getattr(args, "output", None) == PIPE:
        print(told, file=sys.stderr)
    elif told is not None:
        with _standard_output() as stdout:
            print(told, file=stdout)
    if details is not None and args.verbose and not args.json:
        print(details, file=sys.stderr)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing in a pipe; yields a function of (done, all)."""
    with tqdm(desc=label, disable=None, leave=False, file=sys.stderr) as bar:
        def show(done: int, all_: int) -> None:
            bar.total = all_
            bar.update(done - bar.n)
        yield show
