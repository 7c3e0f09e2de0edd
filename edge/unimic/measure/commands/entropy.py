"""``unimic measure entropy``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.edge.console import HelpFormatter, common_options, progress
from unimic.measure import outputs
from unimic.measure.commands.options import picture_files, text_lines

if TYPE_CHECKING:
    from unimic.measure.entropy import Picture

EXAMPLES = """\
examples:
  unimic measure entropy --images kodak/ --texts captions.txt
  unimic measure entropy --images photos/ --captions captions.jsonl --json
  unimic measure entropy --texts test.txt --dictionary train.txt
"""


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    entropy = actions.add_parser(
        "entropy", parents=[common_options()], help="rates of the entropy models",
        epilog=EXAMPLES, formatter_class=HelpFormatter,
        description="Code pictures and texts with the shipped entropy models and say how many bits "
        "they take: ideal, payload and wire, beside fixed-length tokens and an order-0 histogram.")
    entropy.add_argument("--images", type=Path, nargs="+", default=[], metavar="PATH",
                         help="pictures, or folders of pictures")
    entropy.add_argument("--captions", type=Path, metavar="FILE",
                         help='JSON lines {"image": name without extension, "captions": [text]}; '
                         "only pictures with a caption are measured then")
    entropy.add_argument("--texts", type=Path, nargs="+", default=[], metavar="FILE",
                         help="UTF-8 files; each line is coded by itself")
    entropy.add_argument("--dictionary", type=Path, metavar="FILE",
                         help="UTF-8 file of other texts, to train zstd's dictionary on")
    entropy.add_argument("--every", type=int, default=1, metavar="N",
                         help="measure every Nth picture and line only")
    entropy.set_defaults(run=measure_entropy)


def measure_entropy(args: argparse.Namespace) -> None:
    """Measure and report."""
    from unimic.codec.coder import load_coder
    from unimic.measure.entropy import compressors, measure_pictures, measure_texts

    if args.every < 1:
        raise InvalidInput("--every", f"is {args.every}", "use 1 or more")
    pictures = _pictures(args.images, args.captions)[::args.every]
    texts = {path: text_lines(path)[::args.every] for path in args.texts}
    if not pictures and not texts:
        raise InvalidInput("--images", "nothing to measure", "name pictures or texts")
    store = ModelStore.default()
    coder = load_coder(store)
    dictionary = text_lines(args.dictionary) if args.dictionary else []
    others = [*compressors([line.encode() for line in dictionary])]
    facts: dict[str, Any] = {}
    if pictures:
        with progress("pictures") as show:
            facts["images"] = measure_pictures(store, coder, pictures, show)
    for path, lines in texts.items():
        with progress(path.name) as show:
            facts[f"texts {path}"] = measure_texts(store, coder, lines, others, show)
    outputs.tell(args, facts)


def _pictures(paths: list[Path], captions: Path | None) -> list[Picture]:
    from unimic.measure.entropy import Picture

    files = picture_files(paths)
    if captions is None:
        return [Picture(path) for path in files]
    try:
        rows = [json.loads(line) for line in text_lines(captions)]
        known = {str(row["image"]): str(row["captions"][0]) for row in rows}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InvalidInput("--captions", f"{captions} cannot be understood ({error!r})",
                           'write lines like {"image": "name", "captions": ["text"]}') from error
    return [Picture(path, known[path.stem]) for path in files if path.stem in known]
