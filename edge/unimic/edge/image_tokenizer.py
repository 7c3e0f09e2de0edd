"""Photo to token grid and back, with the ONNX models of the store.

Large pictures are done in tiles (`unimic.edge.tiles`). Both networks are convolutional and
normalise each position by itself, and neither sees farther than a tile's halo of 12 tokens:

- encoder: 3×3 at stride 4 (4 px), 3×3 from 4 to 8 (4), one block of two 3×3 at 8 (16), 3×3 from
  8 to 16 (8), three blocks at 16 (96): 128 px = 8 tokens;
- decoder: 3×3 and two blocks at 16 (80), five blocks at 8 (80), two blocks and a 3×3 at 4 (20),
  3×3 at 2 (2): 182 px, less than 12 tokens.

So tiles give what the whole picture would have given, up to the rounding of float sums.

A token may stand for more or fewer pixels than the networks' patch: the picture is resampled before
the encoder and after the decoder.
"""

from __future__ import annotations

import copy
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimic.codec.progress import Progress, ignore
from unimic.codec.store import DECODER, ENCODER, IMAGE_TOKENIZER, ModelStore
from unimic.codec.tokens import Codes, Distances, Mask, TokenGrid, grid_shape
from unimic.edge.images import load_image
from unimic.edge.regions import spread
from unimic.edge.seams import covered
from unimic.edge.tiles import covering, load, picture, planes, scaled


class ImageTokenizer:
    """Encodes and decodes pictures; both ways may be used from several threads.

    Args:
        store: holds the model ``image-tokenizer``.
        threads: CPU threads of each network; all cores by default.

    Attributes:
        space: of the tokens.
    """

    def __init__(self, store: ModelStore, threads: int | None = None) -> None:
        self.space = store.space()
        self._watch: Progress = ignore
        # Copies share what is loaded.
        self._network = cache(partial(load, store, threads, IMAGE_TOKENIZER))

    def watched(self, watch: Progress) -> ImageTokenizer:
        """This tokenizer, telling ``watch`` the tiles done and to do; what that raises ends the
        work."""
        tokenizer = copy.copy(self)
        tokenizer._watch = watch
        return tokenizer

    def encode(self, image: Image.Image, pitch: int | None = None, hole: Mask | None = None
               ) -> TokenGrid:
        """Tokens of a picture of any size; its right and lower edges are repeated to whole patches.

        Args:
            image: any Pillow image; `load_image` makes it RGB.
            pitch: pixels a side that each token shall stand for, one of `PITCHES`; the tokenizer's
                own patch unless given, for which the picture need not be resampled.
            hole: bool ``(rows, columns)``: of whose pixels no other token shall tell anything. The
                network sees a few tokens around each; so it is shown `covered` ones instead.
        """
        image = load_image(image)
        patch = self.space.patch
        pitch = pitch or patch
        rows, columns = grid_shape(image.width, image.height, pitch)
        pixels = np.pad(
            np.asarray(image),
            ((0, rows * pitch - image.height), (0, columns * pitch - image.width), (0, 0)),
            mode="edge")
        if hole is not None:
            pixels = covered(pixels, spread(hole, pitch))
        pixels = _resampled(pixels, (rows * patch, columns * patch))
        codes = np.empty((rows, columns), dtype=np.int32)
        encoder = self._network(ENCODER)
        distances = [np.empty((rows, columns, output.shape[-1]), np.float32)
                     for output in encoder.get_outputs()[1:]]
        tiles = list(covering(rows, columns))
        for done, tile in enumerate(tiles, start=1):
            part = planes(pixels[scaled(tile.read, patch)]) / 255
            found, *parts = encoder.run(None, {"pixels": part})
            codes[tile.core] = found[0][tile.kept]
            for all_, of_tile in zip(distances, parts, strict=True):
                all_[tile.core] = of_tile[0][tile.kept]
            self._watch(done, len(tiles))
        grid = TokenGrid(codes, image.width, image.height, pitch,
                         Distances(*distances) if distances else None)
        grid.check(self.space)
        return grid

    def decode(self, grid: TokenGrid) -> Image.Image:
        """The RGB picture of a grid, of ``grid.width`` × ``grid.height`` pixels.

        Raises:
            InvalidInput: the grid does not fit the token space.
        """
        grid.check(self.space)
        rows, columns = grid.codes.shape
        patch = self.space.patch
        pixels = np.empty((rows * patch, columns * patch, 3), dtype=np.uint8)
        decoder = self._network(DECODER)
        tiles = list(covering(rows, columns))
        for done, tile in enumerate(tiles, start=1):
            codes: Codes = np.ascontiguousarray(grid.codes[tile.read], dtype=np.int32)
            (part,) = decoder.run(None, {"codes": codes[None]})
            pixels[scaled(tile.core, patch)] = picture(part)[scaled(tile.kept, patch)]
            self._watch(done, len(tiles))
        pixels = _resampled(pixels, (rows * grid.pitch, columns * grid.pitch))
        return Image.fromarray(pixels[: grid.height, : grid.width])


def _resampled(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels ``(height, width, 3)`` at another height and width."""
    if pixels.shape[:2] == shape:
        return pixels
    picture = Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.LANCZOS)
    return np.asarray(picture)
