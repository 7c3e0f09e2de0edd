"""The .umc file: round trip, and no damage goes unseen."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimic.codec import umc
from unimic.codec.coder import Coder
from unimic.codec.errors import (
    CorruptData,
    InvalidInput,
    LimitExceeded,
    UnimicError,
    UnknownModel,
)
from unimic.codec.limits import Limits
from unimic.codec.packets import for_file, pack_image, pack_mask, pack_text
from unimic.codec.tokens import TokenGrid
from unimic.v1 import packet_pb2 as pb

LIMITS = Limits()


def example(coder: Coder, raw: bool = False) -> tuple[list[pb.Packet], list[umc.Content]]:
    """A text, an image made of it, a mask, the image changed there, and the image without that."""
    random = np.random.default_rng(2)
    text = np.array([3, 1, 4], dtype=np.int32)
    image = TokenGrid(random.integers(0, 64, (2, 3)).astype(np.int32), 40, 30)
    mask = np.array([[0, 1, 1], [0, 1, 1]], dtype=np.bool_)
    changed = TokenGrid(np.where(mask, 9, image.codes), 40, 30)
    image_packet = pack_image(coder, image, prompt=text, raw=raw).packet
    packets = [
        for_file(pack_text(coder, text, raw=raw).packet, coder),
        for_file(image_packet, coder, [] if raw else [0]),
        for_file(pack_mask(mask, 40, 30).packet, coder),
        for_file(pack_image(coder, changed, mask=mask, prompt=text, raw=raw).packet, coder,
                 [1, 2, 0]),
        for_file(pack_image(coder, image, hole=mask, raw=raw).packet, coder, [2]),
    ]
    without = TokenGrid(np.where(mask, 0, image.codes), 40, 30)
    return packets, [text, image, mask, changed, without]


def written(packets: list[pb.Packet]) -> bytes:
    file = io.BytesIO()
    assert umc.write(file, packets) == len(file.getvalue())
    return file.getvalue()


def same(one: umc.Content, other: umc.Content) -> bool:
    if isinstance(one, TokenGrid) and isinstance(other, TokenGrid):
        size = (one.width, one.height) == (other.width, other.height)
        return size and np.array_equal(one.codes, other.codes)
    return not isinstance(one, TokenGrid) and not isinstance(other, TokenGrid) and np.array_equal(
        one, other
    )


@pytest.mark.parametrize("raw", [False, True])
def test_round_trip(coder: Coder, raw: bool) -> None:
    packets, contents = example(coder, raw)
    back = umc.read(io.BytesIO(written(packets)), LIMITS)
    assert back == packets
    decoded = umc.decode(coder, back, limits=LIMITS)
    assert all(map(same, decoded, contents))


def test_any_single_byte_changed_missing_or_added_is_found(coder: Coder) -> None:
    data = written(example(coder)[0])
    fields = set()
    for place in range(len(data) + 1):
        others = [data[:place] + bytes([byte]) + data[place:] for byte in (0, 1, 0x80, 0xFF)]
        if place < len(data):
            others.append(data[:place] + data[place + 1 :])
            others += [data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
                       for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255)]
        for other in others:
            if other == data:
                continue
            with pytest.raises(UnimicError) as caught:
                umc.read(io.BytesIO(other), LIMITS)
            fields.add(caught.value.field)
    assert {"magic", "version", "packets", "packet 0 length", "crc", "file"} <= fields


def test_every_cut_is_found(coder: Coder) -> None:
    data = written(example(coder)[0])
    for end in range(len(data)):
        with pytest.raises(CorruptData):
            umc.read(io.BytesIO(data[:end]), LIMITS)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_refused(content: bytes, crc: bool) -> None:
    content = umc.MAGIC + bytes([umc.VERSION]) + content
    if crc:
        content += zlib.crc32(content).to_bytes(4, "little")
    with pytest.raises(UnimicError):
        umc.read(io.BytesIO(content), LIMITS)


def sealed(content: bytes) -> io.BytesIO:
    content = umc.MAGIC + bytes([umc.VERSION]) + content
    return io.BytesIO(content + zlib.crc32(content).to_bytes(4, "little"))


class Endless(io.RawIOBase):
    """A stream that always has more, and refuses to give much at once."""

    def __init__(self, start: bytes) -> None:
        self._start = io.BytesIO(start)

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= LIMITS.max_message_bytes
        return self._start.read(size).ljust(size, b"\xff")


def test_forged_lengths_take_no_memory() -> None:
    head = umc.MAGIC + bytes([umc.VERSION])
    for forged in (b"", b"\x01", b"\x01\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x0f"):
        with pytest.raises(UnimicError):
            umc.read(Endless(head + forged), LIMITS)  # type: ignore[arg-type]
    with pytest.raises(LimitExceeded, match="packets"):
        umc.read(sealed(b"\x41"), LIMITS)
    with pytest.raises(LimitExceeded, match="packet 0 length"):
        umc.read(sealed(b"\x01\x10" + bytes(16)), Limits(max_message_bytes=15))
    with pytest.raises(CorruptData, match="packets"):
        umc.read(sealed(b"\x00"), LIMITS)
    with pytest.raises(CorruptData, match="packet 0 message"):
        umc.read(sealed(b"\x01\x01\xff"), LIMITS)


@pytest.mark.parametrize(("position", "change", "field"), [
    (0, {"kind": 0}, "kind"),
    (0, {"kind": 9}, "kind"),
    (0, {"scenario": 1}, "scenario"),
    (1, {"scenario": 7}, "scenario"),
    (1, {"scenario": 0}, "references"),
    (1, {"references": [1]}, "references"),
    (1, {"references": [2**32 - 1]}, "references"),
    (3, {"references": [2, 1, 0]}, "references"),
    (3, {"references": [1, 2, 0, 0]}, "references"),
    (3, {"references": [3, 2, 0]}, "references"),
    (2, {"references": [0]}, "references"),
    (0, {"space": b"short"}, "space"),
    (0, {"model": b""}, "model"),
    (0, {"coding": 1}, "model"),
    (2, {"model": b"12345678"}, "model"),
])
def test_packets_that_a_file_cannot_hold(
    coder: Coder, position: int, change: dict[str, object], field: str
) -> None:
    packets, _ = example(coder)
    packet = packets[position]
    for name, value in change.items():
        packet.ClearField(name)
        packet.MergeFrom(pb.Packet(**{name: value}))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=f"packet {position} {field}"):
        umc.write(io.BytesIO(), packets)
    parts = [bytes([len(packets)])]
    for each in packets:
        serialised = each.SerializeToString()
        parts.append(bytes([len(serialised)]) + serialised)
    with pytest.raises(CorruptData, match=f"packet {position} {field}"):
        umc.read(sealed(b"".join(parts)), LIMITS)


@pytest.mark.parametrize("size", [(41, 30, 16), (40, 31, 16), (80, 60, 32), (20, 15, 8),
                                  (40, 30, 17)])
def test_masks_of_as_many_cells_for_another_picture(
        coder: Coder, size: tuple[int, int, int]) -> None:
    for user in 3, 4:
        packets, contents = example(coder)
        for_another = for_file(pack_mask(contents[2], *size).packet, coder)  # type: ignore[arg-type]
        packets = [packets[0], packets[1], for_another, *packets[user : user + 1]]
        with pytest.raises(InvalidInput, match="packet 3 references: to a mask of another size"):
            umc.write(io.BytesIO(), packets)


def test_errors_while_decoding_name_the_packet(coder: Coder) -> None:
    packets, _ = example(coder)
    packets[1].crc ^= 1
    with pytest.raises(CorruptData, match="packet 1 crc"):
        umc.decode(coder, packets, limits=LIMITS)
    packets, _ = example(coder)
    packets[3].model = b"another-"
    with pytest.raises(UnknownModel, match="packet 3 model"):
        umc.decode(coder, packets, limits=LIMITS)
    with pytest.raises(LimitExceeded, match="packet 0 count"):
        umc.decode(coder, example(coder)[0], limits=Limits(max_text_tokens=2))


def test_an_empty_file_is_not_written() -> None:
    with pytest.raises(InvalidInput, match="packets"):
        umc.write(io.BytesIO(), [])


def test_golden_bytes(coder: Coder) -> None:
    """Files already written must stay readable: a change here is a new version."""
    text = np.array([3, 1, 4], dtype=np.int32)
    mask = np.array([[0, 1, 1], [0, 1, 1]], dtype=np.bool_)
    packets = [
        for_file(pack_text(coder, text, raw=True).packet, coder),
        for_file(pack_mask(mask, 40, 30).packet, coder),
    ]
    assert written(packets).hex() == (
        "ab554d4301021c080218013003459eba25f14a0866616b6566616b657a0500300100401808032028"
        "281e457146f96c4a0866616b6566616b657a017f025261f4"
    )


def test_an_unknown_coding_is_refused_both_ways(coder: Coder) -> None:
    packets, _ = example(coder)
    data = written(packets[:1])
    packets[0].coding = 5  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="packet 0 coding: unknown value 5"):
        umc.write(io.BytesIO(), packets[:1])
    record = packets[0].SerializeToString()
    body = data[:6] + bytes([len(record)]) + record
    with pytest.raises(CorruptData, match="packet 0 coding: unknown value 5"):
        umc.read(io.BytesIO(body + zlib.crc32(body).to_bytes(4, "little")), LIMITS)


def test_what_was_changed_can_be_changed_again(coder: Coder) -> None:
    """A masked image has the size of what it changes, and that may be a masked image too."""
    packets, contents = example(coder)
    mask, changed = contents[2], contents[3]
    assert isinstance(changed, TokenGrid)
    again = TokenGrid(np.where(mask, 11, changed.codes), 40, 30)  # type: ignore[call-overload]
    packet = pack_image(coder, again, mask=mask).packet  # type: ignore[arg-type]
    packets.append(for_file(packet, coder, [3, 2]))
    back = umc.decode(coder, umc.read(io.BytesIO(written(packets)), LIMITS), limits=LIMITS)
    assert same(back[-1], again)


def test_as_many_packets_as_are_allowed(coder: Coder) -> None:
    packets, _ = example(coder)
    data = written(packets)
    assert umc.read(io.BytesIO(data), Limits(max_objects=len(packets))) == packets
    with pytest.raises(LimitExceeded, match="packets"):
        umc.read(io.BytesIO(data), Limits(max_objects=len(packets) - 1))
