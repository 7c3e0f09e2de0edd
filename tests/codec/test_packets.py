"""Packets: round trip in every scenario, header size, limits, damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from unimic.codec.coder import Coder
from unimic.codec.errors import (
    CorruptData,
    InvalidInput,
    LimitExceeded,
    UnimicError,
    UnknownModel,
)
from unimic.codec.limits import Limits
from unimic.codec.masks import MOST_DIAGONALS
from unimic.codec.packets import (
    Packed,
    for_file,
    for_session,
    from_session,
    pack_image,
    pack_mask,
    pack_text,
    unpack_image,
    unpack_mask,
    unpack_text,
)
from unimic.codec.tokens import PITCH, PITCHES, Codes, Mask, TokenGrid, grid_shape
from unimic.v1 import packet_pb2 as pb

LIMITS = Limits()


@dataclass(frozen=True)
class Case:
    """An image with what the receiver holds of it."""

    grid: TokenGrid
    mask: Mask | None
    hole: Mask | None
    prompt: Codes | None
    base: TokenGrid | None
    raw: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    width, height = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pitch = draw(st.sampled_from([PITCH, PITCHES[0], 11, PITCHES[-1]]))
    shape = grid_shape(width, height, pitch)
    grid = TokenGrid(random.integers(0, 64, shape).astype(np.int32), width, height, pitch)
    mask = hole = base = None
    scenario = draw(st.integers(0, 2))
    if scenario == 2:
        hole = random.random(shape) < draw(st.sampled_from([0, 0.3, 1]))
        grid = replace(grid, codes=np.where(hole, 0, grid.codes).astype(np.int32))
    if scenario == 1:
        mask = random.random(shape) < draw(st.sampled_from([0, 0.3, 1]))
        other = random.integers(0, 64, shape).astype(np.int32)
        base = replace(grid, codes=np.where(mask, other, grid.codes))
    prompt = random.integers(1, 4096, 5).astype(np.int32) if draw(st.booleans()) else None
    return Case(grid, mask, hole, prompt, base, draw(st.booleans()))


def pack(coder: Coder, case: Case) -> Packed:
    return pack_image(coder, case.grid, mask=case.mask, hole=case.hole, prompt=case.prompt,
                      raw=case.raw)


def unpack(coder: Coder, packet: pb.Packet, case: Case, limits: Limits = LIMITS) -> TokenGrid:
    return unpack_image(
        coder, packet, limits=limits, base=case.base, mask=case.mask, hole=case.hole,
        prompt=case.prompt
    )


def same(one: TokenGrid, other: TokenGrid) -> bool:
    return one.size == other.size and np.array_equal(one.codes, other.codes)


def header_bytes(packet: pb.Packet) -> int:
    header = pb.Packet()
    header.CopyFrom(packet)
    header.ClearField("payload")
    return header.ByteSize() - 2 * bool(packet.pitch)  # the packets that have one take two more


def damaged(data: bytes) -> Iterator[bytes]:
    """``data`` with one byte flipped, missing or added, at every place."""
    for place in range(len(data)):
        for change in (0x01, 0x08, 0x80, 0xFF):
            yield data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
        yield data[:place] + data[place + 1 :]
    for place in range(len(data) + 1):
        for more in (b"\x00", b"\x01", b"\x7f", b"\xff"):
            yield data[:place] + more + data[place:]


def check_damage(packet: pb.Packet, same_after: Callable[[pb.Packet], bool]) -> int:
    """How often the receiver raised an error; anything else must be the original."""
    fields = []
    for changed in damaged(packet.SerializeToString()):
        received = pb.Packet()
        try:
            received.ParseFromString(changed)
        except DecodeError:
            continue
        try:
            original = same_after(received)
        except UnimicError as error:
            fields.append(error.field)
        else:
            assert original, changed.hex()
    assert set(fields) <= {*pb.Packet.DESCRIPTOR.fields_by_name}
    return len(fields)


@given(cases())
def test_images_come_back(coder: Coder, case: Case) -> None:
    packed = pack(coder, case)
    assert same(unpack(coder, packed.packet, case), case.grid)
    assert packed.sizes.payload_bytes == len(packed.packet.payload)
    assert packed.sizes.wire_bytes == packed.packet.ByteSize()
    assert packed.sizes.payload_bytes <= packed.sizes.ideal_bits / 8 + 2
    # Raw and partial are a byte each beyond what a session usually says.
    assert header_bytes(packed.packet) <= 16 + (case.raw and case.hole is not None)
    expected = pb.SCENARIO_GENERIC
    if case.mask is not None:
        expected = pb.SCENARIO_MASKED
    elif case.hole is not None:
        expected = pb.SCENARIO_PARTIAL
    elif case.prompt is not None and not case.raw:
        expected = pb.SCENARIO_TEXT_CONDITIONED
    assert packed.packet.scenario == expected


def test_what_lies_in_a_hole_is_not_sent(coder: Coder) -> None:
    hole = np.array([[True, False], [False, False]])
    one, other = (TokenGrid(np.array([[code, 5], [6, 7]], np.int32), 32, 32) for code in (1, 2))
    packed = pack_image(coder, one, hole=hole)
    assert packed.packet == pack_image(coder, other, hole=hole).packet
    assert packed.grid.codes.tolist() == [[0, 5], [6, 7]]
    with pytest.raises(InvalidInput, match="hole"):
        pack_image(coder, one, hole=hole, mask=~hole)
    with pytest.raises(InvalidInput, match="hole"):
        pack_image(coder, one, hole=hole[:1])


@given(st.lists(st.integers(0, 4095), max_size=30), st.booleans())
def test_texts_come_back(coder: Coder, ids: list[int], raw: bool) -> None:
    text = np.array(ids, dtype=np.int32)
    packed = pack_text(coder, text, raw=raw)
    assert unpack_text(coder, packed.packet, limits=LIMITS).tolist() == ids
    assert packed.sizes.payload_bytes <= packed.sizes.ideal_bits / 8 + 2
    assert header_bytes(packed.packet) <= 16


def test_an_unlikely_text_is_never_longer_than_fixed_length(coder: Coder) -> None:
    text = np.random.default_rng(0).integers(0, 4096, 200).astype(np.int32)
    packed = pack_text(coder, text)
    assert packed.sizes.payload_bytes <= pack_text(coder, text, raw=True).sizes.payload_bytes
    assert unpack_text(coder, packed.packet, limits=LIMITS).tolist() == text.tolist()


@given(cases())
def test_masks_come_back(coder: Coder, case: Case) -> None:
    random = np.random.default_rng(int(case.grid.codes.sum()))
    scattered = random.random(case.grid.codes.shape) < 0.5
    for mask in (scattered, np.zeros_like(scattered)):
        packed = pack_mask(mask, *case.grid.size)
        back = unpack_mask(packed.packet, limits=LIMITS, space=coder.space)
        assert np.array_equal(back, mask)
        assert packed.sizes.payload_bytes <= -(-mask.size // 8)
        assert header_bytes(packed.packet) <= 16


@pytest.mark.parametrize("pitch", [PITCH, 9])
def test_what_a_session_leaves_out_is_put_back(coder: Coder, pitch: int) -> None:
    size = 70, 50, pitch
    shape = grid_shape(*size)
    mask = np.zeros(shape, np.bool_)
    for packet, kind in (
            (pack_image(coder, TokenGrid(np.zeros(shape, np.int32), *size)).packet, pb.KIND_IMAGE),
            (pack_mask(mask, *size).packet, pb.KIND_MASK)):
        sent = for_session(packet)
        assert sent.ByteSize() == packet.ByteSize() - (6 if pitch == PITCH else 8)
        assert from_session(sent, kind, size) == packet
        sent = for_session(packet, sized=True)
        assert sent.ByteSize() == packet.ByteSize() - 2
        assert from_session(sent, kind) == packet
    text = pack_text(coder, np.zeros(3, np.int32)).packet
    assert from_session(for_session(text), pb.KIND_TEXT) == text


def test_what_a_packet_says_itself_stays(coder: Coder) -> None:
    packet = pack_mask(np.zeros((4, 5), np.bool_), 70, 50).packet
    assert from_session(packet, pb.KIND_IMAGE, (70, 51, 9)) == packet
    assert from_session(pb.Packet(pitch=9), pb.KIND_MASK, (70, 50, 16)) == pb.Packet(
        kind=pb.KIND_MASK, pitch=9)


@pytest.mark.parametrize(("mask", "size"), [
    (np.ones((4, 5), np.uint8), (70, 50)), (np.ones((5, 4), np.bool_), (70, 50)),
    (np.ones((1, 20), np.bool_), (70, 50)), (np.ones((0, 0), np.bool_), (0, 0))])
def test_masks_that_are_of_no_image(mask: Mask, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match=r"^mask: "):
        pack_mask(mask, *size)


@pytest.mark.parametrize("shape", [(1, MOST_DIAGONALS), (MOST_DIAGONALS, 1)])
def test_masks_of_thin_images_are_raw(coder: Coder, shape: tuple[int, int]) -> None:
    """Each of their cells would be a diagonal of its own."""
    mask = np.zeros(shape, np.bool_)
    packed = pack_mask(mask, 16 * shape[1], 16 * shape[0])
    assert packed.packet.coding == pb.CODING_RAW
    assert np.array_equal(unpack_mask(packed.packet, limits=LIMITS, space=coder.space), mask)
    packed.packet.coding = pb.CODING_ENTROPY
    with pytest.raises(CorruptData, match="raw"):
        unpack_mask(packed.packet, limits=LIMITS, space=coder.space)


def test_the_header_of_the_largest_image_fits(coder: Coder) -> None:
    for rows, columns in (47, 1000), (1, 65536), (65536, 1), (188, 250):
        codes = np.zeros((rows, columns), dtype=np.int32)
        packet = pack_image(coder, TokenGrid(codes, columns * 16, rows * 16), raw=True).packet
        packet.scenario = pb.SCENARIO_TEXT_CONDITIONED
        packet.coding = pb.CODING_ENTROPY
        assert header_bytes(packet) <= 16


def small_case(mask: bool, prompt: bool, raw: bool) -> Case:
    random = np.random.default_rng(4)
    grid = TokenGrid(random.integers(0, 64, (2, 3)).astype(np.int32), 40, 30)
    where = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.bool_) if mask else None
    text = np.array([5, 6], dtype=np.int32) if prompt else None
    return Case(grid, where, None, text, grid if mask else None, raw)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("prompt", [False, True])
def test_a_damaged_image_is_never_another_one(
    coder: Coder, mask: bool, prompt: bool, raw: bool
) -> None:
    case = small_case(mask, prompt, raw)
    packet = pack(coder, case).packet
    assert check_damage(packet, lambda p: same(unpack(coder, p, case), case.grid)) > 40


@pytest.mark.parametrize("raw", [False, True])
def test_a_damaged_text_is_never_another_one(coder: Coder, raw: bool) -> None:
    def check(ids: list[int]) -> int:
        packet = pack_text(coder, np.array(ids, dtype=np.int32), raw=raw).packet
        return check_damage(packet, lambda p: unpack_text(coder, p, limits=LIMITS).tolist() == ids)

    assert check([]) > 10
    assert check([7]) > 20
    assert check([7, 8, 9]) > 20


def test_a_damaged_mask_is_never_another_one(coder: Coder) -> None:
    limits = Limits(max_tokens=64)

    def check(mask: Mask) -> int:
        packet = pack_mask(mask, 70, 64).packet
        return check_damage(packet, lambda p: np.array_equal(
            unpack_mask(p, limits=limits, space=coder.space), mask))

    scattered = np.random.default_rng(0).random((4, 5)) < 0.5
    assert check(scattered) > 20
    assert check(np.zeros_like(scattered)) > 20


@settings(max_examples=300)
@given(st.builds(
    pb.Packet,
    kind=st.integers(0, 4), scenario=st.integers(0, 4), coding=st.integers(0, 3),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 99),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 99),
    count=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    pitch=st.integers(0, 2**32 - 1) | st.integers(0, 99),
    crc=st.integers(0, 2**32 - 1), payload=st.binary(max_size=20),
))
def test_forged_packets_are_refused(coder: Coder, packet: pb.Packet) -> None:
    limits = Limits(max_tokens=100, max_text_tokens=20)
    for case in (small_case(False, True, False), small_case(True, False, False)):
        with pytest.raises(UnimicError):
            unpack(coder, packet, case, limits)
    with pytest.raises(UnimicError):
        unpack_text(coder, packet, limits=limits)
    with pytest.raises(UnimicError):
        unpack_mask(packet, limits=limits, space=coder.space)


class NoCoder:
    """Fails as soon as anything is decoded."""

    def __init__(self, coder: Coder) -> None:
        self.space, self.image_model, self.text_model = coder.space, None, None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


@pytest.mark.parametrize("pitch", [PITCHES[0] - 1, PITCH, PITCHES[-1] + 1])
def test_pitches_that_are_none(coder: Coder, pitch: int) -> None:
    """The usual one is one, but only where it is left out."""
    packet = pb.Packet(kind=pb.KIND_MASK, width=9, height=9, pitch=pitch)
    with pytest.raises(CorruptData, match=f"pitch: {pitch} is out of range"):
        unpack_mask(packet, limits=LIMITS, space=coder.space)


@pytest.mark.parametrize(("width", "height", "pitch"), [
    (2**32 - 1, 2**32 - 1, 0), (2**32 - 1, 1, 0), (17, 16, 0), (9, 8, 8), (64, 64, 64)])
def test_a_forged_size_takes_neither_memory_nor_time(
    coder: Coder, width: int, height: int, pitch: int
) -> None:
    limits = Limits(max_tokens=1)
    image = pb.Packet(kind=pb.KIND_IMAGE, width=width, height=height, pitch=pitch)
    with pytest.raises(LimitExceeded, match="width"):
        unpack_image(NoCoder(coder), image, limits=limits)
    mask = pb.Packet(kind=pb.KIND_MASK, width=width, height=height, pitch=pitch)
    with pytest.raises(LimitExceeded, match="width"):
        unpack_mask(mask, limits=limits, space=coder.space)


def test_fields_of_other_kinds_are_refused(coder: Coder) -> None:
    def mask(packet: pb.Packet) -> Mask:
        return unpack_mask(packet, limits=LIMITS, space=coder.space)

    read_image, read_text = (partial(read, coder, limits=LIMITS)
                             for read in (unpack_image, unpack_text))
    size = {"width": 16, "height": 16}
    for read, facts, fields in (
            (read_image, {"kind": pb.KIND_IMAGE, **size}, ("count",)),
            (read_text, {"kind": pb.KIND_TEXT}, (*size, "pitch", "scenario", "skip")),
            (mask, {"kind": pb.KIND_MASK, **size}, ("count", "scenario", "skip"))):
        for field in fields:
            with pytest.raises(CorruptData, match=f"{field}.* has none"):
                read(pb.Packet(**facts, **{field: 1}))


def test_other_limits(coder: Coder) -> None:
    with pytest.raises(LimitExceeded, match="count"):
        unpack_text(NoCoder(coder), pb.Packet(kind=pb.KIND_TEXT, count=2**32 - 1), limits=LIMITS)
    long = pb.Packet(kind=pb.KIND_TEXT, count=1, payload=bytes(9))
    with pytest.raises(LimitExceeded, match="payload"):
        unpack_text(NoCoder(coder), long, limits=Limits(max_message_bytes=8))


def test_what_does_not_belong_together_is_found(coder: Coder) -> None:
    case = small_case(True, True, False)
    packet = pack(coder, case).packet
    assert case.mask is not None
    assert case.prompt is not None
    other_mask, other_base = case.mask.copy(), case.grid.codes.copy()
    other_mask[0, 0] ^= True
    other_base[0, 0] ^= 1
    base = TokenGrid(other_base, case.grid.width, case.grid.height)
    for other in (
        replace(case, mask=other_mask), replace(case, base=base), replace(case, prompt=None),
        replace(case, prompt=case.prompt[:1]), replace(case, mask=None),
    ):
        with pytest.raises(CorruptData):
            unpack(coder, packet, other)
    with pytest.raises(InvalidInput, match="base"):
        unpack_image(coder, packet, limits=LIMITS, mask=case.mask, prompt=case.prompt)
    with pytest.raises(InvalidInput, match="mask"):
        unpack_image(coder, packet, limits=LIMITS, base=case.base, mask=np.ones((9, 9), np.bool_))


def test_another_model_or_space_is_named(coder: Coder) -> None:
    case = small_case(False, False, False)
    packet = for_file(pack(coder, case).packet, coder)
    assert same(unpack(coder, packet, case), case.grid)
    other = pb.Packet()
    other.CopyFrom(packet)
    other.space = b"elsewhere"[:8]
    with pytest.raises(UnknownModel, match="space"):
        unpack(coder, other, case)
    other.CopyFrom(packet)
    other.model = b"elsewhere"[:8]
    with pytest.raises(UnknownModel, match="model"):
        unpack(coder, other, case)


def test_input_that_does_not_fit_is_refused(coder: Coder) -> None:
    codes = np.zeros((2, 3), dtype=np.int32)
    with pytest.raises(InvalidInput, match="codes"):
        pack_image(coder, TokenGrid(codes, 16, 16))
    with pytest.raises(InvalidInput, match="codes"):
        pack_image(coder, TokenGrid(codes + 64, 40, 30))
    with pytest.raises(InvalidInput, match="pitch"):
        pack_image(coder, TokenGrid(codes, 40, 30, 7))
    with pytest.raises(InvalidInput, match="mask"):
        pack_image(coder, TokenGrid(codes, 40, 30), mask=codes)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="ids"):
        pack_text(coder, np.array([4096], dtype=np.int32))
    with pytest.raises(InvalidInput, match="mask"):
        pack_mask(np.zeros((0, 3), dtype=np.bool_), 40, 30)


def test_what_an_image_packet_cannot_say(coder: Coder) -> None:
    for raw, skip in (False, 257), (True, 1):
        case = small_case(False, False, raw)
        packet = pack(coder, case).packet
        packet.skip = skip
        with pytest.raises(CorruptData, match=f"skip: {skip} is out of range"):
            unpack(coder, packet, case)
    for field, value in (("width", 40), ("height", 30), ("pitch", 8)):
        case = small_case(True, False, False)
        packet = pack(coder, case).packet
        setattr(packet, field, value)
        with pytest.raises(CorruptData, match="a masked packet has no size"):
            unpack(coder, packet, case)


def test_a_base_of_another_space_is_refused(coder: Coder) -> None:
    case = small_case(True, False, True)
    packet = pack(coder, case).packet
    assert case.mask is not None
    other = replace(case.grid, codes=np.where(case.mask, case.grid.codes, 64))
    with pytest.raises(InvalidInput, match="codes: values from"):
        unpack(coder, packet, replace(case, base=other))


def test_just_as_much_as_is_allowed(coder: Coder) -> None:
    ids = np.arange(5, dtype=np.int32)
    text = pack_text(coder, ids).packet
    assert unpack_text(coder, text, limits=Limits(max_text_tokens=5)).tolist() == ids.tolist()
    mask = np.zeros((1, MOST_DIAGONALS - 1), np.bool_)
    packet = pack_mask(mask, 16 * mask.size, 16).packet
    assert packet.coding == pb.CODING_ENTROPY
    assert np.array_equal(unpack_mask(packet, limits=LIMITS, space=coder.space), mask)


def test_raw_tokens_have_their_fixed_length_each(coder: Coder) -> None:
    case = small_case(True, False, True)
    packed = pack_image(coder, case.grid, mask=case.mask, raw=True)
    assert np.array_equal(packed.token_bits, np.where(case.mask, 6, 0))  # of 64 codes


def test_an_empty_image_is_refused(coder: Coder) -> None:
    for width, height in (0, 16), (16, 0):
        shape = grid_shape(width, height, 16)
        with pytest.raises(InvalidInput, match=f"size: {width}×{height} pixels is empty"):
            pack_image(coder, TokenGrid(np.zeros(shape, np.int32), width, height))


def test_a_packet_without_a_kind_is_none(coder: Coder) -> None:
    case = small_case(False, False, False)
    packet = pack(coder, case).packet
    packet.ClearField("kind")
    with pytest.raises(CorruptData, match="kind"):
        unpack(coder, packet, case)
