"""One picture out of several, with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

HEIGHT = 256
GAP = 12
FONT_SIZE = 15
LINE = 20
LINES = 4
CHARACTERS = 34  # that fit under a square picture


@dataclass(frozen=True)
class Tile:
    """A picture and what stands below it: a title, a sentence, a cost."""

    picture: Image.Image
    title: str
    sentence: str
    cost: str


def contact_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """All pictures in a row, equally high."""
    pictures = [tile.picture.resize((round(tile.picture.width * HEIGHT / tile.picture.height),
                                     HEIGHT), Image.Resampling.LANCZOS) for tile in tiles]
    width = sum(picture.width + GAP for picture in pictures) + GAP
    sheet = Image.new("RGB", (width, HEIGHT + LINES * LINE + 3 * GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    left = GAP
    for tile, picture in zip(tiles, pictures, strict=True):
        sheet.paste(picture, (left, GAP))
        lines = [tile.title, *textwrap.wrap(tile.sentence, CHARACTERS)[: LINES - 2], tile.cost]
        for number, line in enumerate(lines):
            draw.text((left, HEIGHT + 2 * GAP + number * LINE), line, font=font,
                      fill="black" if number == 0 else "#555555")
        left += picture.width + GAP
    return sheet
