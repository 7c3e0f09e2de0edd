"""The most faithful tokens of a picture that keep a budget of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from unimic.codec.coder import Coder
from unimic.codec.frequencies import SKIP_ALL
from unimic.codec.packets import PackedImage, pack_image, pack_image_within
from unimic.codec.tokens import (
    PITCHES,
    Codes,
    Mask,
    check_size,
    check_tokens,
    grid_shape,
)
from unimic.edge.image_tokenizer import ImageTokenizer

WORTH_LEAVING = SKIP_ALL // 8
"""Up to here, leaving tokens out costs hardly more fidelity than coarser tokens of as many bytes;
docs/experiments.md has the measurement."""


def pack_photo_within(
    coder: Coder, images: ImageTokenizer, photo: Image.Image, budget: int, *, most_tokens: int,
    most_task_tokens: int | None = None,
    hole: Callable[[int], Mask | None] = lambda pitch: None, prompt: Codes | None = None,
) -> PackedImage:
    """Tokenize and code a photo into a packet of at most ``budget`` bytes, as faithfully as it can.

    First the finest tokens are sought that keep the budget with `WORTH_LEAVING` left out, by a
    bracketed search over the pitch that takes some four codings; then how little must be left out.

    Args:
        coder: of the tokenizer's space.
        images: the tokenizer.
        photo: RGB.
        budget: bytes of the whole packet.
        most_tokens: as `check_size` counts them.
        most_task_tokens: that the grid may have; None for no other limit.
        hole: what is not sent of a grid of some pitch, see `pack_image`.
        prompt: see `pack_image`.

    Raises:
        LimitExceeded: not even the header keeps the budget, or the photo is too large at any pitch.
    """
    size, coarsest = (photo.width, photo.height), PITCHES[-1]
    check_size(*size, coarsest, most_tokens)
    most = min(most_tokens, most_task_tokens or most_tokens)
    check_tokens(*size, coarsest, most)
    # What is finer than the finest that is allowed counts as over the budget, as does `low`.
    low = next(p for p in PITCHES if math.prod(grid_shape(*size, p)) <= most) - 1
    high, guess, grid, known = coarsest, max(low + 1, images.space.patch), None, None
    while high - low > 1 or grid is None:
        guess = min(max(guess, low + 1), max(low + 1, high - 1))
        unsent = hole(guess)
        tried = images.encode(photo, guess, unsent)
        packed = pack_image(coder, tried, hole=unsent, prompt=prompt, skip=WORTH_LEAVING)
        bytes_ = packed.sizes.wire_bytes
        if bytes_ <= budget or guess == coarsest:
            high, grid, known = guess, tried, packed if bytes_ <= budget else None
        else:
            low = guess
        guess = round(guess * math.sqrt(bytes_ / max(1, budget)))
    return pack_image_within(coder, grid, budget, hole=hole(grid.pitch), prompt=prompt, known=known)
