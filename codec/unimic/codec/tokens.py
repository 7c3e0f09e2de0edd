"""The alphabet: token spaces, grids of image tokens, text tokens, masks."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimic.codec.errors import InvalidInput, LimitExceeded

Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]

PITCH = 16
"""Pixels on each side of the square that a token stands for, where nothing else is said."""
PITCHES = range(8, 65)
"""From the most faithful to the fewest bytes."""


class Distances(NamedTuple):
    """How far each token is from what the image tokenizer would have liked to say.

    A code is an upper and a lower part, and the distance of a code is the sum of its parts': the
    squared distance between the latent and that code's point, each channel from -1 to 1.

    Attributes:
        upper: float32 ``(rows, columns, upper)``, of each upper part.
        lower: float32 ``(rows, columns, lower)``, of each lower part.
    """

    upper: NDArray[np.float32]
    lower: NDArray[np.float32]


@dataclass(frozen=True)
class TokenSpace:
    """An image tokenizer and a text tokenizer, as far as coding needs to know them.

    Attributes:
        id: the first 8 bytes of the SHA-256 over the tokenizers' files, but for the picture
            decoder, which may improve while tokens keep their meaning.
        image_codes: size of the image codebook.
        patch: pixels on each side of the square that one image token is for the tokenizer.
        text_codes: size of the text vocabulary.
    """

    id: bytes
    image_codes: int = 8192
    patch: int = PITCH
    text_codes: int = 4096

    def pitch(self, quality: int) -> int:
        """Pixels a side that a token stands for at a quality: `patch` at 100, half of it at 200.

        Raises:
            InvalidInput: ``quality`` is not one of `qualities`.
        """
        if quality not in self.qualities:
            least, most = self.qualities[0], self.qualities[-1]
            raise InvalidInput("quality", f"{quality} is out of range", f"use {least} to {most}")
        return round(100 * self.patch / quality)

    @property
    def qualities(self) -> range:
        """All qualities, from the fewest bytes to the most faithful."""
        return range(-(-100 * self.patch // PITCHES[-1]), 100 * self.patch // PITCHES[0] + 1)


def grid_shape(width: int, height: int, pitch: int) -> tuple[int, int]:
    """Rows and columns of the grid of an image of ``width`` × ``height`` pixels.

    Raises:
        InvalidInput: ``pitch`` is not one of `PITCHES`.
    """
    if pitch not in PITCHES:
        raise InvalidInput("pitch", f"{pitch} pixels a token are out of range",
                           f"use {PITCHES[0]} to {PITCHES[-1]}")
    return -(-height // pitch), -(-width // pitch)


def check_size(width: int, height: int, pitch: int, most: int) -> tuple[int, int]:
    """`grid_shape`, if an image has at most ``most`` tokens.

    Coarse tokens count as the tokens of `PITCH` pixels that they replace: a picture takes memory by
    its pixels.

    Raises:
        InvalidInput: ``pitch`` is not one of `PITCHES`.
        LimitExceeded: there are more.
    """
    shape = grid_shape(width, height, pitch)
    remedy = "use a smaller picture"
    if pitch < PITCH:
        remedy += " or a lower quality"
    check_tokens(width, height, min(pitch, PITCH), most, remedy)
    return shape


def check_tokens(width: int, height: int, pitch: int, most: int,
                 remedy: str = "use a smaller picture") -> None:
    """Raise `LimitExceeded` if an image has more than ``most`` tokens of ``pitch`` pixels."""
    tokens = math.prod(grid_shape(width, height, pitch))
    if tokens > most:
        raise LimitExceeded("width", f"{width}×{height} pixels are {tokens:,} tokens of {pitch} "
                            f"pixels", f"at most {most:,} are taken; {remedy}")


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """The tokens of one image.

    Attributes:
        codes: int32 ``(rows, columns)``, each in ``[0, image_codes)``.
        width: of the image in pixels; the last column may be partly padding.
        height: of the image in pixels.
        pitch: pixels of the image on each side of the square that a token stands for; the
            tokenizer sees the image enlarged or reduced to its own patches. One of `PITCHES`.
        distances: of all codes, where the grid comes fresh from a tokenizer that tells them.
    """

    codes: Codes
    width: int
    height: int
    pitch: int = PITCH
    distances: Distances | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Width, height and pitch."""
        return self.width, self.height, self.pitch

    def check(self, space: TokenSpace) -> None:
        """Raise `InvalidInput` unless the grid fits ``space``."""
        if self.width < 1 or self.height < 1:
            raise InvalidInput("size", f"{self.width}×{self.height} pixels is empty",
                               "use an image of at least 1×1")
        shape = grid_shape(*self.size)
        if self.codes.shape != shape:
            raise InvalidInput(
                "codes", f"shape {self.codes.shape} is not that of {self.width}×{self.height} "
                f"pixels at {self.pitch} a token, {shape}", "pass the whole grid")
        check_codes("codes", self.codes, space.image_codes)


def check_codes(field: str, codes: Codes, alphabet: int) -> None:
    """Raise `InvalidInput` unless ``codes`` are integers in ``[0, alphabet)``."""
    if not np.issubdtype(codes.dtype, np.integer):
        raise InvalidInput(field, f"dtype {codes.dtype} is not an integer", "pass int32")
    if codes.size and (codes.min() < 0 or codes.max() >= alphabet):
        raise InvalidInput(field, f"values from {codes.min()} to {codes.max()}",
                           f"tokens lie in 0 … {alphabet - 1}")


def checksum(tokens: Codes | Mask) -> int:
    """CRC-32 of tokens as little-endian 32-bit integers in reading order."""
    return zlib.crc32(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
