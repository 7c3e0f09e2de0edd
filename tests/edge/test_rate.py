"""Byte budgets of photos, with the shipped models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimic.codec.errors import LimitExceeded
from unimic.codec.limits import Limits
from unimic.codec.packets import PackedImage, pack_image, pack_image_within, unpack_image
from unimic.codec.progress import Progress
from unimic.codec.tokens import PITCHES, Mask, grid_shape
from unimic.edge.cli import main
from unimic.edge.models import Models
from unimic.edge.rate import WORTH_LEAVING, pack_photo_within

MOST = 1 << 16


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(threads=1)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    y, x = np.mgrid[:80, :112]
    waves = np.stack([np.sin(x / 9 + y / 23), np.cos(y / 7), np.sin((x + y) / 13)], -1)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))


def upper_half(pitch: int) -> Mask:
    hole = np.zeros(grid_shape(112, 80, pitch), bool)
    hole[: len(hole) // 2] = True
    return hole


@pytest.mark.parametrize("holed", [False, True])
def test_a_budget_is_kept_and_used(models: Models, photo: Image.Image, holed: bool) -> None:
    pitches = []
    for budget in (25, 40, 90, 200, 5000):
        packed = pack_photo_within(models.coder, models.images, photo, budget, most_tokens=MOST,
                                   hole=upper_half if holed else lambda pitch: None)
        assert packed.packet.ByteSize() <= budget
        hole = upper_half(packed.grid.pitch) if holed else None
        back = unpack_image(models.coder, packed.packet, limits=Limits(), hole=hole)
        assert np.array_equal(back.codes, packed.grid.codes)
        pitch = packed.grid.pitch
        pitches.append(pitch)
        if pitch > PITCHES[0]:  # a finer one would not have fitted
            hole = upper_half(pitch - 1) if holed else None
            finer = models.images.encode(photo, pitch - 1, hole)
            over = pack_image(models.coder, finer, hole=hole, skip=WORTH_LEAVING)
            assert over.packet.ByteSize() > budget
    assert pitches == sorted(pitches, reverse=True)
    assert pitches[-1] == PITCHES[0]
    assert packed.packet.skip == 0


def test_no_more_tokens_than_allowed(models: Models, photo: Image.Image) -> None:
    pack = partial(pack_photo_within, models.coder, models.images, photo)
    assert pack(5000, most_tokens=70).grid.codes.shape == (7, 10)
    for most in ({"most_tokens": 3}, {"most_tokens": 70, "most_task_tokens": 3}):
        with pytest.raises(LimitExceeded, match="width"):
            pack(5000, **most)
    assert pack(5000, most_tokens=MOST, most_task_tokens=20).grid.codes.shape == (4, 5)


@pytest.mark.parametrize("budget", [28, 36, 44, 52])
def test_who_takes_the_picture_takes_every_pitch(models: Models, photo: Image.Image, budget: int,
                                                 ) -> None:
    """At 100 the picture has all the tokens that are allowed, whatever coarser ones leave over."""
    picture, most = photo.resize((96, 96)), Limits(max_tokens=36)
    packed = pack_photo_within(models.coder, models.images, picture, budget, most_tokens=36)
    assert packed.grid.pitch > 16
    back = unpack_image(models.coder, packed.packet, limits=most)
    assert np.array_equal(back.codes, packed.grid.codes)


def test_the_search_can_be_stopped_anywhere(models: Models, photo: Image.Image) -> None:
    class Enough(Exception):
        pass

    def pack(watch: Progress) -> PackedImage:
        watched = models.watched(watch)
        return pack_photo_within(watched.coder, watched.images, photo, 90, most_tokens=MOST)

    looks: list[int] = []
    plain = pack_photo_within(models.coder, models.images, photo, 90, most_tokens=MOST)
    assert pack(lambda done, total: looks.append(done)).packet == plain.packet
    for last in (1, 2, len(looks) // 2, len(looks)):  # the first is a tile, the second a wave
        left = iter(range(last - 1))

        def watch(done: int, total: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Enough

        with pytest.raises(Enough):
            pack(watch)


@pytest.mark.parametrize("budget", [-1, 0, 5])
def test_less_than_a_header(models: Models, photo: Image.Image, budget: int) -> None:
    with pytest.raises(LimitExceeded, match="allow at least"):
        pack_photo_within(models.coder, models.images, photo, budget, most_tokens=MOST)


def test_the_budget_of_a_file(photo: Image.Image, tmp_path: Path,
                              capsys: pytest.CaptureFixture[str]) -> None:
    photo.save(tmp_path / "photo.png")
    names = [str(tmp_path / name) for name in ("photo.png", "photo.umc", "back.png")]
    for budget in (60, 95, 150, 240):
        assert main(["encode", *names[:2], "-f", "--prompt", "waves", "--budget", str(budget)]) == (
            budget == 60)
        if budget == 60:
            said = capsys.readouterr().err
            assert "--budget: 60 bytes are too few; this file takes at least" in said
            continue
        assert budget // 2 < (tmp_path / "photo.umc").stat().st_size <= budget
        assert main(["decode", *names[1:], "-f"]) == 0
        assert Image.open(tmp_path / "back.png").size == photo.size


def test_codes_give_way_to_cheaper_ones_below_the_full_rate_alone(
        models: Models, photo: Image.Image) -> None:
    grid = models.images.encode(photo)
    assert grid.distances is not None
    assert np.array_equal(pack_image(models.coder, grid).grid.codes, grid.codes)
    priced, plain = (pack_image(models.coder, each, skip=1)
                     for each in (grid, replace(grid, distances=None)))
    assert priced.sizes.ideal_bits < plain.sizes.ideal_bits
    fine = models.images.encode(photo, 8)
    once = pack_image(models.coder, fine, skip=1)
    budget = once.sizes.wire_bytes
    assert pack_image_within(models.coder, fine, budget).packet == once.packet
