"""Pictures from the outside world: whatever a user has becomes one RGB image."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from unimic.codec.errors import InvalidInput, LimitExceeded, UnimicError
from unimic.codec.limits import Limits
from unimic.codec.umc import MAGIC

MAX_PIXELS = 1 << 26
MAX_FILE_BYTES = 1 << 28
FILE_LIMITS = Limits(max_tokens=MAX_PIXELS // 256, max_text_tokens=1 << 17)
"""Of .umc files: one on one's own disk may be larger than what a service takes from strangers."""

# Only formats that Pillow decodes itself: others start outside programs or are not pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "GIF", "BMP", "PPM")
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
_USABLE = "use a JPEG, PNG, WebP, AVIF, TIFF, JPEG 2000, GIF, BMP or PNM picture"

Bytes = bytes | bytearray | memoryview
FileSource = str | os.PathLike[str] | Bytes | BinaryIO
ImageSource = FileSource | Image.Image


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, name: str | None = None
               ) -> Image.Image:
    """Load a picture as 8-bit sRGB, upright, without metadata.

    EXIF rotation is applied, transparency is laid on white, embedded colour profiles are converted
    to sRGB, grey values of more than 8 bits are scaled to 0 … 255 (see `_narrow`). Of an animated
    file the first frame is taken, of a Pillow image the one where it stands.

    Args:
        source: a path, the bytes of a file, an open binary file (also a pipe), or a Pillow image.
        max_pixels: width × height that is still accepted; the file's header is asked before any
            pixel is decoded.
        name: what errors call it; a file's name, unless given.

    Raises:
        InvalidInput: there is no such file, it is not a picture, or it is damaged.
        LimitExceeded: the file or the picture is too large.
    """
    return _load(source, max_pixels, name or _name(source), background=255)


def load_mask(source: ImageSource, *, name: str | None = None) -> Image.Image:
    """Load a mask as 8-bit grey, as `load_image` does, but with transparency laid on black: what
    was painted on an empty layer is meant, not the empty rest."""
    return _load(source, MAX_PIXELS, name or _name(source), background=0).convert("L")


def _load(source: ImageSource, max_pixels: int, name: str, background: int) -> Image.Image:
    if not isinstance(source, Image.Image):
        source = _open(name, read_bytes(
            source, name=name, use="a path, bytes, an open binary file or a Pillow image"))
    if source.width * source.height > max_pixels:
        raise LimitExceeded(name, f"{source.width}×{source.height} pixels are more than "
                            f"{max_pixels:,}", "scale the picture down")
    if not source.width or not source.height:
        raise InvalidInput(name, "the picture is empty", "use one of at least 1×1 pixels")
    try:
        # Tiles of a TIFF are decoded whole, however little of them the picture needs.
        tags = getattr(source, "tag_v2", {})
        if tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_LENGTH, 1) > max_pixels:
            raise LimitExceeded(name, f"a tile of it has more than {max_pixels:,} pixels",
                                "write it anew with smaller tiles")
        upright = ImageOps.exif_transpose(source)
        return _to_srgb(_flatten(upright, background), source.info.get("icc_profile"))
    except UnimicError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything for a damaged file
        raise InvalidInput(name, f"the picture is damaged ({_reason(error)})",
                           "use an undamaged copy") from error


def read_bytes(source: FileSource, *, name: str | None = None,
               use: str = "a path, bytes or an open binary file") -> bytes:
    """All bytes of a file, at most `MAX_FILE_BYTES`; ``name`` as in `load_image`.

    ``use`` is what whoever passes something else is told to.

    Raises:
        InvalidInput: the file cannot be read.
        LimitExceeded: it is too large.
    """
    name = name or _name(source, "file")
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                data = _read(file)
        elif isinstance(source, Bytes):
            data = bytes(source)
        elif hasattr(source, "read"):
            data = _read(source)
        else:
            raise InvalidInput(name, f"a {type(source).__name__} is not a file", f"use {use}")
    # ValueError: a NUL in the path, a closed file; TypeError: something else that has a `read`.
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(name, f"cannot be read ({_reason(error)})",
                           "check the path and its permissions") from error
    if len(data) > MAX_FILE_BYTES:
        raise LimitExceeded(name, f"the file is larger than {MAX_FILE_BYTES:,} bytes",
                            "use a smaller file")
    return data


def _part(file: BinaryIO, most: int) -> object:
    try:
        return file.read(most)
    except UnicodeDecodeError:  # it is open as text, which these bytes are not
        return ""


def _read(file: BinaryIO) -> bytes:
    """One byte more than is allowed, or all; an unbuffered pipe gives some at a time."""
    data = bytearray()
    while (part := _part(file, MAX_FILE_BYTES + 1 - len(data))) != b"":
        if isinstance(part, str):
            raise ValueError("it is open as text, not as bytes")
        if not isinstance(part, Bytes):  # None is what a pipe that does not wait says
            raise ValueError(f"reading gives {part!r:.40}, not bytes")
        data += part
    return bytes(data)


def _open(name: str, data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(MAGIC):
            raise InvalidInput(name, "is a .umc file", "decode it; its tokens can be shared and "
                               "written as they are") from error
        raise InvalidInput(name, "is not a picture", _USABLE) from error
    except Image.DecompressionBombError as error:
        raise LimitExceeded(name, "the picture is far too large", "scale it down") from error
    except Exception as error:  # as in load_image
        raise InvalidInput(name, f"the picture is damaged ({_reason(error)})",
                           _USABLE) from error


def _flatten(image: Image.Image, background: int) -> Image.Image:
    """Any mode to 8-bit RGB or CMYK, with transparent parts laid on a grey of ``background``."""
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.mode == "F" or image.mode.startswith("I"):
        return _narrow(image, background)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        plain = Image.new("RGBA", layer.size, (background, background, background, 255))
        return Image.alpha_composite(plain, layer).convert("RGB")
    return image.convert("CMYK" if image.mode == "CMYK" else "RGB")


def _narrow(image: Image.Image, background: int) -> Image.Image:
    """Grey values of 16 or 32 bits or floats, to 8 bits.

    Files do not say what stands for white, so it is the first of these that no value exceeds:
    1 and 255 (floats only), 65,535, the largest value. Negative values and NaN are black.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    peak = float(values.max())
    usual = (1, 255, 65535) if image.mode == "F" else (65535,)
    white = next((value for value in usual if peak <= value), peak)
    grey = np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = background
    return Image.fromarray(grey).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        # A broken or grey profile is no reason to refuse the picture.
        with suppress(ImageCms.PyCMSError, OSError):
            image = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    plain = image.convert("RGB")
    plain.info.clear()
    return plain


def _name(source: ImageSource, nameless: str = "picture") -> str:
    """A file's name; ``nameless`` where it has none."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source) or nameless
    return nameless


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0] or type(error).__name__
