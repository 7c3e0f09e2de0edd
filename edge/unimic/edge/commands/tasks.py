"""``unimic ask``, ``inpaint``, ``outpaint`` and ``generate``: work done by a service."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unimic.codec.errors import InvalidInput
from unimic.codec.umc import MAGIC
from unimic.edge.arguments import number
from unimic.edge.console import (
    PIPE,
    HelpFormatter,
    check_output,
    check_picture_size,
    common_options,
    of_file,
    output_format,
    picture_bytes,
    plain,
    progress,
    quality_option,
    read_input,
    report,
    write_output,
)
from unimic.edge.images import load_image, load_mask

if TYPE_CHECKING:
    from PIL import Image

    from unimic.codec.tokens import TokenGrid
    from unimic.edge.client import Client
    from unimic.edge.models import Models
    from unimic.edge.results import Picture, Stats

INPUT = "picture, or .umc file, whose tokens are sent as they are; - is standard input"
OUTPUT = "picture, or .umc file for its tokens; - is standard output (PNG)"
TOKENS = "UMC"  # beside the formats of pictures
EXAMPLES = {
    "ask": """\
examples:
  unimic ask kitchen.jpg "what is on the table?"
  unimic ask kitchen.jpg                            a caption
""",
    "inpaint": """\
examples:
  unimic inpaint kitchen.jpg edited.png --box 120,80,200,240 --prompt "a red vase"
  unimic inpaint kitchen.jpg edited.png --mask bright-where-new.png
""",
    "outpaint": """\
examples:
  unimic outpaint kitchen.jpg wide.png --left 64 --right 64
""",
    "generate": """\
examples:
  unimic generate "two dogs run on a beach" dogs.png --seed 7
""",
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four commands."""
    service, sampling = _service_options(), _sampling_options()
    common, writing = common_options(), common_options(overwrite=True)

    def command(name: str, help_: str, *parents: argparse.ArgumentParser
                ) -> argparse.ArgumentParser:
        return subparsers.add_parser(
            name, help=help_, description=help_[0].upper() + help_[1:] + ".", parents=parents,
            epilog=EXAMPLES[name], formatter_class=HelpFormatter)

    parser = command("ask", "answer a question about a picture", common, service)
    parser.add_argument("input", metavar="IN", help=INPUT)
    parser.add_argument("question", metavar="QUESTION", nargs="?", default="",
                        help="without one, the answer is a caption")
    quality_option(parser)
    parser.set_defaults(run=ask)

    parser = command("inpaint", "make a region of a picture anew", writing, service, sampling)
    _add_in_out(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--box", type=_box, metavar="LEFT,TOP,RIGHT,BOTTOM",
                       help="the region in pixels")
    where.add_argument("--mask", metavar="FILE",
                       help="a picture of the same size, bright where the region is")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what shall be there")
    quality_option(parser)
    parser.set_defaults(run=inpaint)

    parser = command("outpaint", "extend a picture beyond its borders", writing, service, sampling)
    _add_in_out(parser)
    for side in ("left", "top", "right", "bottom"):
        parser.add_argument(f"--{side}", type=int, default=0, metavar="PIXELS",
                            help=f"to add at the {side}")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what shall be there")
    quality_option(parser)
    parser.set_defaults(run=outpaint)

    parser = command("generate", "make a picture from a description", writing, service, sampling)
    parser.add_argument("prompt", metavar="PROMPT", help="what the picture shall show")
    parser.add_argument("output", metavar="OUT", help=OUTPUT)
    parser.add_argument("--size", type=_size, default=(256, 256), metavar="WIDTHxHEIGHT",
                        help="in pixels (default: 256x256)")
    parser.set_defaults(run=generate)


def _add_in_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help=INPUT)
    parser.add_argument("output", metavar="OUT", help=OUTPUT)


def _service_options() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("service")
    group.add_argument("--server", metavar="HOST:PORT",
                       default=os.environ.get("UNIMIC_SERVER", "localhost:50051"),
                       help="default: $UNIMIC_SERVER or localhost:50051")
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after so long")
    group.add_argument("--tls", action="store_true",
                       help="encrypt; implied by the following options")
    group.add_argument("--tls-ca", metavar="FILE",
                       help="authority that signed the server's certificate, if not a public one")
    group.add_argument("--tls-cert", metavar="FILE", help="own certificate, for a service that "
                       "asks for one")
    group.add_argument("--tls-key", metavar="FILE", help="its private key")
    return parent


def _sampling_options() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("sampling", "defaults are the service's")
    group.add_argument("--seed", type=int, help="equal seeds make equal pictures; with neither "
                       "seed nor prompt a hole gets what can be expected there")
    group.add_argument("--steps", type=int, help="more take longer and look better")
    group.add_argument("--temperature", type=float, help="0 draws what is likeliest")
    group.add_argument("--guidance", type=float, help="how closely to follow the prompt")
    return parent


def _numbers(text: str, separator: str, count: int) -> tuple[int, ...]:
    parts = text.split(separator)
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not {count} numbers with {separator!r}")
    return tuple(map(int, parts))


def _box(text: str) -> tuple[int, ...]:
    return _numbers(text, ",", 4)


def _size(text: str) -> tuple[int, ...]:
    return _numbers(text.lower(), "x", 2)


def connect(args: argparse.Namespace, models: Models) -> Client:
    """The client that the service options describe; use it in a ``with``."""
    from unimic.edge.client import Client
    from unimic.edge.connection import CONNECT_SECONDS, Tls

    encrypted = args.tls or args.tls_ca or args.tls_cert or args.tls_key
    tls = Tls(args.tls_ca, args.tls_cert, args.tls_key) if encrypted else None
    patience = CONNECT_SECONDS
    if args.timeout is not None:
        patience = min(patience, number("--timeout", args.timeout, 0, math.inf))
    return Client(args.server, tls=tls, models=models, timeout=args.timeout,
                  connect_timeout=patience)


def ask(args: argparse.Namespace) -> None:
    """Answer a question, or caption."""
    image, models = _load(args)
    with connect(args, models) as cloud, progress("ask") as show:
        photo = cloud.share(image, quality=args.quality, on_progress=show)
        answer = (cloud.ask(photo, args.question, on_progress=show) if args.question else
                  cloud.caption(photo, on_progress=show))
        facts = {"answer": answer.text, "confidence": round(answer.confidence, 4)}
        _report(args, facts, {"share": photo.stats, "task": answer.stats}, plain(answer.text),
                [f"confidence: {answer.confidence:.2f}"])


def inpaint(args: argparse.Namespace) -> None:
    """Make a region anew."""
    if args.input == args.mask == PIPE:
        raise InvalidInput("--mask", "standard input is the picture", "name a file")
    kind = _check_output(args)
    image, models = _load(args)
    check_picture_size(args.output, kind, image.width, image.height)
    region = args.box or load_mask(read_input(args.mask), name=args.mask)
    with connect(args, models) as cloud, progress("inpaint") as show:
        photo = cloud.share(image, quality=args.quality, on_progress=show)
        result = cloud.inpaint(photo, region, args.prompt, on_progress=show, **_sampling(args))
        _write(args, kind, result, models, {"share": photo.stats, "task": result.stats})


def outpaint(args: argparse.Namespace) -> None:
    """Extend a picture."""
    kind = _check_output(args)
    image, models = _load(args)
    margins = {side: getattr(args, side) for side in ("left", "top", "right", "bottom")}
    check_picture_size(args.output, kind, args.left + image.width + args.right,
                       args.top + image.height + args.bottom)
    with connect(args, models) as cloud, progress("outpaint") as show:
        photo = cloud.share(image, quality=args.quality, on_progress=show)
        result = cloud.outpaint(photo, **margins, prompt=args.prompt, on_progress=show,
                                **_sampling(args))
        _write(args, kind, result, models, {"share": photo.stats, "task": result.stats})


def generate(args: argparse.Namespace) -> None:
    """Make a picture."""
    from unimic.edge.models import Models

    kind = _check_output(args)
    check_picture_size(args.output, kind, *args.size)
    models = Models.load()
    with connect(args, models) as cloud, progress("generate") as show:
        result = cloud.generate(args.prompt, *args.size, on_progress=show, **_sampling(args))
        _write(args, kind, result, models, {"task": result.stats})


def _load(args: argparse.Namespace) -> tuple[Image.Image | TokenGrid, Models]:
    """The picture, or the tokens of a ``.umc`` file; and the models that know them."""
    from unimic.edge.files import decode
    from unimic.edge.models import Models

    data = read_input(args.input)
    if not data.startswith(MAGIC):
        return load_image(data, name=args.input), Models.load()
    models = Models.load()
    with of_file(args.input):
        return decode(data, models).grid, models


def _check_output(args: argparse.Namespace) -> str:
    """The format to write."""
    check_output(args.output, args.force)
    if args.output.lower().endswith(".umc"):
        return TOKENS
    kind = output_format(args.output)
    if kind is None:
        raise InvalidInput(args.output, "its extension is not that of a picture",
                           "use .png, .jpg, .webp or another, or .umc")
    return kind


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("seed", "steps", "temperature", "guidance")}


def _write(args: argparse.Namespace, kind: str, result: Picture, models: Models,
           stats: dict[str, Stats]) -> None:
    from unimic.edge.files import encode_image

    data = (encode_image(result.grid, models).data if kind == TOKENS else
            picture_bytes(result.image, kind, args.output))
    write_output(args.output, data, args.force)
    facts = {"output": args.output, "width": result.width, "height": result.height}
    _report(args, facts, stats)


def _report(args: argparse.Namespace, facts: dict[str, Any], stats: dict[str, Stats],
            answer: str | None = None, notes: Sequence[str] = ()) -> None:
    if not (args.json or args.verbose):
        stats = {}  # to tell the bits of what came down, it would be coded once more
    costs = {turn: cost.as_dict() for turn, cost in stats.items()}
    report(args, {**facts, **costs}, answer=answer,
           details="\n".join([*notes, *(f"{turn}: {cost}" for turn, cost in stats.items())]))
