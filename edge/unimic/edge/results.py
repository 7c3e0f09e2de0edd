"""What the client gives back: pictures that both sides hold, answers, and what they cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from unimic.codec.packets import Sizes
from unimic.codec.tokens import Mask, TokenGrid
from unimic.edge.cached import cached_property
from unimic.edge.models import Models
from unimic.edge.refiner import Pixels
from unimic.edge.regions import View, around, spread, widen
from unimic.edge.seams import joined
from unimic.edge.tiles import HALO


@dataclass
class Stats:
    """What one call cost.

    Attributes:
        up: bytes sent. ``wire_bytes`` is the whole message, as protobuf writes it.
        measure_down: finds the sizes of what came down; asked when they are read, for the ideal
            size of received tokens is known only by coding them again.
        progress_bytes: of progress messages, which come only if ``on_progress`` is given.
        encode_seconds: image tokenizer and entropy coding of what goes up.
        round_trip_seconds: from sending the request to its result.
        server_seconds: of these, spent in the server.
        decode_seconds: entropy decoding and, once the picture has been looked at, its pixels.
    """

    up: Sizes
    measure_down: Callable[[], Sizes] = field(repr=False)
    progress_bytes: int
    encode_seconds: float
    round_trip_seconds: float
    server_seconds: float
    decode_seconds: float

    @cached_property
    def down(self) -> Sizes:
        """Bytes received."""
        return self.measure_down()

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets has been measured."""
        return {**vars(self), "down": self.down, "measure_down": None}

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            **{f"{way}_{name}": value for way, sizes in (("up", self.up), ("down", self.down))
               for name, value in vars(sizes).items()},
            "progress_bytes": self.progress_bytes,
            **{name: value for name, value in vars(self).items() if name.endswith("_seconds")},
        }

    def __str__(self) -> str:
        ways = [f"{way} {sizes.ideal_bits / 8:.1f} B ideal, {sizes.payload_bytes} payload, "
                f"{sizes.wire_bytes} wire" for way, sizes in (("up", self.up), ("down", self.down))]
        return (f"{'; '.join(ways)}; encode {self.encode_seconds:.2f} s, round trip "
                f"{self.round_trip_seconds:.2f} s (server {self.server_seconds:.2f}), decode "
                f"{self.decode_seconds:.2f} s")


@dataclass(frozen=True)
class Answer:
    """A text from the model.

    Attributes:
        confidence: 0 to 1, as the model sees itself.
    """

    text: str
    confidence: float
    stats: Stats

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Edit:
    """How a canvas came from an earlier one.

    Attributes:
        base: the earlier canvas.
        left: of it within the new canvas, in pixels.
        top: likewise.
        region: bool ``(height, width)`` of the new canvas, True where the model's pixels go.
    """

    base: Canvas
    left: int
    top: int
    region: Mask


class Canvas:
    """The pixels that a grid stands for, made when first asked for.

    Args:
        grid: the tokens.
        models: make their pixels.
        origin: the pixels themselves, uint8 ``(height, width, 3)``, or where they come from;
            without it all of them come from the tokens.
        hole: bool ``(rows, columns)``, tokens that stand for nothing, if there are any.
    """

    def __init__(self, grid: TokenGrid, models: Models, origin: Pixels | Edit | None,
                 hole: Mask | None = None) -> None:
        self.grid = grid
        self.models = models
        self.hole = hole
        self._pixels = origin if isinstance(origin, np.ndarray) else None
        self._edit = origin if isinstance(origin, Edit) else None
        self._lock = threading.Lock()

    @property
    def pixels(self) -> Pixels:
        """uint8 ``(height, width, 3)``."""
        unpainted = [self]
        while (edit := unpainted[-1]._edit) is not None:
            unpainted.append(edit.base)
        for canvas in reversed(unpainted):  # not by recursion: a session may have many turns
            pixels = canvas._paint()
        return pixels

    def _paint(self) -> Pixels:
        with self._lock:
            if self._pixels is None:
                self._pixels = (np.asarray(self.models.images.decode(self.grid))
                                if self._edit is None else self._compose(self._edit))
                self._edit = None  # what it came from may go
            return self._pixels

    def _compose(self, edit: Edit) -> Pixels:
        old = edit.base._paint()
        pixels: Pixels = np.zeros((self.grid.height, self.grid.width, 3), np.uint8)
        pixels[edit.top : edit.top + old.shape[0], edit.left : edit.left + old.shape[1]] = old
        made = widen(edit.region, self.grid.codes.shape, self.grid.pitch)
        window, new = self._decode_around(made)
        pitch = self.grid.pitch
        pixels[window] = joined(new, pixels[window], spread(made, pitch)[window],
                                edit.region[window], pitch, self.models.refiner)
        return pixels

    def _decode_around(self, made: Mask) -> tuple[tuple[slice, slice], Pixels]:
        """Pixels of tokens and of some around them, and where they are: the rest need not be
        decoded.

        The decoder is shown as many tokens around as it sees, so the pixels of the tokens, and next
        to them, are those that the whole grid would give.
        """
        pitch = self.grid.pitch
        seen = around(made, HALO)
        top, left = (cut.start for cut in seen)
        codes = self.grid.codes[seen]
        part = TokenGrid(codes, min(codes.shape[1] * pitch, self.grid.width - left * pitch),
                         min(codes.shape[0] * pitch, self.grid.height - top * pitch), pitch)
        window = (slice(top * pitch, top * pitch + part.height),
                  slice(left * pitch, left * pitch + part.width))
        return window, np.asarray(self.models.images.decode(part))


class Picture:
    """An image whose tokens both sides hold; pass it to the client for further work.

    The tokens stand for the *canvas*. It is the picture itself unless the picture was extended to
    the left or the top by part of a token: then the canvas has the rest of that token too.

    Attributes:
        session: that it belongs to.
        id: of the object in the session.
        canvas: its tokens and their pixels.
        view: the part of the canvas that is the picture.
        stats: what it cost to bring it there.
    """

    def __init__(self, session: object, id: int, canvas: Canvas, view: View, stats: Stats) -> None:
        self.session = session
        self.id = id
        self.canvas = canvas
        self.view = view
        self.stats = stats

    @property
    def grid(self) -> TokenGrid:
        """The tokens."""
        return self.canvas.grid

    @property
    def width(self) -> int:
        """Of the picture in pixels."""
        return self.view.width

    @property
    def height(self) -> int:
        """Of the picture in pixels."""
        return self.view.height

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB; made when first asked for.

        A shared picture is the original. An edited one has the very pixels of its predecessor
        outside the edited region.
        """
        began = perf_counter()
        picture = Image.fromarray(self.canvas.pixels[self.view.window])
        self.stats.decode_seconds += perf_counter() - began
        return picture
