"""``unimic encode``, ``decode`` and ``info``: pictures and texts in ``.umc`` files."""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from unimic.codec import umc
from unimic.codec.errors import InvalidInput, LimitExceeded, UnimicError
from unimic.codec.frequencies import SKIP_ALL
from unimic.codec.packets import (
    Packed,
    for_file,
    pack_image,
    pack_text,
    packet_size,
)
from unimic.codec.store import ModelStore
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import PITCHES, Codes, TokenGrid, check_size, grid_shape
from unimic.edge.console import (
    PIPE,
    USUAL_QUALITY,
    check_output,
    check_picture_size,
    common_options,
    output_format,
    picture_bytes,
    progress,
    quality_option,
    read_input,
    report,
    write_output,
)
from unimic.edge.images import FILE_LIMITS, load_image
from unimic.v1 import packet_pb2 as pb

if TYPE_CHECKING:
    from unimic.codec.coder import Coder
    from unimic.edge.image_tokenizer import ImageTokenizer

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
    raw_text = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "encode", help="code a picture or a text into a .umc file", epilog=ENCODE_EXAMPLES,
        formatter_class=raw_text, parents=[common_options(overwrite=True)],
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
        formatter_class=raw_text, parents=[common_options(overwrite=True)],
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
    from unimic.codec.coder import Coder, load_coder

    check_output(args.output, args.force)
    if args.raw and args.budget is not None:
        raise InvalidInput("--budget", "needs entropy coding", "leave out --raw")
    began = time.perf_counter()
    content = _load(args)
    store = ModelStore.default()
    coder = Coder(store.space(), None, None) if args.raw else load_coder(store)
    if isinstance(content, str):
        for option, default in ("prompt", None), ("budget", None), ("quality", USUAL_QUALITY):
            if getattr(args, option) != default:
                raise InvalidInput(f"--{option}", "belongs to a picture, but IN is a text",
                                   "leave it out")
        parts = [_pack_text(coder, _encode_text(store, content), args.raw)]
    else:
        parts = _pack_picture(coder, store, content, args)
    file = io.BytesIO()
    size = umc.write(file, [packed.packet for packed in parts])
    write_output(args.output, file.getvalue(), args.force)
    facts = {
        "input": args.input, "output": args.output, "file_bytes": size,
        "ideal_bits": sum(packed.sizes.ideal_bits for packed in parts),
        "payload_bytes": sum(packed.sizes.payload_bytes for packed in parts),
        "seconds": round(time.perf_counter() - began, 3),
    }
    if isinstance(content, Image.Image):
        facts |= {"kind": "image", "width": content.width, "height": content.height}
        what = f"{content.width}×{content.height} pixels"
    else:
        facts |= {"kind": "text", "characters": len(content)}
        what = f"{len(content):,} characters"
    report(args, facts, details=f"{what} in {size:,} bytes (payload {facts['payload_bytes']:,}, "
           f"ideal {facts['ideal_bits'] / 8:,.1f}), {facts['seconds']:.1f} s")


def _load(args: argparse.Namespace) -> Image.Image | str:
    data = read_input(args.input)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if not args.text:
        try:
            return load_image(data, name=args.input)
        except InvalidInput:
            if text is None or "\0" in text:
                raise
    if text is None:
        raise InvalidInput(args.input, "is not UTF-8 text", "convert it to UTF-8")
    return text


def _pack_picture(
    coder: Coder, store: ModelStore, image: Image.Image, args: argparse.Namespace
) -> list[Packed]:
    from unimic.edge.image_tokenizer import ImageTokenizer

    parts, ids = [], None
    if args.prompt is not None:
        ids = _encode_text(store, args.prompt)
        parts.append(_pack_text(coder, ids, args.raw))
    images = ImageTokenizer(store)
    if args.budget is None:
        pitch = coder.space.pitch(args.quality)
        check_size(image.width, image.height, pitch, FILE_LIMITS.max_tokens)
        with progress("look") as show:
            grid = images.watched(show).encode(image, pitch)
        with progress("code") as show:
            packed: Packed = pack_image(coder.watched(show), grid, prompt=ids, raw=args.raw)
    else:
        with progress("code") as show:
            packed = _pack_within(coder.watched(show), images, image, ids, parts, args.budget)
    return [*parts, _picture_for_file(packed, coder)]


def _pack_within(coder: Coder, images: ImageTokenizer, image: Image.Image, ids: Codes | None,
                 parts: list[Packed], budget: int) -> Packed:
    """The picture, such that a file of ``parts`` and it has at most ``budget`` bytes."""
    from unimic.edge.rate import pack_photo_within

    check_size(image.width, image.height, PITCHES[-1], FILE_LIMITS.max_tokens)
    grid = images.encode(image, PITCHES[-1])
    least: Packed = pack_image(coder, grid, prompt=ids, skip=SKIP_ALL)
    file = [part.packet for part in (*parts, _picture_for_file(least, coder))]
    smallest = umc.write(io.BytesIO(), file)
    if smallest > budget:
        raise LimitExceeded("--budget", f"{budget} bytes are too few",
                            f"this file takes at least {smallest}")
    room = budget - smallest - 2  # a longer packet may need two more bytes for its length
    if room <= 0:
        return least
    return pack_photo_within(coder, images, image, least.sizes.wire_bytes + room,
                             most_tokens=FILE_LIMITS.max_tokens, prompt=ids)


def _picture_for_file(packed: Packed, coder: Coder) -> Packed:
    conditioned = packed.packet.scenario == pb.SCENARIO_TEXT_CONDITIONED
    return Packed(for_file(packed.packet, coder, [0] if conditioned else []), packed.sizes)


def _pack_text(coder: Coder, ids: Codes, raw: bool) -> Packed:
    with progress("code") as show:
        packed = pack_text(coder.watched(show), ids, raw=raw)
    return Packed(for_file(packed.packet, coder), packed.sizes)


def _encode_text(store: ModelStore, text: str) -> Codes:
    ids = TextTokenizer.of(store).encode(text)
    if len(ids) > FILE_LIMITS.max_text_tokens:
        raise LimitExceeded("text", f"{len(ids):,} tokens are more than "
                            f"{FILE_LIMITS.max_text_tokens:,}", "split it")
    return ids


def decode(args: argparse.Namespace) -> None:
    """Turn a file back into a picture or a text."""
    from unimic.codec.coder import load_coder

    check_output(args.output, args.force)
    began = time.perf_counter()
    kind = output_format(args.output)
    packets = umc.read(io.BytesIO(read_input(args.input)), FILE_LIMITS)
    store = ModelStore.default()
    coder = load_coder(store)
    with progress("decode") as show:
        contents = umc.decode(coder.watched(show), packets, limits=FILE_LIMITS)
    content = _choose(args.output, kind, packets, contents)
    if isinstance(content, TokenGrid):
        from unimic.edge.image_tokenizer import ImageTokenizer

        assert kind
        check_picture_size(args.output, kind, content.width, content.height)
        with progress("draw") as show:
            image = ImageTokenizer(store).watched(show).decode(content)
        data = picture_bytes(image, kind, args.output)
        what = f"{image.width}×{image.height} pixels"
    else:
        text = TextTokenizer.of(store).decode(cast(Codes, content))
        data, what = text.encode("utf-8"), f"{len(text):,} characters"
    write_output(args.output, data, args.force)
    seconds = round(time.perf_counter() - began, 3)
    report(args, {"input": args.input, "output": args.output, "bytes": len(data),
                  "seconds": seconds}, details=f"{what}, {seconds:.1f} s")


def _choose(
    output: str, kind: str | None, packets: Sequence[pb.Packet], contents: Sequence[umc.Content]
) -> umc.Content:
    """The last content that ``output`` can hold."""
    wanted = {pb.KIND_IMAGE} if kind else {pb.KIND_TEXT}
    if output == PIPE:
        wanted |= {pb.KIND_TEXT}
    for packet, content in zip(reversed(packets), reversed(contents), strict=True):
        if packet.kind in wanted:
            return content
    held, use = ("no picture", "a .txt file") if kind else ("no text", "a picture's extension")
    raise InvalidInput(output, f"the file holds {held} to write there", f"use {use} for OUT")


def info(args: argparse.Namespace) -> None:
    """Say what is in a file."""
    data = read_input(args.input)
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
    lines = [f"{args.input}: {len(data):,} bytes, {len(rows)} "
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


