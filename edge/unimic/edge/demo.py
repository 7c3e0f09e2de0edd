"""The main job on an example photo, with a real server in its own process.

A photo goes up once, as tokens. Then the service answers a question about it, makes a region of it
anew, extends it and makes a new picture; each of these turns sends only what the other side does
not hold yet. What each turn cost is printed, and the pictures are written with a contact sheet.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from time import perf_counter
from typing import TypeVar

from PIL import Image, ImageDraw

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress
from unimic.edge.client import Client
from unimic.edge.console import make_folder, picture_bytes, progress, report, write_output
from unimic.edge.contact_sheet import Tile, contact_sheet
from unimic.edge.images import load_image
from unimic.edge.models import Models
from unimic.edge.results import Answer, Picture, Stats

SIDE = 256
LEAST_SIDE = 16
MARGIN = 32
SHEET = "contact-sheet.jpg"
LISTENING = "listening on "
START_SECONDS, STOP_SECONDS = 120.0, 20.0

Result = TypeVar("Result", Picture, Answer)


@dataclass(frozen=True)
class Turn:
    """One exchange with the service."""

    name: str
    outcome: str
    stats: Stats
    seconds: float


def demo(args: argparse.Namespace) -> None:
    """Run the demo."""
    if args.out.is_dir() and any(args.out.iterdir()) and not args.force:
        raise InvalidInput(str(args.out), "exists", "use -f to overwrite the pictures in it")
    photo = load_image(args.photo) if args.photo else _example()
    if min(photo.size) < LEAST_SIDE:
        raise InvalidInput(str(args.photo), f"{photo.width}×{photo.height} pixels are too few to "
                           "make a part anew", f"use at least {LEAST_SIDE}×{LEAST_SIDE}")
    models = Models.load()
    with service(args.server) as address, Client(address, models=models) as cloud:
        make_folder(args.out)
        turns, tiles = _converse(cloud, models, photo, args)
    for name, tile in tiles.items():
        _write(args.out / f"{name}.png", tile.picture, "PNG")
    _write(args.out / SHEET, contact_sheet(list(tiles.values())), "JPEG")
    facts = {"out": str(args.out), "turns": [
        {"turn": turn.name, "outcome": turn.outcome, "seconds": turn.seconds,
         **turn.stats.as_dict()} for turn in turns]}
    report(args, facts, answer=f"{_table(turns)}\n\nPictures: {args.out / SHEET} and the others "
           "beside it.")


def _write(path: Path, picture: Image.Image, kind: str) -> None:
    write_output(str(path), picture_bytes(picture, kind, str(path)), force=True)


def _example() -> Image.Image:
    try:
        from skimage.data import coffee
    except ImportError as error:
        raise InvalidInput("scikit-image", "is not installed, and it carries the example photo",
                           "pip install 'unimic[demo]', or pass --photo FILE") from error
    whole = Image.fromarray(coffee())
    side = min(whole.size)
    left = (whole.width - side) // 2
    return whole.crop((left, 0, left + side, side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _converse(cloud: Client, models: Models, photo: Image.Image, args: argparse.Namespace
              ) -> tuple[list[Turn], dict[str, Tile]]:
    """Every turn, and the pictures with what they cost."""
    turns: list[Turn] = []

    def take(name: str, call: Callable[[Progress], Result]) -> Result:
        began = perf_counter()
        with progress(name) as show:
            result = call(show)
        outcome = (f"{result.width}×{result.height} pixels" if isinstance(result, Picture)
                   else f"“{result.text}”")
        turns.append(Turn(name, outcome, result.stats, perf_counter() - began))
        return result

    width, height = photo.size
    box = (width * 9 // 16, height * 9 // 16, width * 13 // 16, height * 13 // 16)
    shared = take("share", lambda show: cloud.share(photo))
    answer = take("ask", lambda show: cloud.ask(shared, args.question, on_progress=show))
    edited = take("inpaint", lambda show: cloud.inpaint(
        shared, box, args.inpaint, seed=args.seed, on_progress=show))
    wide = take("outpaint", lambda show: cloud.outpaint(
        edited, left=MARGIN, right=MARGIN, prompt=args.outpaint, seed=args.seed,
        on_progress=show))
    fresh = take("generate", lambda show: cloud.generate(
        args.generate, seed=args.seed, on_progress=show))

    costs = [_cost(turn.stats) for turn in turns]
    marked = photo.copy()
    ImageDraw.Draw(marked).rectangle(box, outline="red", width=2)
    return turns, {
        "original": Tile(marked, "original", f"{args.question} “{answer.text}”", costs[1]),
        "decoded": Tile(models.images.decode(shared.grid), "decoded", "what the cloud sees",
                        costs[0]),
        "inpainted": Tile(edited.image, "inpainted", f"“{args.inpaint}”", costs[2]),
        "outpainted": Tile(wide.image, "outpainted", f"“{args.outpaint}”", costs[3]),
        "generated": Tile(fresh.image, "generated", f"“{args.generate}”", costs[4]),
    }


def _cost(stats: Stats) -> str:
    return f"{stats.up.wire_bytes:,} bytes up, {stats.down.wire_bytes:,} down"


def _table(turns: list[Turn]) -> str:
    """Bits that each turn sent and received: ideal, payload and on the wire."""
    lines = [f"{'':<10}{'bits up':^27}{'bits down':^27}",
             f"{'turn':<10}" + f"{'ideal':>9}{'payload':>9}{'wire':>9}" * 2 + "  seconds  outcome"]
    for turn in turns:
        cells = "".join(
            f"{sizes.ideal_bits:>9,.0f}{8 * sizes.payload_bytes:>9,}{8 * sizes.wire_bytes:>9,}"
            for sizes in (turn.stats.up, turn.stats.down))
        lines.append(f"{turn.name:<10}{cells}{turn.seconds:>9.1f}  {turn.outcome}")
    return "\n".join(lines)


@contextmanager
def service(address: str | None) -> Iterator[str]:
    """The address of a service: that one, or a new one in a process of its own."""
    if address:
        yield address
        return
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "unimic.edge.cli", "serve", "--port", "0"], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            line = _first_line(process)
            if not line.startswith(LISTENING):
                log.seek(0)
                reason = log.read().strip().splitlines() or ["it said nothing"]
                raise InvalidInput("serve", f"the service did not start ({reason[-1]})",
                                   "try unimic serve by itself")
            yield line.removeprefix(LISTENING).strip()
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _first_line(process: subprocess.Popen[str]) -> str:
    """What the process says first; nothing if it ends or takes too long."""
    lines: Queue[str] = Queue()

    def read() -> None:
        assert process.stdout
        lines.put(process.stdout.readline())
        process.stdout.read()  # so that it is never stopped by a full pipe

    threading.Thread(target=read, daemon=True).start()
    try:
        return lines.get(timeout=START_SECONDS)
    except Empty:
        return ""
