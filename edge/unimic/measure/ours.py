"""Our own codec as one of many."""

from __future__ import annotations

import io
import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimic.codec import umc
from unimic.codec.coder import Coder
from unimic.codec.order import REVEALED, reveal_groups, waves
from unimic.codec.packets import for_file, pack_image
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, TokenGrid
from unimic.edge import files
from unimic.edge.models import Models
from unimic.measure.codecs import OURS, Codec, Encoded, Setting


def codec() -> Codec:
    """UniMIC with the shipped models: a quality of 25 … 200."""
    store = ModelStore.default()
    models = Models.load(store, threads=1)
    images, space = models.images, models.coder.space

    def encode(image: Image.Image, setting: Setting) -> Encoded:
        return _encode(models.coder, images.encode(image, space.pitch(int(setting))))

    def decode(data: bytes, size: tuple[int, int]) -> Image.Image:
        return files.decode(data, models).image

    return Codec(OURS, space.qualities, (50, 70, 100, 140, 200), encode, decode,
                 versions(store))


def versions(store: ModelStore) -> dict[str, str]:
    """Of the models, by name."""
    return {entry.name: entry.id.hex() for entry in store.entries.values()}


def _encode(coder: Coder, grid: TokenGrid) -> Encoded:
    packed = pack_image(coder, grid)
    packet = for_file(packed.packet, coder)
    file = io.BytesIO()
    size, header = umc.write(file, [packet]), packet.ByteSize() - len(packet.payload)
    parts = {"container": 8.0 * (size - packet.ByteSize()), "header": 8.0 * header}
    bits = packed.token_bits
    parts |= {f"group {number}": value for number, value in
              enumerate(group_bits(bits, grid.codes), start=1)}
    parts["range coder"] = 8.0 * len(packet.payload) - float(bits.sum())
    return Encoded(file.getvalue(), packed.sizes.ideal_bits, len(packet.payload), parts, bits)


def group_bits(bits: NDArray[np.float64], codes: Codes) -> list[float]:
    """Bits of each group of the coding order, over all windows of a grid that is sent whole."""
    totals = np.zeros(len(REVEALED) + 1)
    for window in itertools.chain.from_iterable(waves(*codes.shape)):
        part = bits[window.top:window.bottom, window.left:window.right]
        np.add.at(totals, reveal_groups(np.ones(part.shape, bool)), part)
    return [float(total) for total in totals[1:]]
