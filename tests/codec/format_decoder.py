"""A second decoder of ``.umc`` files, written from ``docs/format.md`` alone, in its order.

It shares no code with the first one, so where both read the same, page and code agree.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from unimic.v1 import packet_pb2 as pb

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Arrays = list[NDArray[Any]]

IMAGE, TEXT, MASK = pb.KIND_IMAGE, pb.KIND_TEXT, pb.KIND_MASK
BITS = {IMAGE: 13, TEXT: 12, MASK: 1}
REFERENCES: dict[int, list[list[int]]] = {
    pb.SCENARIO_GENERIC: [[]],
    pb.SCENARIO_TEXT_CONDITIONED: [[TEXT]],
    pb.SCENARIO_MASKED: [[IMAGE, MASK], [IMAGE, MASK, TEXT]],
    pb.SCENARIO_PARTIAL: [[MASK], [MASK, TEXT]],
}
TOTAL = 1 << 24


@dataclass(frozen=True)
class Decoded:
    """A packet's kind, its width, height and pitch or its count, and its codes, ids or cells."""

    kind: int
    size: list[int]
    values: Ints


def check(condition: bool, problem: str) -> None:
    """Refuse what is wrong."""
    if not condition:
        raise ValueError(problem)


# File


def decode(data: bytes, models: Path) -> list[NDArray[Any]]:
    """Decode the packets of a file: to codes (int32), ids (int32) or cells (bool)."""
    body = data[:-4]
    check(body[:5] == b"\xabUMC\x01", "not a UMC file of version 1")
    check(zlib.crc32(body) == int.from_bytes(data[-4:], "little"), "CRC of the file")
    number, position = read_varint(body, 5)
    check(number > 0, "no packets")
    done: list[Decoded] = []
    for _ in range(number):
        length, begin = read_varint(body, position)
        position = begin + length
        check(position <= len(body), "the file ends within a packet")
        try:
            packet = pb.Packet.FromString(body[begin:position])
        except DecodeError as error:
            raise ValueError("not a packet") from error
        done.append(decode_packet(packet, done, models))
    check(position == len(body), "something follows the packets")
    return [d.values.astype(bool if d.kind == MASK else np.int32) for d in done]


@cache
def digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).digest()


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a varint; gives the position after it, too."""
    value = 0
    for i, byte in enumerate(data[position : position + 5]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, position + i + 1
    raise ValueError("a varint does not end")


def decode_packet(packet: pb.Packet, done: list[Decoded], models: Path) -> Decoded:
    """Decode a packet, given those before it."""
    kind, entropy, scenario = packet.kind, packet.coding == pb.CODING_ENTROPY, packet.scenario
    check(kind in BITS, "kind")
    check(entropy or packet.coding == pb.CODING_RAW, "coding")
    check(scenario in (REFERENCES if kind == IMAGE else [0]), "scenario")
    check(packet.skip <= (256 if kind == IMAGE and entropy else 0), "skip")
    check(kind == TEXT or not packet.count, "count of what is no text")
    check(kind != TEXT or not (packet.width or packet.height or packet.pitch), "size of a text")
    check(all(r < len(done) for r in packet.references), "reference to a later packet")
    held = [done[r] for r in packet.references]
    check([h.kind for h in held] in REFERENCES[scenario], "kinds of the references")
    masked = scenario == pb.SCENARIO_MASKED
    if kind == TEXT:
        shape, size = [packet.count], [packet.count]
    else:
        check(not (masked and (packet.width or packet.height or packet.pitch)), "size given twice")
        size = held[0].size if masked else [packet.width, packet.height, packet.pitch or 16]
        check(min(size) > 0 and 8 <= size[2] <= 64 and packet.pitch != 16, "size")
        shape = [-(-size[1] // size[2]), -(-size[0] // size[2])]
    values = held[0].values.copy() if masked else np.zeros(shape, np.int64)
    coded = np.ones(shape, bool)
    for mask in (h for h in held if h.kind == MASK):
        check(mask.size == size, "size of the mask")
        coded = mask.values == (1 if masked else 0)

    files = models / "image-tokenizer/encoder.onnx", models / "text-tokenizer/tokenizer.json"
    space = hashlib.sha256(b"".join(map(digest, files))).digest()[:8]
    check(packet.space == space, "another token space")
    folder = models / ("text-entropy" if kind == TEXT else "image-entropy")
    model = digest(folder / "weights.safetensors")[:8] if entropy and kind != MASK else b""
    check(packet.model == model, "another entropy model")
    if entropy:
        coder = RangeDecoder(packet.payload)
        if kind == MASK:
            read_mask(coder, values)
        elif kind == TEXT:
            read_text(coder, values, folder)
        else:
            prompt = [int(t) for h in held if h.kind == TEXT for t in h.values]
            picture = Picture(values, coded, ~coded & masked, prompt, folder)
            read_image(coder, picture, packet.skip)
        check(coder.shortest() == packet.payload, "not the shortest payload")
    else:
        values[coded] = read_raw(packet.payload, int(coded.sum()), BITS[kind])
    covered = [*(size[:2] if size[2:] == [16] else size), *values.flat]
    check(zlib.crc32(np.array(covered, "<u4").tobytes()) == packet.crc, "CRC of a packet")
    return Decoded(kind, size, values)


# Raw payloads


def read_raw(payload: bytes, number: int, width: int) -> Ints:
    """Read numbers of so many bits each."""
    bits = np.unpackbits(np.frombuffer(payload, np.uint8)).astype(np.int64)
    check(len(payload) == -(-number * width // 8), "length of a raw payload")
    check(not bits[number * width :].any(), "the last byte is not filled up with zeros")
    return bits[: number * width].reshape(number, width) @ (1 << np.arange(width)[::-1])


# Range coder


class RangeDecoder:
    """Reads symbols. To find the shortest payload `lower` is exact, not modulo 2⁶⁴."""

    def __init__(self, payload: bytes) -> None:
        padded = payload + bytes(-len(payload) % 4)
        self.words = chain(np.frombuffer(padded, ">u4").tolist(), repeat(0))
        self.lower, self.width, self.length = 0, (1 << 64) - 1, 8
        self.offset = next(self.words) << 32 | next(self.words)  # point − lower

    def read(self, frequencies: Ints) -> int:
        """Read a symbol."""
        scale = self.width >> 24
        q = self.offset // scale
        check(q < TOTAL, "damaged payload")
        ends = np.cumsum(frequencies + 1)
        symbol = int(np.searchsorted(ends, q, side="right"))
        share = int(frequencies[symbol]) + 1
        step = scale * (int(ends[symbol]) - share)
        self.lower, self.offset, self.width = self.lower + step, self.offset - step, scale * share
        if self.width < 1 << 32:
            self.lower, self.width = self.lower << 32, self.width << 32
            self.offset = self.offset << 32 | next(self.words)
            self.length += 4
        return symbol

    def shortest(self) -> bytes:
        """The payload that alone is valid for the symbols read."""
        last = self.lower + self.width - 1
        zeros = self.length  # at the end; it stays so where `lower` is 0
        while last >> 8 * zeros << 8 * zeros < self.lower:
            zeros -= 1
        return (last >> 8 * zeros).to_bytes(self.length - zeros, "big")


# From logits to frequencies

WEIGHTS = np.rint(TOTAL * np.exp(-np.arange(512) / 32)).astype(np.int64)


def to_frequencies(logits: NDArray[np.float32]) -> Ints:
    """Frequencies from the logits of one symbol."""
    whole = logits.astype(np.int64)
    total = TOTAL - len(whole)
    weights = WEIGHTS[np.minimum(whole.max() - whole, 511)]
    frequencies: Ints = weights * total // weights.sum()
    frequencies[whole.argmax()] += total - frequencies.sum()
    return frequencies


# Image payloads

SHARES = (2, 4, 8, 12, 16, 24, 32, 40, 48, 64)
BAYER = np.zeros((1, 1), np.int64)
while len(BAYER) < 16:
    BAYER = np.block([[4 * BAYER, 4 * BAYER + 2], [4 * BAYER + 3, 4 * BAYER + 1]])


@dataclass(frozen=True)
class Picture:
    """Codes, which of them are coded and which both sides hold, the prompt and the networks."""

    values: Ints
    coded: Bools
    known: Bools
    prompt: list[int]
    folder: Path


def read_image(coder: RangeDecoder, picture: Picture, skip: int) -> None:
    """Read the coded tokens of a picture."""
    rows, columns = (bands(n) for n in picture.values.shape)
    for wave in range(len(columns) + 2 * len(rows) - 2):
        places = [(i, wave - 2 * i) for i in range(len(rows)) if 0 <= wave - 2 * i < len(columns)]
        windows = [Window(rows[i], columns[j], picture) for i, j in places]
        for group in range(1, 11):
            left_out = min(256, max(0, 4 * (skip - 192 * (10 - group) // 9)))
            active = [w for w in windows if (w.groups == group).any()]
            answers = [w.query(group) for w in active]
            uppers = [read_parts(coder, logits, left_out) for logits, _ in answers]
            for window, (_, hidden), upper in zip(active, answers, uppers, strict=True):
                inputs = [hidden, upper[np.newaxis]]
                (logits,) = run(picture.folder / "tail-unsigned.onnx", inputs)
                lower = read_parts(coder, logits, left_out)
                picture.values[window.groups == group] = 128 * upper + lower
                if group < 10:
                    window.learn(window.rows(window.groups == group, group))


def bands(size: int) -> list[slice]:
    """Bands of rows or columns."""
    count = max(1, -(-size // 16))
    return [slice(size * i // count, size * (i + 1) // count) for i in range(count)]


class Window:
    """A window of a grid: the groups of its tokens (elsewhere 0), and what was read of it."""

    def __init__(self, ys: slice, xs: slice, picture: Picture) -> None:
        self.top, self.left, self.picture = ys.start, xs.start, picture
        self.groups = np.zeros(picture.values.shape, np.int64)
        y, x = np.nonzero(picture.coded[ys, xs])
        order = np.argsort(BAYER[y, x])
        ends = [-(-len(order) * share // 64) for share in SHARES]
        groups = 1 + np.searchsorted(ends, np.arange(len(order)), side="right")
        self.groups[ys, xs][y[order], x[order]] = groups

        around = np.zeros_like(picture.coded)
        around[max(0, ys.start - 4) : ys.stop + 4, max(0, xs.start - 4) : xs.stop + 4] = True
        earlier = picture.coded.copy()
        earlier[ys, xs.start :] = earlier[ys.stop :] = False
        seen = self.rows(around & (picture.known | earlier), 0)
        prompt = [(192 + t, 4288 + i, 100, 0) for i, t in enumerate(picture.prompt[:64])]
        self.memory = empty_memory(4, 4, 4, 16)
        self.learn(np.concatenate([[(4368, 4369, 100, 0), *prompt], seen]))

    def rows(self, tokens: Bools, group: int) -> Ints:
        """Rows of known tokens."""
        codes, (y, x) = self.picture.values[tokens], np.nonzero(tokens)
        place = 24 * (y - self.top + 4) + x - self.left + 4
        return np.stack([codes // 128, 64 + codes % 128, place, np.full_like(y, group)], axis=1)

    def learn(self, rows: Ints) -> None:
        """Read rows into the memory."""
        filled = np.concatenate([rows, np.tile([4369, 4369, 0, 127], (-len(rows) % 16, 1))])
        inputs = [*filled.T[:, np.newaxis], *self.memory]
        self.memory = run(self.picture.folder / "content-unsigned.onnx", inputs)

    def query(self, group: int) -> Arrays:
        """Logits of the upper parts of a group, and the hidden state."""
        rows = self.rows(self.groups == group, group)
        rows[:, :2] = 4351 + group, 4369
        inputs = [*rows.T[:, np.newaxis], self.memory[0], *self.memory[-2:]]
        return run(self.picture.folder / "query-unsigned.onnx", inputs)


def read_parts(coder: RangeDecoder, logits: NDArray[np.float32], left_out: int) -> Ints:
    """Read the upper or lower parts of a group, but for those that are left out."""
    parts = []
    for row in logits[0]:
        frequencies = to_frequencies(row)
        best = int(frequencies.argmax())
        sure = (int(frequencies[best]) + 1) * 256 >= (256 - left_out) * TOTAL
        parts.append(best if left_out and sure else coder.read(frequencies))
    return np.array(parts, np.int64)


# Networks


@cache
def load(path: Path) -> onnxruntime.InferenceSession:
    """Load a network."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, inputs: Sequence[NDArray[Any]]) -> Arrays:
    """Run a network on inputs in its own order."""
    names = [i.name for i in load(path).get_inputs()]
    return list(load(path).run(None, dict(zip(names, inputs, strict=True))))


def empty_memory(*heads: int) -> Arrays:
    """A memory of nothing."""
    pairs = [(np.zeros((1, h, 64, 0), np.int8), np.zeros((1, h, 0, 64), np.int8)) for h in heads]
    return [np.zeros((1, 0), np.int64), *chain.from_iterable(pairs)]


# Text payloads


def read_text(coder: RangeDecoder, ids: Ints, folder: Path) -> None:
    """Read the ids of a text."""
    pieces = [ids[i : i + 256] for i in range(0, len(ids), 256)]
    for begin in range(0, len(pieces), 16):
        some = pieces[begin : begin + 16]
        memories = [empty_memory(4, 4, 4, 4) for _ in some]
        for place in range(256):
            for k, piece in enumerate(some):
                if place < len(piece):
                    before = piece[place - 1] if place else 0
                    inputs = [np.array([[before]]), np.array([[place]]), *memories[k]]
                    logits, *memories[k] = run(folder / "step-unsigned.onnx", inputs)
                    piece[place] = coder.read(to_frequencies(logits[0, 0]))


# Mask payloads


def read_mask(coder: RangeDecoder, cells: Ints) -> None:
    """Read the cells of a mask."""
    rows, columns = cells.shape
    check(rows + columns <= 4096, "so large a mask is raw")
    counts = np.ones((9, 2), np.int64)
    for context in range(8):
        left, above, corner = context >> 2, context >> 1 & 1, context & 1
        counts[context, int(left + above > corner)] = 60 if left == above == corner else 6
    for diagonal in range(rows + columns - 1):
        read = []
        for y in range(max(0, diagonal - columns + 1), min(rows, diagonal + 1)):
            x = diagonal - y
            corner = cells[max(y - 1, 0), max(x - 1, 0)]  # at an edge the one neighbour
            left, above = (cells[y, x - 1], cells[y - 1, x]) if x and y else (corner, corner)
            context = 4 * left + 2 * above + corner if diagonal else 8
            zeros, ones = (int(n) for n in counts[context])
            share = ones * TOTAL // (zeros + ones)
            cells[y, x] = coder.read(np.array([TOTAL - share - 1, share - 1]))
            read.append((context, cells[y, x]))
        for context, cell in read:
            counts[context, cell] += 1
