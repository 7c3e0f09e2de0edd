"""Picture codecs behind one small interface: ours and the classical ones.

A codec of one's own is a module with a function that returns a `Codec`, named in the entry-point
group ``unimic.codecs`` of any installed package::

    [project.entry-points."unimic.codecs"]
    mine = "my_package:codec"

The function raises `ImportError`, with the words of what to install, where something is missing;
with any other exception, too, the codec is skipped. It is called once in every worker process.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.measure import ffmpeg

SCALES = (1, 2, 4)
GROUP = "unimic.codecs"
Setting = int | str


def reason(error: BaseException) -> str:
    """What the code of a codec raised, in words."""
    plain = isinstance(error, (UnimicError, ImportError))  # these are made to be read
    return str(error) if plain else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Encoded:
    """A coded picture.

    Attributes:
        data: all that the receiver needs but for the picture's size.
        ideal_bits: information of the coded symbols under their model, where it is known.
        payload_bytes: of ``data``, without headers and containers, where it is known.
        parts: where the bits are, by name; they add up to those of ``data``.
        token_bits: information of each token ``(rows, columns)``, of a codec that has tokens.
    """

    data: bytes
    ideal_bits: float | None = None
    payload_bytes: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    token_bits: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Codec:
    """One codec.

    Attributes:
        name: as users write it.
        knob: all values of its quality setting, from the smallest files to the largest.
        ladder: those of them that rate-distortion curves are drawn through.
        encode: an RGB picture at a setting.
        decode: the RGB picture of what `encode` made, of this (width, height).
        versions: of what does the work.
    """

    name: str
    knob: Sequence[Setting]
    ladder: Sequence[Setting]
    encode: Callable[[Image.Image, Setting], Encoded]
    decode: Callable[[bytes, tuple[int, int]], Image.Image]
    versions: dict[str, str]


@dataclass(frozen=True)
class Variant:
    """A codec behind down- and upscaling by ``scale``; 1 is the codec itself.

    Attributes:
        settings: to draw curves through, if not those of the codec's ladder.
    """

    codec: Codec
    scale: int = 1
    settings: tuple[Setting, ...] = ()

    @property
    def ladder(self) -> Sequence[Setting]:
        """The settings that curves are drawn through."""
        return self.settings or self.codec.ladder

    @property
    def name(self) -> str:
        """As users write it: ``vvc`` or ``vvc/2``."""
        return self.codec.name if self.scale == 1 else f"{self.codec.name}/{self.scale}"

    def encode(self, image: Image.Image, setting: Setting) -> Encoded:
        """Scale down, then code."""
        return self.codec.encode(self._resize(image, self._small(image.size)), setting)

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Decode, then scale up to ``size``, that of the picture before `encode`."""
        return self._resize(self.codec.decode(data, self._small(size)), size)

    def _small(self, size: tuple[int, int]) -> tuple[int, int]:
        return -(-size[0] // self.scale), -(-size[1] // self.scale)

    def _resize(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image if self.scale == 1 else image.resize(size, Image.Resampling.LANCZOS)


# ── classical codecs ──────────────────────────────────────────────────────────────────────────


def jpeg() -> Codec:
    """JPEG by libjpeg-turbo, progressive with optimised tables."""
    return _pillow("jpeg", "JPEG", "jpg", range(1, 96), (1, 3, 6, 10, 16, 25),
                   optimize=True, progressive=True)


def webp() -> Codec:
    """WebP, lossy, slowest method."""
    return _pillow("webp", "WEBP", "webp", range(101), (0, 2, 5, 10, 20), method=6)


def avif() -> Codec:
    """AVIF as Pillow writes it; its payload is what the ``mdat`` box holds."""
    return _pillow("avif", "AVIF", "avif", range(101), (0, 5, 12, 20, 30), speed=4,
                   max_threads=1, payload=_mdat_bytes)


def jp2() -> Codec:
    """JPEG 2000, a bare codestream; a setting is the bit rate in thousandths of a bit per pixel."""
    rates = [round(10 * 1.08**step) for step in range(73)]
    return _pillow("jp2", "JPEG2000", "jpg_2000", rates, rates[10:64:9],
                   lambda rate: {"quality_layers": [24000 / rate]}, no_jp2=True, mct=1,
                   irreversible=True, quality_mode="rates")


def jxl() -> Codec:
    """JPEG XL, a bare codestream."""
    if importlib.util.find_spec("pillow_jxl") is None:
        raise ImportError("pip install pillow-jxl-plugin")
    importlib.import_module("pillow_jxl")  # registers the format
    from importlib.metadata import version

    return _pillow("jxl", "JXL", None, range(96), (0, 3, 7, 20, 35), effort=7,
                   num_threads=1, versions={"pillow-jxl-plugin": version("pillow-jxl-plugin")})


def hevc() -> Codec:
    """HEVC intra by x265, 4:2:0 at 10 bits, raw bitstream."""
    return _ffmpeg("hevc", "libx265", range(51, 9, -1), (51, 48, 45, 42, 38), [
        "-preset", "veryslow", "-x265-params",
        "qp={qp}:pools=none:frame-threads=1:info=0:repeat-headers=1:log-level=none"])


def vvc() -> Codec:
    """VVC intra by VVenC, 4:2:0 at 10 bits, raw bitstream."""
    return _ffmpeg("vvc", "libvvenc", range(63, 9, -1), (60, 56, 52, 48, 44, 40), [
        "-preset", "medium", "-qp", "{qp}", "-threads", "1", "-period", "1",
        "-vvenc-params", "verbosity=0"])


def _pillow(name: str, format_: str, feature: str | None, knob: Sequence[int],
            ladder: Sequence[int],
            choose: Callable[[int], dict[str, Any]] = lambda value: {"quality": value}, *,
            versions: dict[str, str] | None = None,
            payload: Callable[[bytes], int] | None = None, **options: Any) -> Codec:
    if feature is not None and not features.check(feature):
        raise ImportError(f"pip install a Pillow with {format_}")

    def encode(image: Image.Image, setting: Setting) -> Encoded:
        file = io.BytesIO()
        image.save(file, format_, **choose(int(setting)), **options)
        data = file.getvalue()
        return Encoded(data, payload_bytes=payload(data) if payload else None)

    def decode(data: bytes, size: tuple[int, int]) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    library = features.version(feature) if feature else None
    return Codec(name, knob, ladder, encode, decode,
                 (versions or {}) | ({feature: library} if feature and library else {}))


def _ffmpeg(name: str, encoder: str, knob: Sequence[int], ladder: Sequence[int],
            options: list[str]) -> Codec:
    program = ffmpeg.find(encoder, name)

    def encode(image: Image.Image, setting: Setting) -> Encoded:
        return Encoded(ffmpeg.encode(program, image, name, encoder,
                                     [option.format(qp=setting) for option in options]))

    def decode(data: bytes, size: tuple[int, int]) -> Image.Image:
        return ffmpeg.decode(program, data, name, size)

    return Codec(name, knob, ladder, encode, decode, {"ffmpeg": program.version})


def _mdat_bytes(data: bytes) -> int:
    """Bytes of coded data in a file of ISO boxes."""
    total = position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position:position + 4], "big") or len(data) - position
        if data[position + 4:position + 8] == b"mdat":
            total += size - 8
        position += max(8, size)
    return total


# ── finding them ──────────────────────────────────────────────────────────────────────────────

def _unimic() -> Codec:
    from unimic.measure import ours

    return ours.codec()


BUILT_IN: dict[str, Callable[[], Codec]] = {
    "unimic": _unimic, "jpeg": jpeg, "webp": webp, "avif": avif, "jp2": jp2, "jxl": jxl,
    "hevc": hevc, "vvc": vvc,
}


def known() -> dict[str, Callable[[], Codec]]:
    """What makes each codec, by name: the built-in ones and those of other packages."""
    others = {entry.name: (lambda entry=entry: entry.load()())
              for entry in entry_points(group=GROUP)}
    return {**BUILT_IN, **others}


def find(names: Sequence[str]) -> tuple[list[Variant], dict[str, str]]:
    """The codecs that users name, and why others of them cannot be had.

    Args:
        names: such as ``vvc``, behind scaling by 2 ``vvc/2``, at two settings ``vvc:44:50``.

    Raises:
        InvalidInput: no codec has that name, or it has no such setting.
    """
    makers, made, missing = known(), dict[str, Codec](), dict[str, str]()
    variants = []
    for name in names:
        variant, *settings = name.split(":")
        plain, _, scale = variant.partition("/")
        if plain not in makers or (scale and not scale.isdecimal()) or scale == "0":
            raise InvalidInput("--codecs", f"{name!r} is unknown",
                               f"use {', '.join(makers)}, or one of them with /2 or /4")
        if plain not in made and plain not in missing:
            try:
                made[plain] = makers[plain]()
            except Exception as error:  # of another package it may be anything
                missing[plain] = reason(error)
        if plain in made:
            variants.append(Variant(made[plain], int(scale or 1), _settings(made[plain], settings)))
    return variants, missing


def _settings(codec: Codec, wanted: Sequence[str]) -> tuple[Setting, ...]:
    known = {str(setting): setting for setting in codec.knob}
    for setting in wanted:
        if setting not in known:
            raise InvalidInput("--codecs", f"{codec.name} has no setting {setting!r}",
                               f"use one of {codec.knob[0]} … {codec.knob[-1]}, for example "
                               f"{_near(codec, setting)}")
    return tuple(known[setting] for setting in wanted)


def _near(codec: Codec, wanted: str) -> Setting:
    """The setting nearest to a number; without one, that in the middle of the ladder."""
    numbers = [setting for setting in codec.knob if isinstance(setting, int)]
    if wanted.isdecimal() and numbers:
        return min(numbers, key=lambda number: abs(number - int(wanted)))
    return codec.ladder[len(codec.ladder) // 2]


def all_names() -> list[str]:
    """Every codec, and each classical one also behind scaling."""
    return [name if scale == 1 else f"{name}/{scale}" for name in known()
            for scale in (SCALES if name != "unimic" else (1,))]
