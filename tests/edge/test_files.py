"""``.umc`` files made and read by a program, with the shipped models."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unimic.edge
from unimic.codec import umc
from unimic.codec.coder import Coder
from unimic.codec.errors import CorruptData, InvalidInput, LimitExceeded, UnimicError, UnknownModel
from unimic.codec.packets import for_file, pack_image, pack_text
from unimic.codec.tokens import TokenGrid
from unimic.edge import AsyncClient, Models, decode, encode_image, encode_text
from unimic.edge.cli import main


class Reader:
    """Reads the same for ever, whatever it is."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def read(self, size: int) -> Any:
        return self.part


@pytest.fixture(scope="module")
def models(store: Any) -> Models:
    return Models.load(store, threads=1)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    y, x = np.mgrid[:90, :130]
    waves = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), x + y], -1)
    return Image.fromarray(waves.clip(0, 255).astype(np.uint8))


def test_pictures(models: Models, photo: Image.Image, tmp_path: Path) -> None:
    plain = encode_image(photo, models)
    shown = decode(plain.data, models)
    grid = models.images.encode(photo)
    assert np.array_equal(np.asarray(shown.image), np.asarray(models.images.decode(grid)))
    assert abs(plain.payload_bytes - plain.ideal_bits / 8) < 2  # luck may end in fewer bits
    assert plain.payload_bytes < len(plain.data) < plain.payload_bytes + 60
    with pytest.raises(InvalidInput, match="holds no text"):
        _ = shown.text

    told = encode_image(photo, models, prompt="waves of colour", quality=50)
    (tmp_path / "told.umc").write_bytes(told.data)
    for source in told.data, tmp_path / "told.umc", io.BytesIO(told.data):
        again = decode(source, models)
        assert (again.image.size, again.text) == (photo.size, "waves of colour")
    assert len(encode_image(photo, models, raw=True).data) > len(plain.data)
    assert len(encode_image(photo, models, budget=90).data) <= 90


@pytest.mark.parametrize("quality", [100, 140])
def test_tokens_are_written_as_they_are(models: Models, photo: Image.Image, quality: int) -> None:
    coded = encode_image(photo, models, quality=quality)
    grid = decode(coded.data, models).grid
    assert encode_image(grid, models).data == coded.data
    told = decode(encode_image(grid, models, prompt="waves").data, models)
    assert np.array_equal(told.grid.codes, grid.codes)
    assert (told.grid.size, told.text) == (grid.size, "waves")
    with pytest.raises(InvalidInput, match=r"is a \.umc file; decode it; its tokens"):
        encode_image(coded.data, models)
    for name, value in ("quality", 25), ("budget", 500):
        with pytest.raises(InvalidInput, match=f"^{name}: is for pixels, and tokens are sent"):
            encode_image(grid, models, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(LimitExceeded, match="at most 262,144 are taken"):
        encode_image(TokenGrid(np.zeros((512, 513), np.int32), 513 * 16, 512 * 16), models)


def test_texts(models: Models) -> None:
    for text in "", "Two dogs run on a beach.", "漢字 🎈\n" * 40:
        coded = encode_text(text, models)
        assert decode(coded.data, models).text == text
        assert decode(encode_text(text, models, raw=True).data, models).text == text
    with pytest.raises(InvalidInput, match="holds no picture"):
        _ = decode(coded.data, models).image


def test_the_command_writes_the_same_file(models: Models, photo: Image.Image, tmp_path: Path
                                          ) -> None:
    photo.save(tmp_path / "photo.png")
    names = [str(tmp_path / "photo.png"), str(tmp_path / "photo.umc")]
    assert main(["encode", *names, "--prompt", "waves", "--quality", "140"]) == 0
    expected = encode_image(names[0], models, prompt="waves", quality=140)
    assert (tmp_path / "photo.umc").read_bytes() == expected.data


@pytest.mark.parametrize(("arguments", "kind", "said"), [
    ({"quality": "100"}, InvalidInput, "quality: a str is not a whole number"),
    ({"quality": 24}, InvalidInput, "quality: 24 is out of range"),
    ({"budget": 99.5}, InvalidInput, "budget: a float is not a whole number"),
    ({"budget": 5}, LimitExceeded, "budget: 5 bytes are too few; this file takes at least"),
    ({"budget": 99, "raw": True}, InvalidInput, "budget: needs entropy coding; leave out raw"),
    ({"prompt": b"waves"}, InvalidInput, "prompt: a bytes is not text"),
    ({"prompt": "wave " * 200_000}, LimitExceeded, "prompt: .* tokens are over 131,072"),
    ({"prompt": "\ud800"}, InvalidInput, "prompt: a lone surrogate"),
    ({"models": None}, InvalidInput, r"models: a NoneType is not Models; use Models\.load\(\)"),
])
def test_wrong_arguments(models: Models, photo: Image.Image, arguments: dict[str, Any],
                         kind: type[UnimicError], said: str) -> None:
    with pytest.raises(kind, match=said):
        encode_image(photo, **{"models": models, **arguments})


def test_wrong_models(models: Models, store: Any) -> None:
    wrong: Any = models.coder
    for call in (lambda: encode_text("waves", wrong), lambda: decode(b"", wrong),
                 lambda: AsyncClient("localhost:1", models=wrong)):
        with pytest.raises(InvalidInput, match="models: a Coder is not Models"):
            call()
    for threads, said in ("2", "a str is not"), (0, "0 is out of range"):
        with pytest.raises(InvalidInput, match=f"threads: {said}"):
            Models.load(store, threads)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="store: a str is not a ModelStore"):
        Models.load("models")  # type: ignore[arg-type]


def test_raw_needs_no_file_of_the_entropy_models(store: Any, photo: Image.Image, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(store.folder, tmp_path / "models")
    for name in "image-entropy", "text-entropy":
        shutil.rmtree(tmp_path / "models" / name)
    monkeypatch.setenv("UNIMIC_MODELS", str(tmp_path / "models"))
    photo.save(tmp_path / "photo.png")
    names = [str(tmp_path / "photo.png"), str(tmp_path / "photo.umc")]
    assert main(["encode", *names, "--raw", "--prompt", "waves"]) == 0
    expected = encode_image(photo, Models.load(entropy=False), raw=True, prompt="waves")
    assert Path(names[1]).read_bytes() == expected.data


def test_without_entropy_models(models: Models, photo: Image.Image) -> None:
    bare = replace(models, coder=Coder(models.coder.space, None, None))
    with pytest.raises(UnknownModel, match="there is no image entropy model here"):
        encode_image(photo, bare)
    with pytest.raises(UnknownModel, match="model"):
        decode(encode_image(photo, models).data, bare)
    assert decode(encode_image(photo, bare, raw=True).data, models).image.size == photo.size


def test_what_is_no_file(models: Models, tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match=r"this is no \.umc file"):
        decode(b"something else", models)
    with pytest.raises(InvalidInput, match=r"absent\.umc: cannot be read"):
        decode(tmp_path / "absent.umc", models)
    (tmp_path / "folder.umc").mkdir()
    with os.scandir(os.fsencode(tmp_path)) as entries:
        for source, said in (*((entry, r"folder\.umc: cannot be read") for entry in entries),
                             ("", "file: cannot be read"), (None, "file: a NoneType is not a file"),
                             (Image.new("RGB", (8, 8)), "file: a Image is not a file"),
                             (Reader(None), "file: cannot be read .*None"),
                             (Reader(7), "file: cannot be read .*7, not bytes")):
            with pytest.raises(InvalidInput, match=said):
                decode(source, models)


def test_every_public_name_is_there() -> None:
    assert all(getattr(unimic.edge, name) for name in unimic.edge.__all__)
    assert set(unimic.edge.__all__) == set(unimic.edge._HOMES)


def test_the_last_picture_and_text_are_shown(models: Models, photo: Image.Image) -> None:
    """A file may hold what a picture was before, too."""
    coder, file = models.coder, io.BytesIO()
    grids = [models.images.encode(image) for image in (photo, photo.rotate(180))]
    packets = [pack_text(coder, models.text.encode(text)).packet for text in ("one", "two")]
    packets += [pack_image(coder, grid).packet for grid in grids]
    umc.write(file, [for_file(packet, coder) for packet in packets])
    shown = decode(file.getvalue(), models)
    assert shown.text == "two"
    assert np.array_equal(np.asarray(shown.image), np.asarray(models.images.decode(grids[1])))


@pytest.mark.parametrize("prompt", [None, "waves of colour"])
def test_a_file_keeps_any_budget(models: Models, photo: Image.Image, prompt: str | None) -> None:
    """Also where the length of the picture's packet begins to take two bytes."""
    with pytest.raises(LimitExceeded) as caught:
        encode_image(photo, models, prompt=prompt, budget=5)
    least = int(caught.value.remedy.split()[-1])
    assert len(encode_image(photo, models, prompt=prompt, budget=least).data) == least
    longest = encode_image(photo, models, prompt=prompt, quality=200)
    for budget in (*range(least, least + 12), *range(128 + least - 45, 128 + least - 10)):
        coded = encode_image(photo, models, prompt=prompt, budget=budget)
        assert len(coded.data) <= budget < len(longest.data)
        assert bool(decode(coded.data, models).packets[-1].scenario) == (prompt is not None)
