"""Every codec keeps its interface's promises."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.order import REVEALED
from unimic.measure import choose, codecs
from unimic.measure.classical import without_comments
from unimic.measure.codecs import Codec, Encoded, Setting, Variant

CLASSICAL = [name for name in codecs.BUILT_IN if name != "unimic"]


def find(name: str) -> Variant:
    variants, missing = codecs.find([name])
    if missing:
        pytest.skip(missing[name.partition("/")[0]])
    return variants[0]


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square(np.asarray(a, float) - np.asarray(b, float)).mean()
    return float(-10 * np.log10(error / 255**2))


@pytest.mark.parametrize("name", CLASSICAL)
def test_more_bits_are_nearer(name: str, photo: Image.Image) -> None:
    variant = find(name)
    odd = photo.crop((60, 60, 127, 109))
    knob, ladder = list(variant.codec.knob), list(variant.codec.ladder)
    assert [knob.index(setting) for setting in ladder] == sorted(map(knob.index, ladder))
    sizes, qualities = [], []
    for setting in (ladder[0], ladder[-1], knob[-1]):
        coded = variant.encode(odd, setting)
        decoded = variant.decode(coded.data, odd.size)
        assert decoded.size == odd.size
        assert decoded.mode == "RGB"
        assert coded.payload_bytes is None or 0 < coded.payload_bytes <= len(coded.data)
        sizes.append(len(coded.data))
        qualities.append(psnr(odd, decoded))
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert qualities[-1] > 30


@pytest.mark.parametrize("name", ["jpeg/2", "webp/4", "hevc/2"])
def test_scaling_keeps_the_size_and_takes_fewer_bytes(name: str, photo: Image.Image) -> None:
    variant, plain = find(name), find(name.partition("/")[0])
    setting = plain.codec.ladder[-1]
    data = variant.encode(photo, setting).data
    assert variant.name == name
    assert variant.decode(data, photo.size).size == photo.size
    assert len(data) < len(plain.encode(photo, setting).data)


def test_video_codecs_write_no_chatter(photo: Image.Image) -> None:
    for name in ("av1", "hevc", "vvc"):
        variant = find(name)
        flat = Image.new("RGB", (64, 64), "teal")
        data = variant.encode(flat, variant.codec.ladder[0]).data
        assert len(data) < 150
        pixel = variant.decode(data, flat.size).getpixel((32, 32))
        assert np.abs(np.subtract(pixel, (0, 128, 128))).max() <= 8


@pytest.mark.parametrize("name", CLASSICAL)
def test_the_smallest_pictures(name: str) -> None:
    variant = find(name)
    for size in (1, 1), (5, 40), (40, 5), (17, 15):
        picture = Image.new("RGB", size, (200, 90, 40))
        coded = variant.encode(picture, variant.codec.knob[-1])
        decoded = variant.decode(coded.data, size)
        assert decoded.size == size
        assert np.abs(np.asarray(picture, int) - np.asarray(decoded, int)).mean() < 8


def test_jpeg_is_the_shorter_of_its_two_forms(photo: Image.Image) -> None:
    variant, shorter = find("jpeg"), set()
    for setting in (1, 95):
        sizes = {}
        for progressive in (False, True):
            file = io.BytesIO()
            photo.save(file, "JPEG", quality=setting, optimize=True, progressive=progressive)
            sizes[len(file.getvalue())] = progressive
        assert len(variant.encode(photo, setting).data) == min(sizes)
        shorter.add(sizes[min(sizes)])
    assert shorter == {False, True}


def test_jpeg_2000_without_its_comment(photo: Image.Image) -> None:
    file = io.BytesIO()
    photo.save(file, "JPEG2000", no_jp2=True, quality_mode="rates", quality_layers=[20],
               comment="who made it")
    data = without_comments(file.getvalue())
    assert b"who made it" in file.getvalue()
    assert b"who made it" not in data
    back, before = (np.asarray(Image.open(io.BytesIO(each))) for each in (data, file.getvalue()))
    assert np.array_equal(back, before)
    assert without_comments(data) == data


def test_hevc_takes_the_qp_that_it_is_asked_for(photo: Image.Image) -> None:
    """So its smallest pictures are as small as its standard allows: far below x265's own."""
    variant = find("hevc/2")
    assert len(variant.encode(photo.resize((224, 224)), 51).data) < 250


def test_a_codec_may_spoil_its_own_copy_alone(photo: Image.Image) -> None:
    def encode(image: Image.Image, setting: Setting) -> Encoded:
        image.paste("red", (0, 0, 50, 50))
        return Encoded(image.tobytes())

    codec = Codec("spoils", [0], [0], encode, lambda data, size: Image.frombytes("RGB", size, data),
                  {})
    before = photo.copy()
    for scale in (1, 2):
        Variant(codec, scale).encode(photo, 0)
        assert photo == before


def test_ours(photo: Image.Image) -> None:
    variant = find("unimic")
    full, finer = variant.encode(photo, 100), variant.encode(photo, 200)
    for coded, shape in (full, (10, 12)), (finer, (20, 24)):
        assert coded.token_bits is not None
        assert coded.token_bits.shape == shape
        assert sum(coded.parts.values()) == pytest.approx(8 * len(coded.data))
        assert variant.decode(coded.data, photo.size).size == photo.size
    groups = [bits for part, bits in full.parts.items() if part.startswith("group")]
    assert len(groups) == len(REVEALED)
    assert sum(groups) == pytest.approx(full.ideal_bits)
    assert len(variant.encode(photo, 50).data) < len(full.data) < len(finer.data)


def test_unknown_and_missing_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Codec:
        raise ImportError("pip install absent")

    monkeypatch.setitem(codecs.BUILT_IN, "absent", SimpleNamespace(load=lambda: absent))
    found, missing = codecs.find(["absent", "jpeg", "absent/2"])
    assert [variant.name for variant in found] == ["jpeg"]
    assert missing == {"absent": "pip install absent"}

    def broken() -> Codec:
        raise KeyError("licence")

    monkeypatch.setitem(codecs.BUILT_IN, "broken", SimpleNamespace(load=lambda: broken))
    assert codecs.find(["broken"]) == ([], {"broken": "KeyError: 'licence'"})
    for wrong in ("nonsense", "jpeg/x", "jpeg/0"):
        with pytest.raises(InvalidInput, match="is unknown"):
            codecs.find([wrong])
    for wrong, said in (("jpeg:96", "no setting '96'; use one of 1 … 95, for example 95$"),
                        ("jp2:173", "no setting '173'; use one of 10 … 2550, for example 172$"),
                        ("jpeg:best", "no setting 'best'; use one of 1 … 95, for example 10$")):
        with pytest.raises(InvalidInput, match=said):
            codecs.find([wrong])
    (plain, chosen), _ = codecs.find(["jpeg", "jpeg/2:3:5"])
    assert plain.ladder == plain.codec.ladder
    assert (chosen.name, chosen.ladder) == ("jpeg/2", (3, 5))


def offer(name: str, made: Callable[[], Codec], package: str = "other") -> SimpleNamespace:
    """An entry point of another package."""
    return SimpleNamespace(name=name, value=f"{package}:codec", load=lambda: made,
                           dist=SimpleNamespace(name=package))


def test_one_name_of_several_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Codec:
        return flat({10: 10}).codec

    monkeypatch.setattr(codecs, "entry_points", lambda group: [
        offer("jpeg", made), offer("both", made, "b"), offer("both", made, "a"),
        offer("twice", made), offer("twice", made)])
    for name, packages in ("jpeg/2", "other and by unimic"), ("both", "a and by b"):
        with pytest.raises(InvalidInput, match=f"'{name[:4]}' is offered by {packages}; uninstall"):
            codecs.find([name])
    (webp, twice), missing = codecs.find(["webp", "twice"])  # nobody asked for the others
    assert (webp.name, twice.name, missing) == ("webp", "twice", {})


def test_names_that_nobody_could_write(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "a/b", "a:b", "a,b", "jpeg/2", "any", "original"
    monkeypatch.setattr(codecs, "entry_points", lambda group: [
        offer(name, lambda: flat({10: 10}).codec) for name in names])
    assert codecs.all_names() == [*dict.fromkeys(
        name if scale == 1 else f"{name}/{scale}" for name in codecs.BUILT_IN
        for scale in ((1,) if name == "unimic" else codecs.SCALES))]
    assert [*codecs.misnamed()] == [f"'{name}' of other" for name in names]


@pytest.mark.parametrize(("made", "wrong"), [
    (np.zeros((8, 8, 3), np.uint8), "is a ndarray; decode to a PIL image"),
    (Image.new("YCbCr", (4, 4)), "mode YCbCr; decode it to RGB"),
    (Image.new("RGB", (8, 4)), r"\(8, 4\) pixels, the original has \(4, 4\)")])
def test_what_is_no_picture_of_the_original(made: Any, wrong: str) -> None:
    """Also behind scaling, which would bring any picture to the right size."""
    codec = replace(flat({10: 10}).codec, decode=lambda data, size: made)
    with pytest.raises(InvalidInput, match=f"picture: {wrong}"):
        Variant(codec, 2).decode(b"", (8, 7))


@pytest.mark.parametrize("field", ["knob", "ladder"])
def test_a_codec_without_settings_is_skipped(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = replace(flat({10: 10}).codec, **{field: np.arange(0)})
    monkeypatch.setattr(codecs, "entry_points", lambda group: [offer("empty", lambda: codec)])
    found, missing = codecs.find(["empty"])
    assert not found
    assert missing["empty"].startswith(f"{field}: has no settings")


def test_a_codec_of_another_package(monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> None:
    """Few lines are enough: this one sends the mean colour."""
    def mean() -> Codec:
        def encode(image: Image.Image, setting: Setting) -> Encoded:
            return Encoded(bytes(np.asarray(image).mean((0, 1)).astype(np.uint8)))

        return Codec("mean", [0], [0], encode,
                     lambda data, size: Image.new("RGB", size, tuple(data)), {})

    def leaves() -> Codec:
        raise SystemExit("bye")

    # The second one forgot to say its name: workers find it by the entry point's.
    monkeypatch.setattr(codecs, "entry_points", lambda group: [
        offer(name, made) for name, made in (
            ("mean", mean), ("again", mean), ("leaves", leaves))])
    (variant, again), missing = codecs.find(["mean", "again", "leaves"])
    assert (variant.name, again.name, list(missing)) == ("mean", "again", ["leaves"])
    assert variant.decode(variant.encode(photo, 0).data, (5, 4)).size == (5, 4)
    assert "mean/4" in codecs.all_names()


def test_choosing_a_setting(photo: Image.Image) -> None:
    variants = [find("jpeg"), find("jpeg/2")]
    choice, smallest = choose.within(variants, photo, [2000, 10])
    assert 1500 < len(choice.encoded.data) <= 2000
    assert 10 < len(smallest.encoded.data) < 1500
    enough = choose.smallest(variants, photo, lambda picture: psnr(photo, picture) >= 27)
    assert enough is not None
    assert psnr(photo, enough.decoded) >= 27
    knob = enough.variant.codec.knob
    lower = knob[knob.index(enough.setting) - 1]
    again = enough.variant.decode(enough.variant.encode(photo, lower).data, photo.size)
    assert psnr(photo, again) < 27
    assert choose.smallest(variants, photo, lambda picture: False) is None


def test_what_is_chosen_is_counted_without_a_container(photo: Image.Image) -> None:
    file = find("avif").encode(photo, 1)
    assert file.payload_bytes == file.bare_bytes < len(file.data) - 200
    choice, = choose.within([find("avif")], photo, [file.bare_bytes])
    assert choice.encoded.bare_bytes <= file.bare_bytes < len(choice.encoded.data)
    assert (jpeg := find("jpeg").encode(photo, 5)).bare_bytes == len(jpeg.data)


def test_pictures_are_decoded_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads meet in the decoder, or it breaks."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2)

    def decode(data: bytes, size: tuple[int, int]) -> Image.Image:
        both.wait(30)
        return Image.new("RGB", size)

    def codec(name: str) -> Variant:
        return Variant(Codec(name, (1,), (1,), lambda image, setting: Encoded(b"1"), decode, {}))

    photo = Image.new("RGB", (8, 8))
    assert choose.smallest([codec("a"), codec("b")], photo, lambda picture: True) is not None


def flat(levels: dict[int, int]) -> Variant:
    """A codec whose pictures are of one level, of so many bytes, by setting: ``level → bytes``."""
    def encode(image: Image.Image, setting: Setting) -> Encoded:
        level = list(levels)[int(setting)]
        if levels[level] < 0:
            raise RuntimeError("it cannot")
        return Encoded(bytes([level]) + bytes(levels[level] - 1))

    knob = range(len(levels))
    return Variant(Codec("flat", knob, knob, encode,
                         lambda data, size: Image.new("RGB", size, (data[0],) * 3), {}))


def test_more_bytes_are_not_always_nearer() -> None:
    """The search looks beside what bisection finds."""
    picture = Image.new("RGB", (8, 8), (100, 100, 100))
    #         bisection ends at 98; 97 is as good as that, and smaller
    levels = {10: 10, 97: 20, 30: 30, 40: 40, 50: 50, 98: 60, 99: 70, 100: 80}

    def enough(shown: Image.Image) -> bool:
        return abs(np.asarray(shown, int) - 100).max() < 5

    found = choose.smallest([flat(levels)], picture, enough)
    assert found is not None
    assert found.setting == 1
    #         every fit is a step to the next: 10 is too far from 35, where bisection ends
    fits = {10: 99, 22: 101, 35: 100}
    found = choose.smallest([flat({fits.get(i, i): i + 1 for i in range(40)})], picture, enough)
    assert found is not None
    assert found.setting == 10
    #         bisection ends at 10 bytes; 99 has fewer than the settings before it
    bytes_of = {10: 10, 50: 60, 40: 61, 98: 70, 99: 20, 97: 80}
    within, smallest = choose.within([flat(bytes_of)], picture, [30, 5])
    assert within.setting == 4
    assert smallest.setting == 0


def test_a_variant_that_fails_leaves_the_others(photo: Image.Image) -> None:
    fails, works = flat({10: -1}), flat({10: 10})
    assert choose.within([fails, works], photo, [30])[0].variant is works
    found = choose.smallest([fails, works], photo, lambda picture: True)
    assert found is not None
    assert found.variant is works
    for search in (lambda: choose.within([fails], photo, [30]),
                   lambda: choose.smallest([fails], photo, lambda picture: True)):
        with pytest.raises(RuntimeError, match="it cannot"):
            search()


def test_a_signal_to_end_is_no_failure(photo: Image.Image) -> None:
    def enough(picture: Image.Image) -> bool:
        if picture.getpixel((0, 0)) == (10, 10, 10):
            raise SystemExit(143)
        return True

    with pytest.raises(SystemExit):
        choose.smallest([flat({10: 10}), flat({20: 20})], photo, enough)


def test_side_by_side() -> None:
    assert list(choose.side_by_side(lambda item: item + 1, range(9))) == list(range(1, 10))
    assert not list(choose.side_by_side(abs, []))


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt])
def test_what_fails_waits_for_nothing_else(error: type[BaseException],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    under_way, enough, done = threading.Event(), threading.Event(), threading.Event()

    def work(item: str) -> None:
        if item == "fails":
            assert under_way.wait(10)
            raise error
        under_way.set()
        enough.wait(10)
        done.set()

    with pytest.raises(error):
        list(choose.side_by_side(work, ["fails", "takes long"]))
    assert not done.is_set()
    enough.set()
