"""Packets: one coded token sequence with the header that it takes to decode and to check it.

What a packet depends on is the caller's to know (in a session) or is told by ``references`` (in a
file, see `umc`). Inside a session a header takes at most 16 bytes, and two or three more where a
token does not stand for 16 pixels, and where some are not sent (``skip``); a few less where the
receiver knows kind and size (`for_session`).

The CRC of a packet is that of its size (width, height and, unless it is 16, pitch; or the count of
text tokens) and of its decoded tokens, all as integers, so that no part of a header can be damaged
unseen. A masked image packet has no size of its own: it is that of the image it changes; and its
CRC is over all tokens of the changed image, so that it also finds two sides that hold different
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unimic.codec.errors import CorruptData, InvalidInput, LimitExceeded, UnknownModel
from unimic.codec.frequencies import SKIP_ALL
from unimic.codec.limits import Limits
from unimic.codec.masks import MOST_DIAGONALS, decode_mask, encode_mask
from unimic.codec.raw import bits_per_token, pack_bits, unpack_bits
from unimic.codec.store import ID_BYTES
from unimic.codec.tokens import (
    PITCH,
    PITCHES,
    Codes,
    Mask,
    TokenGrid,
    TokenSpace,
    check_codes,
    check_size,
    checksum,
    grid_shape,
)
from unimic.v1 import packet_pb2 as pb

if TYPE_CHECKING:  # it brings ONNX Runtime, which a reader of packets may do without
    from unimic.codec.coder import Coder

PRICE = 0.008
"""What a bit is worth below the full rate, in squared distance of the latents (each -1 … 1).

So little that hardly any fidelity is lost; docs/experiments.md has the curve."""

_SIZE = ("width", "height", "pitch")
_ABSENT = {
    pb.KIND_IMAGE: ("count",),
    pb.KIND_TEXT: (*_SIZE, "scenario", "skip"),
    pb.KIND_MASK: ("count", "scenario", "skip"),
}
"""Fields that packets of each kind do not have."""


@dataclass(frozen=True)
class Sizes:
    """The three sizes of a packet.

    Attributes:
        ideal_bits: information of the tokens under the model; of raw ones, their fixed lengths.
        payload_bytes: of the coded tokens.
        wire_bytes: of the whole packet.
    """

    ideal_bits: float
    payload_bytes: int
    wire_bytes: int


@dataclass(frozen=True)
class Packed:
    """A packet and its sizes."""

    packet: pb.Packet
    sizes: Sizes


@dataclass(frozen=True)
class PackedImage(Packed):
    """A packet of an image.

    Attributes:
        grid: the image that the receiver will have.
        token_bits: float64 ``(rows, columns)``, the information of each token that is sent.
    """

    grid: TokenGrid
    token_bits: NDArray[np.float64]


def pack_image(
    coder: Coder,
    grid: TokenGrid,
    *,
    mask: Mask | None = None,
    hole: Mask | None = None,
    prompt: Codes | None = None,
    raw: bool = False,
    skip: int = 0,
) -> PackedImage:
    """Code an image.

    The scenario follows from what the receiver holds: masked with a ``mask``, partial with a
    ``hole``, text-conditioned with a ``prompt`` only, else generic. The receiver passes the same
    mask, hole and prompt to `unpack_image`.

    Args:
        coder: whose token space the image is in.
        grid: the image.
        mask: bool ``(rows, columns)``; the receiver holds the tokens where it is False.
        hole: likewise, without a mask; tokens where it is True are not sent, the receiver has code
            0 there.
        prompt: int32 ``(n,)`` text tokens that the receiver holds.
        raw: write fixed-length tokens, which need no entropy model (and no prompt).
        skip: 0 … 256; leave out what the receiver's model is sure enough of, see
            `unimic.codec.coder.Coder.encode_image`, which then also takes cheaper codes at
            `PRICE`, where the grid tells their distances. With 0 and in raw packets the very codes
            of the grid are sent, in one look.

    Raises:
        InvalidInput: grid, mask, hole and space do not fit each other, or ``skip`` is out of range.
        UnknownModel: the coder has no image model, and ``raw`` does not hold.
    """
    grid.check(coder.space)
    sent, codes = _sent(mask, hole, grid.codes)
    if not 0 <= skip <= SKIP_ALL:
        raise InvalidInput("skip", f"{skip} is out of range", f"use 0 to {SKIP_ALL}")
    if raw:
        skip, received = 0, TokenGrid(codes, *grid.size)
        payload, bits = _raw(codes[sent], coder.space.image_codes)
        token_bits = np.where(sent, float(bits_per_token(coder.space.image_codes)), 0.0)
    else:
        coded = coder.encode_image(codes, mask=sent, hole=hole, prompt=prompt, skip=skip,
                                   distances=grid.distances, price=PRICE if skip else 0.0)
        payload, bits, token_bits = coded.payload, coded.ideal_bits, coded.token_bits
        received = TokenGrid(coded.codes, *grid.size)
    packet = pb.Packet(
        kind=pb.KIND_IMAGE,
        scenario=_scenario(mask, hole, prompt, raw),
        coding=_coding(raw),
        crc=_checksum(grid.size, received.codes),
        skip=skip,
        payload=payload,
    )
    if mask is None:
        _set_size(packet, *grid.size)
    return PackedImage(packet, _sizes(packet, bits), received, token_bits)


def pack_image_within(
    coder: Coder, grid: TokenGrid, budget: int, *, hole: Mask | None = None,
    prompt: Codes | None = None, known: PackedImage | None = None,
) -> PackedImage:
    """Code an image into a packet of at most ``budget`` bytes, as faithfully as that allows.

    By bisection a ``skip`` is found that keeps the budget while the next smaller one does not, with
    at most 10 codings. (Sizes do not quite fall with it, so a still smaller one may keep it, too.)

    Args:
        coder: see `pack_image`.
        grid: see `pack_image`.
        budget: bytes of the whole packet.
        hole, prompt: see `pack_image`.
        known: the image with a ``skip`` that is known to keep the budget; no larger one is tried.

    Raises:
        LimitExceeded: not even the header keeps the budget.
        InvalidInput, UnknownModel: see `pack_image`.
    """
    pack = partial(pack_image, coder, grid, hole=hole, prompt=prompt)
    best = pack()
    if best.sizes.wire_bytes <= budget:
        return best
    best = known or pack(skip=SKIP_ALL)
    if best.sizes.wire_bytes > budget:
        raise LimitExceeded("budget", f"{budget} bytes do not hold a packet's header",
                            f"allow at least {best.sizes.wire_bytes}")
    low, high = 0, best.packet.skip  # `low` is over the budget, `high` keeps it
    while high - low > 1:
        middle = (low + high) // 2
        packed = pack(skip=middle)
        if packed.sizes.wire_bytes <= budget:
            high, best = middle, packed
        else:
            low = middle
    return best


def unpack_image(
    coder: Coder,
    packet: pb.Packet,
    *,
    limits: Limits,
    base: TokenGrid | None = None,
    mask: Mask | None = None,
    hole: Mask | None = None,
    prompt: Codes | None = None,
) -> TokenGrid:
    """The image of a packet of `pack_image`.

    Args:
        coder: as that of the sender.
        packet: from the sender; anything is safe.
        limits: that the image must keep.
        base: the image that a masked packet changes; its tokens where ``mask`` is True are ignored.
        mask, hole, prompt: as the sender's.

    Raises:
        CorruptData: the packet is damaged or does not belong to this base, mask, hole or prompt.
        LimitExceeded: the image is too large.
        UnknownModel: it is coded with another model or in another space.
        InvalidInput: base, mask and hole do not fit each other.
    """
    _check_header(packet, pb.KIND_IMAGE, coder.space, coder.image_model, limits)
    is_raw = packet.coding == pb.CODING_RAW
    if packet.skip > (0 if is_raw else SKIP_ALL):
        raise CorruptData("skip", f"{packet.skip} is out of range", "send it again")
    expected = _scenario(mask, hole, prompt, is_raw)
    if packet.scenario != expected:
        raise CorruptData("scenario", f"{_name(pb.Scenario, packet.scenario)}, but what it depends "
                          f"on is that of {_name(pb.Scenario, expected)}",
                          "decode it with the mask, hole and prompt it was made with")
    if mask is None:
        size = packet_size(packet)
        codes = np.zeros(_grid_shape(packet, limits), dtype=np.int32)
    else:
        if base is None:
            raise InvalidInput("base", "is missing for a masked packet",
                               "pass the image that it changes")
        base.check(coder.space)
        if packet.width or packet.height or packet.pitch:
            raise CorruptData("width", "a masked packet has no size", "send it again")
        size, codes = base.size, base.codes
    sent, codes = _sent(mask, hole, codes)
    codes = np.where(sent, 0, codes)
    if is_raw:
        codes[sent] = unpack_bits(packet.payload, int(sent.sum()), coder.space.image_codes)
    else:
        codes = coder.decode_image(packet.payload, codes, mask=sent, hole=hole, prompt=prompt,
                                   skip=packet.skip)
    _check_crc(packet, _checksum(size, codes))
    return TokenGrid(codes, *size)


def pack_text(coder: Coder, ids: Codes, *, raw: bool = False) -> Packed:
    """Code a text: ``ids`` int32 ``(n,)``, also none; ``raw`` as in `pack_image`.

    What the model finds so unlikely that fixed length is shorter is written with fixed length.

    Raises:
        InvalidInput: ``ids`` are no codes of the space.
        UnknownModel: the coder has no text model, and ``raw`` does not hold.
    """
    check_codes("ids", ids, coder.space.text_codes)
    payload, bits = _raw(ids, coder.space.text_codes)
    if not raw:
        coded = coder.encode_text(ids)
        raw = len(payload) < len(coded.payload)
        if not raw:
            payload, bits = coded.payload, coded.ideal_bits
    packet = pb.Packet(
        kind=pb.KIND_TEXT,
        coding=_coding(raw),
        count=len(ids),
        crc=_checksum((len(ids),), ids),
        payload=payload,
    )
    return _packed(packet, bits)


def unpack_text(coder: Coder, packet: pb.Packet, *, limits: Limits) -> Codes:
    """The text of a packet of `pack_text`: int32 ``(n,)``; raises as `unpack_image` does."""
    _check_header(packet, pb.KIND_TEXT, coder.space, coder.text_model, limits)
    if packet.count > limits.max_text_tokens:
        raise LimitExceeded("count", f"{packet.count} text tokens",
                            f"at most {limits.max_text_tokens} are allowed")
    if packet.coding == pb.CODING_RAW:
        ids = unpack_bits(packet.payload, packet.count, coder.space.text_codes)
    else:
        ids = coder.decode_text(packet.payload, packet.count)
    _check_crc(packet, _checksum((packet.count,), ids))
    return ids


def pack_mask(mask: Mask, width: int, height: int, pitch: int = PITCH) -> Packed:
    """Code a mask, bool ``(rows, columns)``, of an image of ``width`` × ``height`` pixels.

    Args:
        mask: one cell for each token.
        width, height, pitch: as those of the image's `TokenGrid`.

    Raises:
        InvalidInput: the mask is not of the size's tokens.
    """
    shape = grid_shape(width, height, pitch)
    if mask.dtype != np.bool_ or mask.shape != shape or not mask.size:
        raise InvalidInput("mask", f"{mask.dtype} {mask.shape}, not bool {shape}",
                           "pass a cell for each token of the image")
    payload, bits = _raw(mask.astype(np.int32), 2)
    is_raw = True
    if sum(mask.shape) <= MOST_DIAGONALS:
        coded, coded_bits = encode_mask(mask)
        if len(coded) <= len(payload):  # scattered cells have no shape to predict
            payload, bits, is_raw = coded, coded_bits, False
    packet = pb.Packet(
        kind=pb.KIND_MASK,
        coding=_coding(is_raw),
        crc=_checksum((width, height, pitch), mask),
        payload=payload,
    )
    _set_size(packet, width, height, pitch)
    return _packed(packet, bits)


def unpack_mask(packet: pb.Packet, *, limits: Limits, space: TokenSpace) -> Mask:
    """The mask of a packet of `pack_mask`: bool ``(rows, columns)``; raises as `unpack_image`."""
    _check_header(packet, pb.KIND_MASK, space, None, limits)
    rows, columns = _grid_shape(packet, limits)
    mask: Mask
    if packet.coding == pb.CODING_RAW:
        cells = unpack_bits(packet.payload, rows * columns, 2)
        mask = cells.reshape(rows, columns).astype(np.bool_)
    elif rows + columns > MOST_DIAGONALS:
        raise CorruptData("coding", f"{rows}×{columns} cells are too many in a row to be coded",
                          "send the mask raw")
    else:
        mask = decode_mask(packet.payload, rows, columns)
    _check_crc(packet, _checksum(packet_size(packet), mask))
    return mask


def packet_size(packet: pb.Packet) -> tuple[int, int, int]:
    """Width and height in pixels and pitch, of an image or mask packet."""
    return packet.width, packet.height, packet.pitch or PITCH


def for_file(packet: pb.Packet, coder: Coder, references: Sequence[int] = ()) -> pb.Packet:
    """A copy of ``packet`` that says all that a session would know.

    Args:
        packet: of one of the functions above.
        coder: that packed it.
        references: positions in the file of what it depends on: of the text (text-conditioned), of
            the hole's mask (partial), or of the image and the mask (masked); with a prompt, then
            of the text.
    """
    models = {pb.KIND_IMAGE: coder.image_model, pb.KIND_TEXT: coder.text_model}
    copy = pb.Packet()
    copy.CopyFrom(packet)
    copy.space = coder.space.id
    if packet.coding == pb.CODING_ENTROPY:
        copy.model = models.get(packet.kind) or b""
    copy.references.extend(references)
    return copy


def for_session(packet: pb.Packet, *, sized: bool = False) -> pb.Packet:
    """A copy of ``packet`` without what its message and `from_session` say.

    Args:
        packet: of one of the functions above.
        sized: keep the size, which the receiver does not know.
    """
    copy = pb.Packet()
    copy.CopyFrom(packet)
    for field in ("kind",) if sized else ("kind", *_SIZE):
        copy.ClearField(field)
    return copy


def from_session(packet: pb.Packet, kind: pb.Kind, size: tuple[int, int, int] | None = None
                 ) -> pb.Packet:
    """A copy of ``packet`` with what `for_session` left out; whatever it says itself stays.

    Args:
        packet: from the sender.
        kind: that its message takes there.
        size: width, height and pitch, where they are known.
    """
    copy = pb.Packet()
    copy.CopyFrom(packet)
    copy.kind = packet.kind or kind
    if size and not any(getattr(packet, field) for field in _SIZE):
        _set_size(copy, *size)
    return copy


def _raw(codes: Codes, alphabet: int) -> tuple[bytes, float]:
    return pack_bits(codes, alphabet), float(codes.size * bits_per_token(alphabet))


def _coding(is_raw: bool) -> pb.Coding:
    return pb.CODING_RAW if is_raw else pb.CODING_ENTROPY


def _scenario(mask: Mask | None, hole: Mask | None, prompt: Codes | None, is_raw: bool,
              ) -> pb.Scenario:
    if mask is not None:
        return pb.SCENARIO_MASKED
    if hole is not None:
        return pb.SCENARIO_PARTIAL
    # Fixed-length tokens do not depend on a prompt.
    return pb.SCENARIO_GENERIC if prompt is None or is_raw else pb.SCENARIO_TEXT_CONDITIONED


def _packed(packet: pb.Packet, bits: float) -> Packed:
    return Packed(packet, _sizes(packet, bits))


def _sizes(packet: pb.Packet, bits: float) -> Sizes:
    return Sizes(bits, len(packet.payload), packet.ByteSize())


def _set_size(packet: pb.Packet, width: int, height: int, pitch: int) -> None:
    packet.width, packet.height = width, height
    packet.pitch = 0 if pitch == PITCH else pitch


def _checksum(size: tuple[int, ...], tokens: Codes | Mask) -> int:
    if size[2:] == (PITCH,):  # as in files from before there was a pitch
        size = size[:2]
    return checksum(np.concatenate([size, tokens.reshape(-1)]))


def _sent(mask: Mask | None, hole: Mask | None, codes: Codes) -> tuple[Mask, Codes]:
    """Where tokens are sent, and ``codes`` as the receiver will know them: 0 in the hole."""
    for name, area in ("mask", mask), ("hole", hole):
        if area is not None and (area.dtype != np.bool_ or area.shape != codes.shape):
            raise InvalidInput(name, f"{area.dtype} {area.shape} for an image of "
                               f"{codes.shape} tokens", "pass bool (rows, columns) of the image")
    if hole is None:
        return np.ones(codes.shape, np.bool_) if mask is None else mask, codes
    if mask is not None:
        raise InvalidInput("hole", "beside a mask", "the receiver of a masked image has no hole")
    return ~hole, np.where(hole, 0, codes).astype(np.int32)


def _check_header(
    packet: pb.Packet, kind: pb.Kind, space: TokenSpace, model: bytes | None, limits: Limits
) -> None:
    if packet.kind != kind:
        raise CorruptData("kind", f"{_name(pb.Kind, packet.kind)} where {_name(pb.Kind, kind)} is "
                          "expected", "send it as what it is")
    for field in _ABSENT[kind]:
        if getattr(packet, field):
            raise CorruptData(field, f"{_name(pb.Kind, kind)} has none", "send it again")
    if packet.coding not in (pb.CODING_ENTROPY, pb.CODING_RAW):
        raise CorruptData("coding", f"unknown value {packet.coding}", "send it again")
    if len(packet.payload) > limits.max_message_bytes:
        raise LimitExceeded("payload", f"{len(packet.payload)} bytes",
                            f"at most {limits.max_message_bytes} are allowed")
    if packet.space and packet.space != space.id:
        raise UnknownModel("space", f"{named(packet.space)} is not that of the models here, "
                           f"{space.id.hex()}", "install the models it was made with")
    if packet.model and packet.model != model:
        raise UnknownModel("model", f"{named(packet.model)} is not the one here, "
                           f"{model.hex() if model else 'none'}",
                           "install the models it was made with")


def named(id: bytes) -> str:
    """What errors call a space or a model: its hash, no longer than one is."""
    return id[:ID_BYTES].hex() + ("…" if len(id) > ID_BYTES else "")


def _grid_shape(packet: pb.Packet, limits: Limits) -> tuple[int, int]:
    width, height, pitch = packet_size(packet)
    for field, size in ("width", width), ("height", height):
        if not size:
            raise CorruptData(field, "is 0", "send it again")
    if pitch not in PITCHES or packet.pitch == PITCH:  # one picture has one header
        raise CorruptData("pitch", f"{pitch} is out of range", f"use {PITCHES[0]} to "
                          f"{PITCHES[-1]}, and leave {PITCH} out")
    return check_size(width, height, pitch, limits.max_tokens)


def _check_crc(packet: pb.Packet, actual: int) -> None:
    if packet.crc != actual:
        raise CorruptData("crc", f"{packet.crc:08x}, the tokens have {actual:08x}",
                          "send or copy it again")


def _name(enum: object, value: int) -> str:
    try:
        return str(enum.Name(value))  # type: ignore[attr-defined]
    except ValueError:
        return f"unknown value {value}"
