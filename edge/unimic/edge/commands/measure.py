"""``unimic measure``: rates of the shipped models; `unimic.edge.measure` does the measuring."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.edge.console import common_options, progress, report

if TYPE_CHECKING:
    from unimic.edge.measure import Picture

EXAMPLES = """\
examples:
  unimic measure entropy --images kodak/ --texts captions.txt
  unimic measure entropy --images photos/ --captions captions.jsonl --json
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``measure entropy``."""
    parser = subparsers.add_parser("measure", help="measure bitrates",
                                   description="Measure bitrates.")
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    entropy = actions.add_parser(
        "entropy", parents=[common_options()], help="rates of the entropy models", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Code pictures and texts with the shipped entropy models and say how many bits "
        "they take: ideal, payload and wire, beside fixed-length tokens and an order-0 histogram.")
    entropy.add_argument("--images", type=Path, nargs="+", default=[], metavar="PATH",
                         help="pictures, or folders of pictures")
    entropy.add_argument("--captions", type=Path, metavar="FILE",
                         help='JSON lines {"image": name without extension, "captions": [text]}; '
                         "only pictures with a caption are measured then")
    entropy.add_argument("--texts", type=Path, nargs="+", default=[], metavar="FILE",
                         help="UTF-8 files; each line is coded by itself")
    entropy.add_argument("--every", type=int, default=1, metavar="N",
                         help="measure every Nth picture and line only")
    entropy.set_defaults(run=measure_entropy)


def measure_entropy(args: argparse.Namespace) -> None:
    """Measure and report."""
    from unimic.codec.coder import load_coder
    from unimic.edge.measure import measure_pictures, measure_texts

    if args.every < 1:
        raise InvalidInput("--every", f"is {args.every}", "use 1 or more")
    pictures = _pictures(args.images, args.captions)[::args.every]
    texts = {path: _lines(path)[::args.every] for path in args.texts}
    if not pictures and not texts:
        raise InvalidInput("--images", "nothing to measure", "name pictures or texts")
    store = ModelStore.default()
    coder = load_coder(store)
    facts: dict[str, Any] = {}
    if pictures:
        with progress("pictures") as show:
            facts["images"] = measure_pictures(store, coder, pictures, show)
    for path, lines in texts.items():
        with progress(path.name) as show:
            facts[f"texts {path.name}"] = measure_texts(store, coder, lines, show)
    report(args, facts, answer="\n".join(_table(facts)))


def _pictures(paths: list[Path], captions: Path | None) -> list[Picture]:
    from unimic.edge.measure import Picture

    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    if captions is None:
        return [Picture(path) for path in files]
    try:
        rows = [json.loads(line) for line in _lines(captions)]
        known = {str(row["image"]): str(row["captions"][0]) for row in rows}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidInput("--captions", f"{captions} cannot be understood ({error!r})",
                           'write lines like {"image": "name", "captions": ["text"]}') from error
    return [Picture(path, known[path.stem]) for path in files if path.stem in known]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), f"cannot be read ({error})", "name a UTF-8 file") from error


def _table(facts: dict[str, Any]) -> list[str]:
    lines = []
    for title, figures in facts.items():
        lines.append(title)
        for name, value in figures.items():
            if isinstance(value, dict):
                lines += [f"  {name.replace('_', ' ')}: {inner} {number:.3f}"
                          for inner, number in value.items()]
            else:
                shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
                lines.append(f"  {name.replace('_', ' '):<40} {shown:>12}")
    return lines
