"""Every picture a user may have becomes upright 8-bit sRGB, or a clear error."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from PIL import Image, ImageCms

from unimic.codec.errors import InvalidInput, LimitExceeded
from unimic.edge.images import load_image, load_mask

RED = (200, 30, 40)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colours(width: int = 33, height: int = 17) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 7, y * 15, 255 - x * 7], 2).astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [("PNG", {}, 0), ("JPEG", {"quality": 95}, 16), ("WEBP", {"lossless": True}, 0),
     ("WEBP", {"quality": 90}, 24), ("AVIF", {"quality": 95}, 24), ("TIFF", {}, 0),
     ("BMP", {}, 0), ("PPM", {}, 0), ("JPEG2000", {}, 4)])
def test_formats(kind: str, options: dict[str, object], tolerance: int) -> None:
    original = colours()
    image = load_image(saved(original, kind, **options))
    assert image.mode == "RGB"
    assert image.size == original.size
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(original, dtype=int))
    assert np.median(difference) <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV",
                                  "I", "F", "I;16", "RGBX", "PA"])
def test_modes(mode: str) -> None:
    white = {"F": 1.0, "I": 65535, "I;16": 65535}.get(mode)
    if white is None:
        source = Image.new("RGB", (5, 4), "white").convert("RGBA" if mode == "PA" else "RGB")
        source = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    else:
        source = Image.new(mode, (5, 4), white)
    image = load_image(source)
    assert image.mode == "RGB"
    assert (np.asarray(image) == 255).all()


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        grey = np.asarray(load_image(tmp_path / name))[..., 0]
        assert (grey == np.rint(values / 257)).all()


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e6])
def test_floats_are_scaled_by_their_range(white: float) -> None:
    values = np.array([[0, white * 0.4, white, -1, np.nan]], dtype=np.float32)
    image = np.asarray(load_image(Image.fromarray(values)))[0, :, 0]
    assert image.tolist() == [0, 102, 255, 0, 0]


def test_all_zero_integers_are_black() -> None:
    assert not np.asarray(load_image(Image.new("I", (3, 3)))).any()


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (*RED, 255))
    for kind in ("PNG", "WEBP"):
        image = load_image(saved(half, kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((1, 0)) == RED


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_transparent_colour(mode: str) -> None:
    source = Image.new(mode, (2, 1), 0)
    source.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 1)
    data = saved(source, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    image = load_image(data)
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_transparent_grey_of_sixteen_bits() -> None:
    values = np.array([[0x1234, 0x1235]], dtype=np.uint16)
    plain = saved(Image.fromarray(values), "PNG")
    body = b"tRNS" + struct.pack(">H", 0x1234)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    where = plain.index(b"IDAT") - 4
    image = load_image(plain[:where] + chunk + plain[where:])
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 0)) != (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_rotation(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 16))  # red in the upper left corner
    undo = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(saved(stored, kind, exif=exif, quality=90))
    assert image.size == (48, 32)
    red, green, _ = image.getpixel((8, 8))
    assert red > 200
    assert green < 80
    assert not image.getexif()
    assert "exif" not in image.info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored() -> None:
    data = saved(colours(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert load_image(data).size == (33, 17)


def test_colour_profile_is_applied_and_a_broken_one_ignored() -> None:
    source = Image.new("RGB", (4, 4), RED)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile at all"):
        image = load_image(saved(source, "PNG", icc_profile=profile))
        assert image.getpixel((0, 0)) == RED
        assert not image.info
    grey = load_image(saved(Image.new("L", (4, 4), 100), "PNG", icc_profile=srgb))
    assert grey.getpixel((0, 0)) == (100, 100, 100)


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(colours(), "PNG"))
    read, write = os.pipe()
    os.write(write, path.read_bytes())
    os.close(write)

    class ByteByByte(io.RawIOBase):
        rest = path.read_bytes()

        def read(self, size: int = -1) -> bytes:
            part, self.rest = self.rest[:1], self.rest[1:]
            return part

    with path.open("rb") as file, os.fdopen(read, "rb") as pipe:
        images = [load_image(s) for s in (path, str(path), path.read_bytes(), file, pipe,
                                          ByteByByte(), Image.open(path))]
        images += [load_image(kind(path.read_bytes())) for kind in (bytearray, memoryview)]
    assert all(image == colours() for image in images)


def test_what_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("words")
    path.with_suffix(".png").write_bytes(b"\xff\xfe\xfd")
    with path.open() as text, path.with_suffix(".png").open() as binary, \
            NamedTemporaryFile("w+") as wrapped:  # which is no `io.TextIOBase`
        for source in text, binary, wrapped:
            with pytest.raises(InvalidInput, match="open as text"):
                load_image(source)
        for source in (None, 7, np.asarray(colours()), [1, 2], text):
            with pytest.raises(InvalidInput, match=r"picture: .*(is not a file|open as text)"):
                load_image(source)
    with pytest.raises(InvalidInput, match=r"photo\.png: is not a picture"):
        load_image(b"words", name="photo.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_of_a_mask_are_black(mode: str) -> None:
    layer = Image.new("RGBA", (4, 3), (255, 255, 255, 0))
    layer.putpixel((1, 2), (255, 255, 255, 255))
    layer.putpixel((2, 2), (0, 0, 0, 255))
    bright = np.asarray(load_mask(layer.convert(mode)))
    assert bright.shape == (3, 4)
    assert np.argwhere(bright >= 128).tolist() == [[2, 1]]


def test_premultiplied_grey() -> None:
    assert load_image(Image.new("LA", (5, 4), (255, 255)).convert("La")).getextrema() == (
        3 * ((255, 255),))


def test_transparent_grey_of_sixteen_bits_in_a_mask() -> None:
    mask = Image.fromarray(np.array([[60000, 65535]], dtype=np.uint16))
    mask.info["transparency"] = 60000
    assert np.asarray(load_mask(mask)).tolist() == [[0, 255]]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    return (b"\x89PNG\r\n\x1a\n" + header
            + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)))


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixel_limit_is_read_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(LimitExceeded):
        load_image(png_header(*size))


def test_pixel_limit_can_be_chosen() -> None:
    with pytest.raises(LimitExceeded, match="33×17"):
        load_image(colours(), max_pixels=500)


def test_not_a_picture(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("just words")
    with pytest.raises(InvalidInput, match=r"notes\.jpg: is not a picture"):
        load_image(text)
    with pytest.raises(InvalidInput, match="is not a picture"):
        load_image(b"")
    with pytest.raises(InvalidInput, match="directory"):
        load_image(tmp_path)
    with pytest.raises(InvalidInput, match="No such file"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(InvalidInput, match="empty"):
        load_image(Image.new("RGB", (0, 7)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP",
                                  "JPEG2000"])
def test_truncated(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    for length in (len(data) // 50, len(data) // 3, len(data) * 9 // 10):
        with pytest.raises(InvalidInput):
            load_image(data[:length])


def test_a_tiff_of_huge_tiles_takes_no_memory() -> None:
    def tiff(width: int, length: int) -> bytes:
        tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: width, 323: length,
                324: 200, 325: 256}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
        return head.ljust(200, b"\0") + bytes(256)

    assert load_image(tiff(16, 16)).size == (16, 16)
    with pytest.raises(LimitExceeded, match="a tile of it has more"):
        load_image(tiff(40_000, 50_000))
