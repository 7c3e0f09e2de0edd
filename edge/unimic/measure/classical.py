"""The classical codecs, through Pillow and FFmpeg."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, features

from unimic.measure import ffmpeg
from unimic.measure.codecs import Codec, Encoded, Setting


def jpeg() -> Codec:
    """JPEG by libjpeg-turbo with optimised tables, progressive or not, whichever is shorter."""
    return _pillow("jpeg", "JPEG", "jpg", range(1, 96), (1, 3, 6, 10, 16, 25),
                   forms=({"progressive": False}, {"progressive": True}), optimize=True)


def webp() -> Codec:
    """WebP, lossy, slowest method."""
    return _pillow("webp", "WEBP", "webp", range(101), (0, 2, 5, 10, 20), method=6)


def avif() -> Codec:
    """AVIF as Pillow writes it, slowest speed; its payload is what the ``mdat`` box holds."""
    return _pillow("avif", "AVIF", "avif", range(101), (0, 5, 12, 20, 30), speed=0,
                   max_threads=1, payload=_mdat_bytes)


def jp2() -> Codec:
    """JPEG 2000, a bare codestream; a setting is the bit rate in thousandths of a bit per pixel.

    The encoder's name, a comment of some 40 bytes, is left out.
    """
    rates = [round(10 * 1.08**step) for step in range(73)]
    return _pillow("jp2", "JPEG2000", "jpg_2000", rates, rates[10:64:9],
                   lambda rate: {"quality_layers": [24000 / rate]}, no_jp2=True, mct=1,
                   irreversible=True, quality_mode="rates", shorten=without_comments)


def jxl() -> Codec:
    """JPEG XL, a bare codestream."""
    if importlib.util.find_spec("pillow_jxl") is None:
        raise ImportError("pip install pillow-jxl-plugin")
    importlib.import_module("pillow_jxl")  # registers the format
    from importlib.metadata import version

    return _pillow("jxl", "JXL", None, range(96), (0, 3, 7, 20, 35), effort=7,
                   num_threads=1, versions={"pillow-jxl-plugin": version("pillow-jxl-plugin")})


def av1() -> Codec:
    """AV1 intra by libaom, tuned for still pictures, 4:2:0 at 10 bits, raw bitstream."""
    return _ffmpeg("av1", "libaom-av1", range(63, -1, -1), (62, 59, 55, 50, 44, 38), [
        "-cpu-used", "0", "-aom-params", "tune=iq", "-crf", "{qp}", "-b:v", "0", "-threads", "1",
        "-still-picture", "1"], format_="obu")


def hevc() -> Codec:
    """HEVC intra by x265, 4:2:0 at 10 bits, raw bitstream."""
    return _ffmpeg("hevc", "libx265", range(51, 9, -1), (51, 48, 45, 42, 38), [
        "-preset", "veryslow", "-x265-params",
        # ipratio: else pictures that nothing is predicted from get another QP than asked for.
        "qp={qp}:ipratio=1:pools=none:frame-threads=1:info=0:repeat-headers=1:log-level=none"])


def vvc() -> Codec:
    """VVC intra by VVenC, 4:2:0 at 10 bits, raw bitstream."""
    return _ffmpeg("vvc", "libvvenc", range(63, 9, -1), (60, 56, 52, 48, 44, 40), [
        "-preset", "slower", "-qp", "{qp}", "-threads", "1", "-period", "1",
        "-vvenc-params", "verbosity=0:AccessUnitDelimiter=0"])


def _pillow(name: str, format_: str, feature: str | None, knob: Sequence[int],
            ladder: Sequence[int],
            choose: Callable[[int], dict[str, Any]] = lambda value: {"quality": value}, *,
            versions: dict[str, str] | None = None,
            payload: Callable[[bytes], int] | None = None,
            shorten: Callable[[bytes], bytes] = bytes,
            forms: Sequence[dict[str, Any]] = ({},), **options: Any) -> Codec:
    """``forms`` are options that change the size alone, of which the best is taken."""
    if feature is not None and not features.check(feature):
        raise ImportError(f"pip install a Pillow with {format_}")

    def encode(image: Image.Image, setting: Setting) -> Encoded:
        files = []
        for form in forms:
            file = io.BytesIO()
            image.save(file, format_, **choose(int(setting)), **options, **form)
            files.append(shorten(file.getvalue()))
        data = min(files, key=len)
        return Encoded(data, payload_bytes=payload(data) if payload else None)

    def decode(data: bytes, size: tuple[int, int]) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    library = features.version(feature) if feature else None
    return Codec(name, knob, ladder, encode, decode,
                 (versions or {}) | ({feature: library} if feature and library else {}))


def _ffmpeg(name: str, encoder: str, knob: Sequence[int], ladder: Sequence[int],
            options: list[str], format_: str = "") -> Codec:
    program = ffmpeg.find(encoder, name)

    def encode(image: Image.Image, setting: Setting) -> Encoded:
        return Encoded(ffmpeg.encode(program, image, format_ or name, encoder,
                                     [option.format(qp=setting) for option in options]))

    def decode(data: bytes, size: tuple[int, int]) -> Image.Image:
        return ffmpeg.decode(program, data, format_ or name, size)

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


def without_comments(data: bytes) -> bytes:
    """A JPEG 2000 codestream without the COM segments of its main header."""
    position = 2  # behind SOC
    while (marker := data[position:position + 2]) != b"\xff\x90":  # SOT, the first tile
        end = position + 2 + int.from_bytes(data[position + 2:position + 4], "big")
        if marker == b"\xff\x64":
            data = data[:position] + data[end:]
        else:
            position = end
    return data
