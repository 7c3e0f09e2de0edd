"""What all commands share: files and pipes, reports, progress bars."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress
from unimic.edge.images import read_bytes

PIPE = "-"
USUAL_QUALITY = 100  # at which nothing is resampled



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
    return read_bytes(sys.stdin.buffer if path == PIPE else path)


def check_output(path: str, force: bool) -> None:
    """Refuse to overwrite before any work is done.

    Raises:
        InvalidInput: the file exists and ``force`` is not set, or its folder does not exist.
    """
    if path == PIPE:
        return
    if os.path.isdir(path):
        raise InvalidInput(path, "is a folder", "name a file")
    if os.path.isfile(path) and not force:
        raise InvalidInput(path, "exists", "use -f to overwrite it")
    if not Path(path).absolute().parent.is_dir():
        raise InvalidInput(path, "its folder does not exist", "make the folder first")


def write_output(path: str, data: bytes, force: bool) -> None:
    """Write a file as a whole, or to standard output for ``-``."""
    if path == PIPE:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    check_output(path, force)  # someone may have made it since
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device
            Path(path).write_bytes(data)
            return
        target = os.path.realpath(path)  # through a link, not over it
        part = Path(f"{target}.{os.getpid()}.part")
        try:
            part.write_bytes(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(path, f"cannot be written ({error.strerror})",
                           "check the folder, its permissions and the free space") from error


def picture_format(path: str) -> str | None:
    """Pillow's name of the format that the extension of ``path`` asks for, None if of none.

    For ``-`` it is PNG.
    """
    if path == PIPE:
        return "PNG"
    kind = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
    return kind if kind in Image.SAVE else None


def picture_bytes(image: Image.Image, kind: str) -> bytes:
    """A picture in the format ``kind``."""
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    return file.getvalue()


def report(args: argparse.Namespace, facts: dict[str, Any], *, answer: str | None = None,
           details: str | None = None) -> None:
    """Tell the outcome: ``facts`` with ``--json``, else ``answer``, and ``details`` with ``-v``.

    Details go to standard error, and JSON too when the command's own output is a pipe.
    """
    if args.json:
        piped = getattr(args, "output", None) == PIPE
        print(json.dumps(facts, ensure_ascii=False), file=sys.stderr if piped else sys.stdout)
        return
    if answer is not None:
        print(answer)
    if details is not None and args.verbose:
        print(details, file=sys.stderr)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A progress bar on a terminal, nothing in a pipe; yields a function of (done, all)."""
    with tqdm(desc=label, disable=None, leave=False, file=sys.stderr) as bar:
        def show(done: int, all_: int) -> None:
            bar.total = all_
            bar.update(done - bar.n)
        yield show
