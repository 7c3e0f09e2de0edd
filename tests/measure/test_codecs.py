"""Every codec keeps its interface's promises."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.order import REVEALED
from unimic.measure import choose, codecs
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
    for name in ("hevc", "vvc"):
        variant = find(name)
        flat = Image.new("RGB", (64, 64), "teal")
        data = variant.encode(flat, variant.codec.ladder[0]).data
        assert len(data) < 150
        pixel = variant.decode(data, flat.size).getpixel((32, 32))
        assert np.abs(np.subtract(pixel, (0, 128, 128))).max() <= 8


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


def test_a_codec_of_another_package(monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> None:
    """Few lines are enough: this one sends the mean colour."""
    def mean() -> Codec:
        def encode(image: Image.Image, setting: Setting) -> Encoded:
            return Encoded(bytes(np.asarray(image).mean((0, 1)).astype(np.uint8)))

        return Codec("mean", [0], [0], encode,
                     lambda data, size: Image.new("RGB", size, tuple(data)), {})

    entry = SimpleNamespace(name="mean", load=lambda: mean)
    monkeypatch.setattr(codecs, "entry_points", lambda group: [entry])
    (variant,), missing = codecs.find(["mean"])
    assert not missing
    assert variant.decode(variant.encode(photo, 0).data, (5, 4)).size == (5, 4)
    assert "mean/4" in codecs.all_names()


def test_choosing_a_setting(photo: Image.Image) -> None:
    variants = [find("jpeg"), find("jpeg/2")]
    choice, smallest = choose.within(variants, photo, [2000, 10])
    assert 1500 < len(choice.data) <= 2000
    assert 10 < len(smallest.data) < 1500
    enough = choose.smallest(variants, photo, lambda picture: psnr(photo, picture) >= 27)
    assert enough is not None
    assert psnr(photo, enough.decoded) >= 27
    knob = enough.variant.codec.knob
    lower = knob[knob.index(enough.setting) - 1]
    again = enough.variant.decode(enough.variant.encode(photo, lower).data, photo.size)
    assert psnr(photo, again) < 27
    assert choose.smallest(variants, photo, lambda picture: False) is None
