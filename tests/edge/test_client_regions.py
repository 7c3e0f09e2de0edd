"""Regions of pictures, and pixels that must not change."""

from __future__ import annotations

import io
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from unimic.codec.canvas import Margins, enlarge
from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import TokenGrid, TokenSpace
from unimic.edge.regions import Region, View, find_region, grow
from unimic.edge.results import Canvas, Edit
from unimic.edge.tiles import HALO

SPACE = TokenSpace(b"testtest")
GRID = TokenGrid(np.arange(20, dtype=np.int32).reshape(4, 5), 70, 50)
WHOLE = View(0, 0, 70, 50)


def find(mask, view: View = WHOLE) -> Region:
    return find_region(mask, view, GRID.size)


def test_one_region_named_in_every_way():
    pixels = np.zeros((50, 70), bool)
    pixels[10:20, 30:40] = True
    tokens = np.zeros((4, 5), bool)
    tokens[0:2, 1:3] = True
    picture = Image.fromarray(pixels.astype(np.uint8) * 255)
    for mask in (pixels, picture, (30, 10, 40, 20), [30, 10, 40, 20], picture.convert("RGB")):
        region = find(mask)
        assert (region.pixels == pixels).all()
        assert (region.tokens == tokens).all()


def test_a_mask_lies_as_the_photo_does():
    """Both from the same camera: the photo is turned upright, so is the mask."""
    sideways = Image.new("L", (50, 70))
    sideways.paste(255, (0, 0, 10, 20))
    sideways.getexif()[0x0112] = 6
    file = io.BytesIO()
    sideways.save(file, "PNG", exif=sideways.getexif())
    region = find(Image.open(file))
    assert region.pixels[:10, 50:].all()
    assert region.pixels.sum() == 200


def test_transparent_parts_of_a_mask_do_not_count():
    layer = Image.new("RGBA", (70, 50), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (30, 10, 40, 20))
    assert (find(layer).pixels == find((30, 10, 40, 20)).pixels).all()


def test_tokens_are_whole_patches_of_pixels():
    tokens = np.zeros((4, 5), bool)
    tokens[3, 4] = True
    region = find(tokens)
    assert (region.tokens == tokens).all()
    assert region.pixels.sum() == 2 * 6
    assert region.pixels[48:, 64:].all()


def test_a_region_of_a_picture_within_its_canvas():
    region = find((0, 0, 3, 5), View(10, 2, 60, 48))
    shown = region.pixels[2:, 10:]
    assert shown[:5, :3].all()
    assert shown.sum() == 15
    assert region.tokens.sum() == 1
    # What the view does not show of its token is made anew, too: it may come to be seen.
    assert region.pixels[:2, :16].all()
    assert region.pixels[:16, :10].all()
    assert region.pixels.sum() == 15 + 2 * 16 + 14 * 10
    everything = find(np.ones((4, 5), bool), View(10, 2, 60, 48))
    assert everything.pixels.sum() == 70 * 50


@pytest.mark.parametrize("mask", [
    np.zeros((50, 70), bool), np.ones((50, 71), bool), np.ones((50, 70), np.uint8),
    Image.new("L", (71, 50), 255), Image.new("L", (70, 50), 0), (0, 0, 0, 0), (0, 0, 71, 1),
    (-1, 0, 5, 5), (5, 5, 1, 1), (1, 2, 3), "box", 7, None, "1234", (0, 0, math.inf, 1),
    (0, 0, math.nan, 1), (0.0, 0.0, 9.9, 9.9), (0, 0, 1 << 99, 1), Image.new("L", (0, 0))])
def test_what_is_no_region(mask):
    with pytest.raises(InvalidInput, match="mask"):
        find(mask)
    with pytest.raises(InvalidInput) as caught:
        find_region(mask, WHOLE, GRID.size, "hole")
    assert caught.value.field == "hole"


def test_canvases_grow_by_whole_tokens_where_they_must():
    margins, view = grow(WHOLE, Margins(left=5, right=9), 16)
    assert margins == Margins(left=16, right=9)
    assert view == View(11, 0, 84, 50)
    # What was made but not shown is shown first; then whole tokens again.
    margins, view = grow(view, Margins(left=12), 16)
    assert margins == Margins(left=16)
    assert view == View(15, 0, 96, 50)
    assert grow(View(11, 0, 84, 50), Margins(left=20), 16) == (
        Margins(left=16), View(7, 0, 104, 50))
    assert grow(View(0, 11, 70, 50), Margins(top=20), 16) == (Margins(top=16), View(0, 7, 70, 70))
    assert grow(WHOLE, Margins(top=16), 16) == (Margins(top=16), View(0, 0, 70, 66))


@pytest.mark.parametrize("wanted", [Margins(), Margins(left=-1), Margins(right=5, top=-16)])
def test_canvases_do_not_shrink(wanted):
    with pytest.raises(InvalidInput, match="margins"):
        grow(WHOLE, wanted, 16)


def test_enlarged_grids():
    grid, mask = enlarge(GRID, Margins(left=32, bottom=20))
    assert (grid.width, grid.height) == (102, 70)
    assert grid.codes.shape == mask.shape == (5, 7)
    # The last row was partly padding, and the picture goes on there now.
    assert (grid.codes[:3, 2:] == GRID.codes[:3]).all()
    assert not mask[:3, 2:].any()
    assert mask[3:].all()
    assert mask[:, :2].all()
    grid.check(SPACE)


@pytest.mark.parametrize(("margins", "rows", "columns"), [
    (Margins(right=1), 4, 4), (Margins(right=16), 4, 4), (Margins(bottom=1), 3, 5),
    (Margins(bottom=16), 3, 5), (Margins(left=16), 4, 5), (Margins(top=16), 4, 5)])
def test_padding_is_new_where_the_picture_goes_on(margins, rows, columns):
    grid, mask = enlarge(GRID, margins)
    top, left = margins.top // 16, margins.left // 16
    assert (grid.codes[~mask].reshape(rows, columns) == GRID.codes[:rows, :columns]).all()
    assert not mask[top : top + rows, left : left + columns].any()


@pytest.mark.parametrize("side", ["left", "top"])
def test_tokens_do_not_move_by_part_of_a_token(side):
    with pytest.raises(InvalidInput, match=f"margins.{side}: 5 pixels are not whole tokens"):
        enlarge(GRID, Margins(**{side: 5}))


def test_enlarging_a_picture_of_less_than_a_token():
    small = TokenGrid(np.zeros((1, 1), np.int32), 3, 3)
    grid, mask = enlarge(small, Margins(right=1, bottom=1))
    assert (grid.width, grid.height) == (4, 4)
    assert mask.all()


class SeeThrough:
    """Draws each token as a ramp over the tokens around it, as far as a decoder sees."""

    space = SPACE

    def __init__(self) -> None:
        self.tokens = 0

    def decode(self, grid: TokenGrid) -> Image.Image:
        self.tokens += grid.codes.size
        around = np.pad(grid.codes, 8, mode="edge")
        seen = sum(np.roll(around, shift, axis) for shift in range(-8, 9) for axis in (0, 1))
        grey = (seen[8:-8, 8:-8] % 256).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        return Image.fromarray(grey[: grid.height, : grid.width]).convert("RGB")


def test_only_the_edited_part_is_decoded_and_it_is_as_if_all_were():
    random = np.random.default_rng(1)
    codes = random.integers(0, 8192, (60, 70), dtype=np.int32)
    grid = TokenGrid(codes, 70 * 16 - 5, 60 * 16 - 3)
    tokenizer = SeeThrough()
    models = SimpleNamespace(images=tokenizer, refiner=lambda shown, decoded, hole, pitch: shown)
    whole = np.asarray(tokenizer.decode(grid))
    for left, top in ((500, 300), (0, 0), (1100, 940)):
        region = np.zeros((grid.height, grid.width), bool)
        region[top : top + 30, left : left + 30] = True
        photo = whole.copy()  # as the tokens show it, but for what is to be made anew
        photo[region] = random.integers(0, 256, (region.sum(), 3), dtype=np.uint8)
        tokenizer.tokens = 0
        pixels = Canvas(grid, models, Edit(
            Canvas(grid, models, photo), 0, 0, region)).pixels
        assert 0 < tokenizer.tokens <= (2 * HALO + 3) ** 2  # 30 pixels touch three tokens
        assert (pixels[region] == whole[region]).all()
        assert (pixels[~region] == photo[~region]).all()


def test_what_a_picture_came_from_may_go():
    models = SimpleNamespace(images=SeeThrough(), refiner=lambda shown, decoded, hole, pitch: shown)
    region = np.zeros((50, 70), bool)
    region[:9, :9] = True
    base = Canvas(GRID, models, np.zeros((50, 70, 3), np.uint8))
    seen, edited = weakref.ref(base), Canvas(GRID, models, Edit(base, 0, 0, region))
    del base
    assert seen() is not None
    assert edited.pixels.shape == (50, 70, 3)
    assert seen() is None
