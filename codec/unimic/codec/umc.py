"""The ``.umc`` file: packets on disk.

    magic     4 bytes   AB 55 4D 43 ("«UMC" in Latin-1)
    version   1 byte    1
    packets   varint    number of packets, at least one
    packet    varint + bytes, for each: length and a serialised ``unimic.v1.Packet``
    crc       4 bytes   CRC-32 of everything before it, little-endian

Each packet names its token space and, where it is entropy-coded, its model. A packet that depends
on others names their positions: a text-conditioned image that of its text; a masked image those of
the image that it changes, of the mask, and of the text if there is one; a partial image that of the
mask of its hole, and of the text if there is one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from google.protobuf.message import DecodeError

from unimic.codec.errors import CorruptData, InvalidInput, LimitExceeded, UnimicError
from unimic.codec.limits import Limits
from unimic.codec.packets import packet_size, unpack_image, unpack_mask, unpack_text
from unimic.codec.store import ID_BYTES
from unimic.codec.tokens import Codes, Mask, TokenGrid
from unimic.v1 import packet_pb2 as pb

if TYPE_CHECKING:  # see packets
    from unimic.codec.coder import Coder

MAGIC = b"\xabUMC"
VERSION = 1

Content = TokenGrid | Codes | Mask

# The kinds of packets, in this order, that a packet of each scenario refers to.
_DEPENDENCIES: dict[int, tuple[tuple[int, ...], ...]] = {
    pb.SCENARIO_GENERIC: ((),),
    pb.SCENARIO_TEXT_CONDITIONED: ((pb.KIND_TEXT,),),
    pb.SCENARIO_MASKED: (
        (pb.KIND_IMAGE, pb.KIND_MASK),
        (pb.KIND_IMAGE, pb.KIND_MASK, pb.KIND_TEXT),
    ),
    pb.SCENARIO_PARTIAL: ((pb.KIND_MASK,), (pb.KIND_MASK, pb.KIND_TEXT)),
}

_CRC_BYTES = 4
_VARINT_BYTES = 5  # of 32 bits


Held = TypeVar("Held")


def write(file: BinaryIO, packets: Sequence[pb.Packet]) -> int:
    """Write ``packets`` (of `packets.for_file`) and return the size of the file in bytes.

    Raises:
        InvalidInput: no packets, or one that a reader would reject.
    """
    if not packets:
        raise InvalidInput("packets", "there are none", "write at least one")
    parts = [MAGIC, bytes([VERSION]), _varint(len(packets))]
    try:
        _check(packets)
    except CorruptData as error:
        raise InvalidInput(error.field, error.message,
                           "complete the packet with packets.for_file") from error
    for packet in packets:
        serialised = packet.SerializeToString(deterministic=True)
        parts += [_varint(len(serialised)), serialised]
    content = b"".join(parts)
    file.write(content + zlib.crc32(content).to_bytes(_CRC_BYTES, "little"))
    return len(content) + _CRC_BYTES


def read(file: BinaryIO, limits: Limits) -> list[pb.Packet]:
    """The packets of a file.

    Raises:
        CorruptData: this is no ``.umc`` file, or a damaged one.
        LimitExceeded: it has too many packets or too large ones.
    """
    source = _Source(file)
    if source.take(len(MAGIC), "magic") != MAGIC:
        raise CorruptData("magic", "this is no .umc file", "pass a file of unimic encode")
    version = source.take(1, "version")[0]
    if version != VERSION:
        raise CorruptData("version", f"{version}, this program reads {VERSION}",
                          "use the program that wrote it, or copy it again")
    count = source.varint("packets")
    if not count:
        raise CorruptData("packets", "there are none", "copy the file again")
    if count > limits.max_objects:
        raise LimitExceeded("packets", f"{count} in the file",
                            f"at most {limits.max_objects} are allowed")
    records = []
    for position in range(count):
        length = source.varint(_field(position, "length"))
        if length > limits.max_message_bytes:
            raise LimitExceeded(_field(position, "length"), f"{length} bytes",
                                f"at most {limits.max_message_bytes} are allowed")
        records.append(source.take(length, _field(position, "length")))
    actual = source.crc
    if int.from_bytes(source.take(_CRC_BYTES, "crc"), "little") != actual:
        raise CorruptData("crc", "the file was changed since it was written", "copy it again")
    if source.file.read(1):
        raise CorruptData("file", "goes on after its end", "copy it again")
    packets = []
    for position, record in enumerate(records):
        packet = pb.Packet()
        try:
            packet.ParseFromString(record)
        except DecodeError as error:
            raise CorruptData(_field(position, "message"), "is no packet",
                              "copy the file again") from error
        packets.append(packet)
    _check(packets)
    return packets


def decode(coder: Coder, packets: Sequence[pb.Packet], *, limits: Limits) -> list[Content]:
    """What the packets of a file hold: images as `TokenGrid`, texts as int32, masks as bool arrays.

    Raises:
        CorruptData, InvalidInput, LimitExceeded, UnknownModel: as the functions of `packets`; the
            field begins with the packet's position.
    """
    grids: dict[int, TokenGrid] = {}
    texts: dict[int, Codes] = {}
    masks: dict[int, Mask] = {}
    for position, packet in enumerate(packets):
        try:
            if packet.kind == pb.KIND_TEXT:
                texts[position] = unpack_text(coder, packet, limits=limits)
            elif packet.kind == pb.KIND_MASK:
                masks[position] = unpack_mask(packet, limits=limits, space=coder.space)
            else:
                area = _first(masks, packet.references)
                partial = packet.scenario == pb.SCENARIO_PARTIAL
                grids[position] = unpack_image(
                    coder,
                    packet,
                    limits=limits,
                    base=_first(grids, packet.references),
                    mask=None if partial else area,
                    hole=area if partial else None,
                    prompt=_first(texts, packet.references),
                )
        except UnimicError as error:
            raise error.inside(_field(position, "")) from error
    contents: dict[int, Content] = {**grids, **texts, **masks}
    return [contents[position] for position in range(len(packets))]


def _first(held: Mapping[int, Held], references: Sequence[int]) -> Held | None:
    return next((held[position] for position in references if position in held), None)


def _check(packets: Sequence[pb.Packet]) -> None:
    """Raise `CorruptData` unless each packet says all that a file needs, and consistently."""
    sizes: list[tuple[int, int, int]] = []
    for position, packet in enumerate(packets):
        if packet.kind not in (pb.KIND_IMAGE, pb.KIND_TEXT, pb.KIND_MASK):
            raise _corrupt(position, "kind", f"unknown value {packet.kind}")
        needed = _DEPENDENCIES.get(packet.scenario)
        if needed is None or (packet.scenario and packet.kind != pb.KIND_IMAGE):
            raise _corrupt(position, "scenario", f"value {packet.scenario} in a packet of kind "
                           f"{packet.kind}")
        if packet.coding not in (pb.CODING_ENTROPY, pb.CODING_RAW):
            raise _corrupt(position, "coding", f"unknown value {packet.coding}")
        if any(reference >= position for reference in packet.references):
            raise _corrupt(position, "references", "not to earlier packets")
        if tuple(packets[reference].kind for reference in packet.references) not in needed:
            raise _corrupt(position, "references", "not to what the scenario depends on")
        masked = packet.scenario == pb.SCENARIO_MASKED
        sizes.append(sizes[packet.references[0]] if masked else packet_size(packet))
        if any(packets[reference].kind == pb.KIND_MASK and sizes[reference] != sizes[position]
               for reference in packet.references):
            raise _corrupt(position, "references", "to a mask of another size than the image's")
        if len(packet.space) != ID_BYTES:
            raise _corrupt(position, "space", f"{len(packet.space)} bytes instead of {ID_BYTES}")
        has_model = packet.coding == pb.CODING_ENTROPY and packet.kind != pb.KIND_MASK
        if len(packet.model) != ID_BYTES * has_model:
            raise _corrupt(position, "model", f"{len(packet.model)} bytes instead of "
                           f"{ID_BYTES * has_model}")


class _Source:
    """Reads a file from beginning to end, keeping the CRC of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.crc = 0

    def take(self, size: int, field: str) -> bytes:
        data = self.file.read(size)
        if len(data) != size:
            raise CorruptData(field, f"the file ends {size - len(data)} bytes too early",
                              "copy it again")
        self.crc = zlib.crc32(data, self.crc)
        return data

    def varint(self, field: str) -> int:
        value = 0
        for place in range(_VARINT_BYTES):
            byte = self.take(1, field)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise CorruptData(field, "is no number", "copy the file again")


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _field(position: int, name: str) -> str:
    return f"packet {position} {name}"


def _corrupt(position: int, name: str, what: str) -> CorruptData:
    return CorruptData(_field(position, name), what, "copy the file again")
