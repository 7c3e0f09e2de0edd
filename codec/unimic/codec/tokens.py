"""The alphabet: token spaces, grids of image tokens, text tokens, masks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimic.codec.errors import InvalidInput

Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]


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
        name: for people; never compared.
        id: the first 8 bytes of the SHA-256 over the tokenizers' files, but for the picture
            decoder, which may improve while tokens keep their meaning.
        image_codes: size of the image codebook.
        patch: pixels on each side of the square that one image token stands for.
        text_codes: size of the text vocabulary.
    """

    name: str
    id: bytes
    image_codes: int = 8192
    patch: int = 16
    text_codes: int = 4096

    def grid_shape(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of the grid of an image of ``width`` × ``height`` pixels."""
        return -(-height // self.patch), -(-width // self.patch)


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """The tokens of one image.

    Attributes:
        codes: int32 ``(rows, columns)``, each in ``[0, image_codes)``.
        width: of the image in pixels; the last column may be partly padding.
        height: of the image in pixels.
        distances: of all codes, where the grid comes fresh from a tokenizer that tells them.
    """

    codes: Codes
    width: int
    height: int
    distances: Distances | None = None

    def check(self, space: TokenSpace) -> None:
        """Raise `InvalidInput` unless the grid fits ``space``."""
        if self.width < 1 or self.height < 1:
            raise InvalidInput("size", f"{self.width}×{self.height} pixels is empty",
                               "use an image of at least 1×1")
        if self.codes.shape != space.grid_shape(self.width, self.height):
            raise InvalidInput(
                "codes", f"shape {self.codes.shape} is not that of {self.width}×{self.height} "
                f"pixels, {space.grid_shape(self.width, self.height)}", "pass the whole grid")
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
