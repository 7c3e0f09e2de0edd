"""What is written is what ``docs/format.md`` says: a decoder made from that page reads it."""

from __future__ import annotations

import io
from collections.abc import Callable

import format_decoder
import numpy as np
import pytest

from unimic.codec import umc
from unimic.codec.coder import Coder
from unimic.codec.limits import Limits
from unimic.codec.packets import for_file, pack_image, pack_mask, pack_text
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, Mask, TokenGrid, grid_shape
from unimic.v1 import packet_pb2 as pb

PROMPT = (np.arange(70, dtype=np.int32) * 37 + 5) % 4096
ROW, COLUMN = np.indices((20, 18))
CIRCLE = (ROW - 9) ** 2 + (COLUMN - 6) ** 2 < 30


def picture(width: int, height: int, pitch: int = 16, seed: int = 0) -> TokenGrid:
    """Blocks of one code, some of whose tokens a model is sure of, and some noise."""
    random = np.random.default_rng(seed)
    rows, columns = grid_shape(width, height, pitch)
    codes = np.kron(random.integers(0, 8192, (rows, columns)), np.ones((5, 5), np.int64))
    codes = codes[:rows, :columns]
    noise = random.random(codes.shape) < 0.1
    codes[noise] = random.integers(0, 8192, int(noise.sum()))
    return TokenGrid(codes.astype(np.int32), width, height, pitch)


class Writer:
    """The packets of a file, one after the other."""

    def __init__(self, coder: Coder) -> None:
        self.coder, self.packets = coder, list[pb.Packet]()

    def text(self, ids: Codes, *, raw: bool = False) -> int:
        return self._add(pack_text(self.coder, ids, raw=raw).packet)

    def mask(self, mask: Mask, pitch: int = 16) -> int:
        rows, columns = mask.shape
        return self._add(pack_mask(mask, columns * pitch, rows * pitch, pitch).packet)

    def image(self, grid: TokenGrid, *needs: int, mask: Mask | None = None,
              hole: Mask | None = None, prompt: Codes | None = None, raw: bool = False,
              skip: int = 0) -> int:
        packed = pack_image(self.coder, grid, mask=mask, hole=hole, prompt=prompt, raw=raw,
                            skip=skip)
        return self._add(packed.packet, *needs)

    def file(self) -> bytes:
        file = io.BytesIO()
        umc.write(file, self.packets)
        return file.getvalue()

    def _add(self, packet: pb.Packet, *needs: int) -> int:
        self.packets.append(for_file(packet, self.coder, needs))
        return len(self.packets) - 1


def texts(to: Writer) -> None:
    for ids in PROMPT[:0], PROMPT, np.resize(PROMPT, 300):
        to.text(ids)
    to.text(PROMPT, raw=True)


def masks(to: Writer) -> None:
    random = np.random.default_rng(0)
    for mask in (CIRCLE, ~CIRCLE, np.ones((1, 1), np.bool_), random.random((9, 11)) < 0.5,
                 random.random((1, 4200)) < 0.01):
        to.mask(mask)


def pictures(to: Writer) -> None:
    to.image(picture(1, 1))
    to.image(picture(560, 650))  # three bands of windows each way
    to.image(picture(300, 200, 20), skip=60)
    to.image(picture(64, 64), skip=256)
    to.image(picture(100, 70, 9), raw=True)


def prompted(to: Writer) -> None:
    to.image(picture(200, 120), to.text(PROMPT), prompt=PROMPT)
    to.image(picture(200, 120), to.text(PROMPT[:3]), prompt=PROMPT[:3], skip=40)


def changed(to: Writer) -> None:
    """A picture with a hole, changed where there is some of it, then filled."""
    shown, other, third = (picture(18 * 12, 20 * 12, 12, seed) for seed in (0, 1, 2))
    hole, left = CIRCLE, COLUMN < 7
    circle, side = to.mask(hole, 12), to.mask(left, 12)
    codes = np.where(hole, 0, shown.codes)
    first = to.image(TokenGrid(codes, *shown.size), circle, to.text(PROMPT), hole=hole,
                     prompt=PROMPT)
    codes = np.where(left, other.codes, codes)
    second = to.image(TokenGrid(codes, *shown.size), first, side, mask=left)
    codes = np.where(hole, third.codes, codes)
    to.image(TokenGrid(codes, *shown.size), second, circle, to.text(PROMPT[:9]), mask=hole,
             prompt=PROMPT[:9], skip=30)
    to.image(TokenGrid(codes, *shown.size), second, circle, mask=hole, raw=True)
    to.image(shown, circle, hole=hole, raw=True)


@pytest.mark.parametrize("fill", [texts, masks, pictures, prompted, changed])
def test_a_decoder_made_from_the_page(shipped: Coder, store: ModelStore,
                                      fill: Callable[[Writer], None]) -> None:
    writer = Writer(shipped)
    fill(writer)
    ours = umc.decode(shipped, writer.packets, limits=Limits())
    theirs = format_decoder.decode(writer.file(), store.folder)
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(mine.codes if isinstance(mine, TokenGrid) else mine, other)


def test_it_takes_no_other_payload(shipped: Coder, store: ModelStore) -> None:
    writer = Writer(shipped)
    writer.image(picture(60, 40))
    (packet,) = writer.packets
    payload = packet.payload
    for wrong in (payload + b"\0", payload[:-1], bytes([payload[0] ^ 1]) + payload[1:]):
        packet.payload = wrong
        with pytest.raises(ValueError, match=r"payload|CRC of a packet"):
            format_decoder.decode(writer.file(), store.folder)
