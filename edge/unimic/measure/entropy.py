"""Rates of the shipped models on pictures and texts: what ``unimic measure entropy`` prints.

Three sizes are kept apart. *Ideal* is the cross-entropy of the tokens under the model, *payload*
what the range coder writes, *wire* the whole packet. Two yardsticks stand beside them: fixed-length
tokens, and the order-0 cost under one histogram of the training tokens. A codebook that is half
used saves bits against the first, not against the second.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimic.codec.coder import Coder
from unimic.codec.errors import InvalidInput
from unimic.codec.networks import HISTOGRAM, IMAGE_ENTROPY
from unimic.codec.packets import pack_image, pack_text
from unimic.codec.progress import Progress
from unimic.codec.store import ModelStore
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import Mask
from unimic.edge.image_tokenizer import ImageTokenizer
from unimic.edge.images import load_image

LEAST_SKIP = 1  # leaves nothing out, but lets the encoder take cheaper codes

DICTIONARY_BYTES = 112_640  # zstd's own choice
Compressor = tuple[str, Callable[[bytes], bytes]]
"""A name and what compresses."""


@dataclass(frozen=True)
class Picture:
    """A picture to measure, and its caption if there is one."""

    path: Path
    caption: str | None = None


def order0_table(store: ModelStore) -> NDArray[np.float64]:
    """Bits of each image code under the histogram of the training tokens, plus one each."""
    with np.load(store.path(IMAGE_ENTROPY, HISTOGRAM)) as file:
        counts = file["counts"].astype(np.float64) + 1
    return np.asarray(np.log2(counts.sum()) - np.log2(counts))


def measure_pictures(store: ModelStore, coder: Coder, pictures: Sequence[Picture],
                     progress: Progress) -> dict[str, Any]:
    """Rates of pictures: generic, given the caption, and half of the tokens given the others.

    Returns:
        Bits a token, percentages against both yardsticks, and code usage. None where nothing was
        masked, in pictures of a few tokens.
    """
    tokenizer, text = ImageTokenizer(store), TextTokenizer.of(store)
    order0 = order0_table(store)
    raw = math.log2(coder.space.image_codes)
    total: dict[str, float] = {}
    used: set[int] = set()

    def add(**values: float) -> None:
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value

    for done, picture in enumerate(pictures):
        progress(done, len(pictures))
        image = load_image(picture.path)
        grid = tokenizer.encode(image)
        used.update(np.unique(grid.codes).tolist())
        packed, cheaper = pack_image(coder, grid), pack_image(coder, grid, skip=LEAST_SKIP)
        add(cheaper=8 * cheaper.sizes.payload_bytes,
            cheaper_order0=order0[cheaper.grid.codes].sum(),
            exchanged=(cheaper.grid.codes != grid.codes).sum())
        add(images=1, tokens=grid.codes.size, pixels=image.width * image.height,
            order0=order0[grid.codes].sum(), ideal=packed.sizes.ideal_bits,
            payload=8 * packed.sizes.payload_bytes, wire=8 * packed.sizes.wire_bytes)
        for name, half in _halves(grid.codes.shape, done).items():
            add(**{f"{name}_generic": packed.token_bits[half].sum(),
                   f"{name}_masked": coder.encode_image(grid.codes, mask=half).ideal_bits})
        if picture.caption is not None:
            conditioned = coder.encode_image(grid.codes, prompt=text.encode(picture.caption))
            add(captioned=1, captioned_generic=packed.sizes.ideal_bits,
                captioned_ideal=conditioned.ideal_bits)
    progress(len(pictures), len(pictures))

    tokens = total["tokens"]
    figures: dict[str, Any] = {
        "images": int(total["images"]),
        "tokens": int(tokens),
        "codes_used": len(used),
        "raw_bits_per_token": raw,
        "order0_bits_per_token": total["order0"] / tokens,
        "ideal_bits_per_token": total["ideal"] / tokens,
        "payload_bits_per_token": total["payload"] / tokens,
        "wire_bits_per_token": total["wire"] / tokens,
        "payload_bits_per_pixel": total["payload"] / total["pixels"],
        "payload_below_order0_percent": 100 * (1 - total["payload"] / total["order0"]),
        "payload_below_raw_percent": 100 * (1 - total["payload"] / (tokens * raw)),
        "payload_over_ideal_percent": 100 * (total["payload"] / total["ideal"] - 1),
        "rate_aware_payload_bits_per_token": total["cheaper"] / tokens,
        "rate_aware_payload_bits_per_pixel": total["cheaper"] / total["pixels"],
        "rate_aware_below_order0_percent": 100 * (1 - total["cheaper"] / total["cheaper_order0"]),
        "rate_aware_below_raw_percent": 100 * (1 - total["cheaper"] / (tokens * raw)),
        "rate_aware_exchanged_percent": 100 * total["exchanged"] / tokens,
        **{f"{name}_below_generic_percent":
           _below(total[f"{name}_masked"], total[f"{name}_generic"])
           for name in _halves((1, 2), 0)},
    }
    if total.get("captioned"):
        figures["conditioned_below_generic_percent"] = (
            100 * (1 - total["captioned_ideal"] / total["captioned_generic"]))
    return figures


def _below(value: float, other: float) -> float | None:
    """By how many percent; None where the other is nothing."""
    return 100 * (1 - value / other) if other else None


def _halves(shape: tuple[int, ...], seed: int) -> dict[str, Mask]:
    """What is coded given the rest: the right half, and a scattered one."""
    right = np.zeros(shape, np.bool_)
    right[:, shape[1] // 2:] = True
    scattered = np.random.default_rng(seed).random(shape) < 0.5
    return {"masked_right_half": right, "masked_scattered_half": scattered}


def measure_texts(store: ModelStore, coder: Coder, texts: Sequence[str],
                  others: Sequence[Compressor], progress: Progress) -> dict[str, Any]:
    """Rates of texts, each coded by itself, in bits a character, beside those of ``others``."""
    tokenizer = TextTokenizer.of(store)
    characters = sum(map(len, texts))
    ideal = payload = wire = tokens = 0.0
    for done, line in enumerate(texts):
        progress(done, len(texts))
        ids = tokenizer.encode(line)
        packed = pack_text(coder, ids)
        tokens += len(ids)
        ideal += packed.sizes.ideal_bits
        payload += 8 * packed.sizes.payload_bytes
        wire += 8 * packed.sizes.wire_bytes
    progress(len(texts), len(texts))
    data = [line.encode() for line in texts]
    return {
        "texts": len(texts), "characters": characters, "tokens": int(tokens),
        "ideal_bits_per_character": ideal / characters,
        "payload_bits_per_character": payload / characters,
        "wire_bits_per_character": wire / characters,
        "others_bits_per_character": {
            name: 8 * sum(len(pack(d)) for d in data) / characters for name, pack in others},
    }


def _deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def compressors(dictionary: Sequence[bytes]) -> Iterable[Compressor]:
    """General compressors at their strongest, those of other packages where installed.

    zstd also with a dictionary trained on the texts ``dictionary``, if there are any. What both
    sides know beforehand (the format, the dictionary's number) is not written, but by bz2, which
    has no bare form.

    Raises:
        InvalidInput: the texts are too few to be learnt from.
    """
    yield "zlib", _deflated
    yield "bz2", lambda d: bz2.compress(d, 9)
    yield "xz", lambda d: lzma.compress(
        d, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}])
    with suppress(ImportError):
        yield "brotli", importlib.import_module("brotli").compress
    with suppress(ImportError):
        zstd = importlib.import_module("zstandard")
        settings = zstd.ZstdCompressionParameters.from_level(
            19, format=zstd.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_dict_id=False)
        yield "zstd", zstd.ZstdCompressor(compression_params=settings).compress
        if dictionary:
            try:
                trained = zstd.train_dictionary(DICTIONARY_BYTES, list(dictionary))
            except zstd.ZstdError as error:
                raise InvalidInput("--dictionary", f"zstd cannot learn from it ({error})",
                                   "use a file of more texts") from error
            yield "zstd with a dictionary", zstd.ZstdCompressor(
                dict_data=trained, compression_params=settings).compress
    with suppress(ImportError):
        yield "ppmd", importlib.import_module("pyppmd").compress
