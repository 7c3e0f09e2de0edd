"""The shipped models in packets and files: any tokens come back, at the ideal length."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unimic.codec import umc
from unimic.codec.coder import Coder
from unimic.codec.errors import LimitExceeded, UnimicError
from unimic.codec.frequencies import SKIP_ALL
from unimic.codec.limits import Limits
from unimic.codec.packets import (
    for_file,
    pack_image,
    pack_image_within,
    pack_mask,
    pack_text,
    unpack_image,
    unpack_text,
)
from unimic.codec.store import TEXT_TOKENIZER, ModelStore
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import TokenGrid, grid_shape
from unimic.v1 import packet_pb2 as pb

LIMITS = Limits()
few = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])


@few
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1), st.booleans(),
       st.booleans())
def test_images_come_back(
    shipped: Coder, width: int, height: int, seed: int, masked: bool, prompted: bool
) -> None:
    random = np.random.default_rng(seed)
    shape = grid_shape(width, height, 16)
    alphabet = shipped.space.image_codes
    grid = TokenGrid(random.integers(0, alphabet, shape).astype(np.int32), width, height)
    mask = random.random(shape) < 0.4 if masked else None
    prompt = random.integers(1, 4096, 7).astype(np.int32) if prompted else None
    packed = pack_image(shipped, grid, mask=mask, prompt=prompt)
    back = unpack_image(shipped, packed.packet, limits=LIMITS, mask=mask, prompt=prompt,
                        base=grid if masked else None)
    assert np.array_equal(back.codes, grid.codes)
    assert packed.sizes.payload_bytes <= packed.sizes.ideal_bits / 8 * 1.003 + 2


@few
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_texts_come_back(shipped: Coder, store: ModelStore, text: str) -> None:
    tokenizer = TextTokenizer(store.path(TEXT_TOKENIZER, "tokenizer.json"))
    packed = pack_text(shipped, tokenizer.encode(text))
    assert tokenizer.decode(unpack_text(shipped, packed.packet, limits=LIMITS)) == text
    assert packed.sizes.payload_bytes <= packed.sizes.ideal_bits / 8 * 1.003 + 2


def damage_is_refused(packet: pb.Packet, unpack: Callable[[pb.Packet], object]) -> None:
    """Whichever byte of the payload is another, and if there is one more."""
    payload = packet.payload
    for place in range(len(payload)):
        packet.payload = payload[:place] + bytes([payload[place] ^ 0x10]) + payload[place + 1 :]
        with pytest.raises(UnimicError, match=r"payload|crc"):
            unpack(packet)
    packet.payload = payload + b"\0"
    with pytest.raises(UnimicError, match="payload"):
        unpack(packet)


def test_a_damaged_payload_is_never_another_image(shipped: Coder) -> None:
    grid = TokenGrid(np.arange(6, dtype=np.int32).reshape(2, 3) * 1000, 48, 32)
    damage_is_refused(pack_image(shipped, grid).packet,
                      partial(unpack_image, shipped, limits=LIMITS))


def test_a_file_of_everything_comes_back(shipped: Coder) -> None:
    random = np.random.default_rng(0)
    text = np.array([100, 200, 300], dtype=np.int32)
    image = TokenGrid(random.integers(0, 8192, (5, 4)).astype(np.int32), 60, 80)
    mask = np.zeros((5, 4), dtype=np.bool_)
    mask[1:3, 1:] = True
    changed = TokenGrid(np.where(mask, 77, image.codes).astype(np.int32), 60, 80)
    packets = [
        for_file(pack_text(shipped, text).packet, shipped),
        for_file(pack_image(shipped, image, prompt=text).packet, shipped, [0]),
        for_file(pack_mask(mask, 60, 80).packet, shipped),
        for_file(pack_image(shipped, changed, mask=mask, prompt=text).packet, shipped, [1, 2, 0]),
    ]
    file = io.BytesIO()
    umc.write(file, packets)
    file.seek(0)
    contents = umc.decode(shipped, umc.read(file, LIMITS), limits=LIMITS)
    assert isinstance(contents[1], TokenGrid)
    assert np.array_equal(contents[1].codes, image.codes)
    assert isinstance(contents[3], TokenGrid)
    assert np.array_equal(contents[3].codes, changed.codes)


@few
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1), st.integers(0, 256),
       st.booleans())
def test_what_is_skipped_is_the_same_on_both_sides(
    shipped: Coder, width: int, height: int, seed: int, skip: int, masked: bool
) -> None:
    random = np.random.default_rng(seed)
    shape = grid_shape(width, height, 16)
    codes = random.integers(0, shipped.space.image_codes, shape).astype(np.int32)
    grid = TokenGrid(codes, width, height)
    mask = random.random(shape) < 0.6 if masked else None
    packed = pack_image(shipped, grid, mask=mask, skip=skip)
    back = unpack_image(shipped, packed.packet, limits=LIMITS, mask=mask,
                        base=grid if masked else None)
    assert np.array_equal(back.codes, packed.grid.codes)
    if skip == 0:
        assert np.array_equal(back.codes, codes)
    if skip == SKIP_ALL:
        assert not packed.packet.payload


@pytest.mark.parametrize("budget", [16, 60, 150, 300, 10_000])
def test_a_budget_is_never_exceeded(shipped: Coder, budget: int) -> None:
    codes = np.random.default_rng(5).integers(0, 8192, (14, 14)).astype(np.int32)
    grid = TokenGrid(codes, 224, 224)
    packed = pack_image_within(shipped, grid, budget)
    assert packed.packet.ByteSize() <= budget
    back = unpack_image(shipped, packed.packet, limits=LIMITS)
    assert np.array_equal(back.codes, packed.grid.codes)
    if budget == 10_000:
        assert np.array_equal(back.codes, codes)


def test_a_budget_below_the_header_is_refused(shipped: Coder) -> None:
    grid = TokenGrid(np.zeros((14, 14), np.int32), 224, 224)
    with pytest.raises(LimitExceeded, match="budget"):
        pack_image_within(shipped, grid, 5)


def test_texts_tell_how_far_they_are_and_can_be_stopped(shipped: Coder) -> None:
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        shipped.watched(stop).decode_text(b"", 4096)
    assert seen == [(0, 4096), (256, 4096), (512, 4096)]
    seen.clear()
    ids = np.arange(40, dtype=np.int32)
    shipped.watched(lambda *told: seen.append(told)).encode_text(ids)
    assert seen == [(0, 40), (16, 40), (32, 40), (40, 40)]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_a_budget_is_used(shipped: Coder, share: float) -> None:
    """No less could have been left out, and a packet of just the budget keeps it."""
    codes = np.random.default_rng(5).integers(0, 8192, (14, 14)).astype(np.int32)
    grid = TokenGrid(codes, 224, 224)
    whole = pack_image(shipped, grid)
    assert pack_image_within(shipped, grid, whole.sizes.wire_bytes).packet == whole.packet
    budget = int(whole.sizes.wire_bytes * share)
    packed = pack_image_within(shipped, grid, budget)
    assert packed.packet.skip > 0
    less = pack_image(shipped, grid, skip=packed.packet.skip - 1)
    assert less.sizes.wire_bytes > budget >= packed.sizes.wire_bytes
    again = pack_image_within(shipped, grid, packed.sizes.wire_bytes)
    assert again.packet == packed.packet


def test_a_damaged_payload_is_never_another_text(shipped: Coder, store: ModelStore) -> None:
    packet = pack_text(shipped, TextTokenizer.of(store).encode("Two dogs run on a beach.")).packet
    assert packet.coding == pb.CODING_ENTROPY
    damage_is_refused(packet, partial(unpack_text, shipped, limits=LIMITS))


def test_who_watches_a_coder_watches_nobody_elses(shipped: Coder) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError

    ids, codes = np.arange(40, dtype=np.int32), np.zeros((2, 2), np.int32)
    watched = shipped.watched(stop)
    payload, text = shipped.encode_image(codes).payload, shipped.encode_text(ids).payload
    for call in (lambda: watched.encode_image(codes), lambda: watched.decode_image(payload, codes),
                 lambda: watched.encode_text(ids), lambda: watched.decode_text(text, 40)):
        with pytest.raises(InterruptedError):
            call()
    assert np.array_equal(shipped.decode_text(text, 40), ids)


@pytest.mark.parametrize("masked", [False, True])
def test_images_tell_how_far_they_are(shipped: Coder, masked: bool) -> None:
    codes = np.random.default_rng(0).integers(0, 8192, (20, 36)).astype(np.int32)
    mask = np.ones(codes.shape, np.bool_)
    if masked:
        mask[:, ::2] = False
    seen: list[tuple[int, int]] = []
    for skip in 0, 128:
        seen.clear()
        shipped.watched(lambda *told: seen.append(told)).encode_image(codes, mask=mask, skip=skip)
        assert seen[0] == (0, mask.sum())
        assert seen[-1] == (mask.sum(), mask.sum())
        assert seen == sorted(seen)
        assert len(set(seen)) > 3
