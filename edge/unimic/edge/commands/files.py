"""``unimic encode``, ``decode`` and ``info``: pictures and texts in ``.umc`` files."""

from __future__ import annotations

import argparse
import io
import math
import mimetypes
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from unimic.codec import umc
from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.packets import packet_size
from unimic.codec.store import ModelStore
from unimic.codec.tokens import TokenGrid, grid_shape
from unimic.edge.arguments import USUAL_QUALITY
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
from unimic.edge.images import FILE_LIMITS, load_image
from unimic.v1 import packet_pb2 as pb

if TYPE_CHECKING:
    from unimic.edge.files import Decoded

ENCODE_EXAMPLES = """\
examples:
  unimic encode photo.jpg photo.umc
  unimic encode photo.jpg photo.umc --prompt "two dogs on a beach"   the prompt helps, and is kept
  unimic encode photo.jpg photo.umc --budget 200                     at most 200 bytes
  unimic encode notes.txt notes.umc
  curl -s https://example.org/photo.jpg | unimic encode - - | unimic decode - photo.png
"""
DECODE_EXAMPLES = """\
examples:
  unimic decode photo.umc photo.png
  unimic decode photo.umc prompt.txt      the text in the file
  unimic decode notes.umc -               to standard output (pictures as PNG)
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands."""
    parser = subparsers.add_parser(
        "encode", help="code a picture or a text into a .umc file", epilog=ENCODE_EXAMPLES,
        formatter_class=HelpFormatter, parents=[common_options(overwrite=True)],
        description="Code a picture (JPEG, PNG, WebP, AVIF, …) or a UTF-8 text into a .umc file.")
    parser.add_argument("input", metavar="IN", help="picture or text; - is standard input")
    parser.add_argument("output", metavar="OUT", help=".umc file; - is standard output")
    parser.add_argument("--prompt", metavar="TEXT",
                        help="a description of the picture, coded first and used to code it")
    parser.add_argument("--text", action="store_true",
                        help="IN is text even if it looks like a picture")
    parser.add_argument("--raw", action="store_true",
                        help="write fixed-length tokens instead of entropy coding")
    rate = parser.add_mutually_exclusive_group()
    quality_option(rate)
    rate.add_argument("--budget", type=int, metavar="BYTES",
                      help="OUT has at most so many bytes, and is as faithful as they allow")
    parser.set_defaults(run=encode)

    parser = subparsers.add_parser(
        "decode", help="turn a .umc file back into a picture or a text", epilog=DECODE_EXAMPLES,
        formatter_class=HelpFormatter, parents=[common_options(overwrite=True)],
        description="Turn a .umc file back. A picture is written in the format of OUT's "
        "extension, a text as UTF-8.")
    parser.add_argument("input", metavar="IN", help=".umc file; - is standard input")
    parser.add_argument("output", metavar="OUT", help="picture or text; - is standard output")
    parser.set_defaults(run=decode)

    parser = subparsers.add_parser(
        "info", help="say what is in a .umc file", parents=[common_options()],
        description="Say what is in a .umc file: packets, models, sizes, bits. Nothing is "
        "decoded, so the models need not be here.")
    parser.add_argument("input", metavar="IN", help=".umc file; - is standard input")
    parser.set_defaults(run=info)


def encode(args: argparse.Namespace) -> None:
    """Code a picture or a text."""
    from unimic.edge.files import encode_image, encode_text
    from unimic.edge.models import Models

    check_output(args.output, args.force, args.input)
    if args.raw and args.budget is not None:
        raise InvalidInput("--budget", "needs entropy coding", "leave out --raw")
    began = time.perf_counter()
    content = _load(args)
    if isinstance(content, str):
        for option, default in ("prompt", None), ("budget", None), ("quality", USUAL_QUALITY):
            if getattr(args, option) != default:
                raise InvalidInput(f"--{option}", "belongs to a picture, but IN is a text",
                                   "leave it out")
    with progress("encode") as show:
        models = Models.load(entropy=not args.raw).watched(show)
        try:
            coded = (encode_text(content, models, raw=args.raw) if isinstance(content, str) else
                     encode_image(content, models, prompt=args.prompt, quality=args.quality,
                                  budget=args.budget, raw=args.raw))
        except UnimicError as error:
            if error.field not in ("prompt", "quality", "budget"):
                raise
            raise type(error)(f"--{error.field}", error.message, error.remedy) from error
    write_output(args.output, coded.data, args.force)
    facts = {
        "input": args.input, "output": args.output, "file_bytes": len(coded.data),
        "ideal_bits": coded.ideal_bits, "payload_bytes": coded.payload_bytes,
        "seconds": round(time.perf_counter() - began, 3),
    }
    told, what = _described(content)
    report(args, facts | told, details=f"{what} in {len(coded.data):,} bytes (payload "
           f"{coded.payload_bytes:,}, ideal {coded.ideal_bits / 8:,.1f}), {facts['seconds']:.1f} s")


def _load(args: argparse.Namespace) -> Image.Image | str:
    data = read_input(args.input)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if not args.text:
        if args.input == PIPE and not data:  # more likely the end of what failed than a text
            raise InvalidInput("standard input", "is empty", "give a picture or a text, or --text")
        try:
            return load_image(data, name=args.input)
        except InvalidInput as error:
            if text is None or "\0" in text:
                raise
            kind = mimetypes.guess_type(args.input)[0] or ""
            if kind.startswith("image/"):
                raise InvalidInput(error.field, error.message,
                                   f"{error.remedy}; --text codes it as a text") from error
    if text is None:
        raise InvalidInput(args.input, "is not UTF-8 text", "convert it to UTF-8")
    return text


def decode(args: argparse.Namespace) -> None:
    """Turn a file back into a picture or a text."""
    from unimic.edge import files
    from unimic.edge.models import Models

    check_output(args.output, args.force, args.input)
    began = time.perf_counter()
    kind = output_format(args.output)
    coded = read_input(args.input)
    with progress("decode") as show:
        models = Models.load().watched(show)
        with of_file(args.input):
            file = files.decode(coded, models)
        content = _choose(args.output, kind, file)
        if isinstance(content, TokenGrid):
            assert kind
            check_picture_size(args.output, kind, content.width, content.height)
            data = picture_bytes(file.image, kind, args.output)
            told, what = _described(content)
        else:
            with of_file(args.input):
                data = file.text.encode("utf-8")
            told, what = _described(file.text)
    write_output(args.output, data, args.force)
    seconds = round(time.perf_counter() - began, 3)
    report(args, {"input": args.input, "output": args.output, "bytes": len(data),
                  "seconds": seconds, **told}, details=f"{what}, {seconds:.1f} s")


def _described(content: Image.Image | TokenGrid | str) -> tuple[dict[str, Any], str]:
    """A picture or a text in a report, for programs and for people."""
    if isinstance(content, str):
        return {"kind": "text", "characters": len(content)}, f"{len(content):,} characters"
    return ({"kind": "image", "width": content.width, "height": content.height},
            f"{content.width}×{content.height} pixels")


def _choose(output: str, kind: str | None, file: Decoded) -> umc.Content:
    """The last content that ``output`` can hold."""
    wanted = {pb.KIND_IMAGE} if kind else {pb.KIND_TEXT}
    if output == PIPE:
        wanted |= {pb.KIND_TEXT}
    if (content := file.last(wanted)) is None:
        held, use = (("no picture", "a .txt file") if kind else
                     ("no text", "a picture's extension"))
        raise InvalidInput(output, f"the file holds {held} to write there", f"use {use} for OUT")
    return content


def info(args: argparse.Namespace) -> None:
    """Say what is in a file."""
    data = read_input(args.input)
    with of_file(args.input):
        packets = umc.read(io.BytesIO(data), FILE_LIMITS)
    try:
        store = ModelStore.default()
    except UnimicError:
        store = None
    rows = [_describe(packet, packets, store) for packet in packets]
    packed = sum(row["header_bytes"] + row["payload_bytes"] for row in rows)
    spaces = sorted({row["space"] for row in rows})
    facts = {"file": args.input, "bytes": len(data), "container_bytes": len(data) - packed,
             "spaces": spaces, "packets": rows}
    lines = [f"{plain(args.input)}: {len(data):,} bytes, {len(rows)} "
             f"{'packet' if len(rows) == 1 else 'packets'}, token space {', '.join(spaces)}"]
    for position, row in enumerate(rows):
        size = ("{width}×{height} at {pitch} pixels a token, ".format(**row)
                if "width" in row else "")
        bits = f" ({row['bits_per_token']:.2f} bits/token)" if row["bits_per_token"] else ""
        after = f", needs {', '.join(map(str, row['references']))}" if row["references"] else ""
        tokens = f"{row['tokens']:,} tokens" if row["tokens"] is not None else "tokens of a mask"
        lines.append(
            f"  {position}: {row['kind']}, {row['scenario']}{after}, {size}{tokens}, "
            f"{row['coding']} {row['model'] or ''}".rstrip())
        lines.append(f"     header {row['header_bytes']:,} bytes, payload "
                     f"{row['payload_bytes']:,} bytes{bits}")
    lines.append(f"  container {facts['container_bytes']} bytes")
    report(args, facts, answer="\n".join(lines))


def _describe(
    packet: pb.Packet, packets: Sequence[pb.Packet], store: ModelStore | None
) -> dict[str, Any]:
    payload = len(packet.payload)
    sized = packet
    while sized.scenario == pb.SCENARIO_MASKED and sized.references:
        sized = packets[sized.references[0]]  # the image that it changes
    row: dict[str, Any] = {
        "kind": _word(pb.Kind, packet.kind), "scenario": _word(pb.Scenario, packet.scenario),
        "coding": _word(pb.Coding, packet.coding), "space": packet.space.hex(),
        "model": _model_name(packet, store), "references": list(packet.references),
        "header_bytes": packet.ByteSize() - payload, "payload_bytes": payload,
    }
    tokens: int | None = packet.count
    if packet.kind != pb.KIND_TEXT:
        width, height, pitch = packet_size(sized)
        row |= {"width": width, "height": height, "pitch": pitch}
        tokens = math.prod(grid_shape(width, height, pitch)) if packet is sized else None
    return row | {"tokens": tokens, "bits_per_token": payload * 8 / tokens if tokens else None}


def _model_name(packet: pb.Packet, store: ModelStore | None) -> str | None:
    if not packet.model:
        return None
    names = [e.name for e in store.entries.values() if e.id == packet.model] if store else []
    return f"{packet.model.hex()} ({names[0] if names else 'not here'})"


def _word(enum: Any, value: int) -> str:
    """``SCENARIO_TEXT_CONDITIONED`` as ``text-conditioned``."""
    name = str(enum.Name(value)).partition("_")[2]
    return name.lower().replace("_", "-")


