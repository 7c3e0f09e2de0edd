"""What training is fed with, and the orders of coding that it compares."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from unimic.cloud.backends.compact import load_weights
from unimic.cloud.models.compact import Compact, CompactConfig
from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.models.image_tokenizer import FiniteScalarQuantizer, ImageTokenizer
from unimic.cloud.training import (
    data,
    export,
    export_compact,
    fidelity,
    grids,
    joining,
    other_languages,
    shapes,
    train_compact,
    train_image_entropy,
    train_painter,
    train_text_entropy,
    train_tokenizer,
)
from unimic.cloud.training.command import command
from unimic.cloud.training.compare_orders import SHARES, SIDE, Grouped, Raster
from unimic.cloud.training.cost import TokenCost
from unimic.cloud.training.files import whole
from unimic.cloud.training.loop import Average, Run, mark, rounded_late
from unimic.cloud.training.shipped import averaged, load_image_tokenizer, load_refiner, made_by
from unimic.codec.errors import CorruptData, InvalidInput, UnknownModel
from unimic.codec.order import REVEALED, reveal_groups
from unimic.codec.proof import METADATA
from unimic.codec.store import ModelStore
from unimic.edge.seams import adjusted, covered

SMALL = ImageEntropyConfig(groups=12, width=32, heads=2, content_layers=1, query_layers=2,
                           hidden=32, pairs=4)


def test_renderings_show_what_they_say() -> None:
    pytest.importorskip("easy_vqa")
    pytest.importorskip("cv2")
    from unimic.cloud.training import shapes
    from unimic.measure.tasks.outlines import describe

    rng = np.random.default_rng(0)
    for side in (128, 224, 256):
        for drawing in shapes.rendered_drawings(48):
            image = shapes.rendering(drawing, side, rng)
            assert image.size == (side, side)
            assert describe(image) == (drawing.colour, drawing.shape)


def test_other_languages_are_collected_from_wheels(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "homeassistant-1-py3-none-any.whl", "w") as wheel:
        for language, text in (("fr", "Bonjour le monde"), ("en", "Hello"), ("de", "Hallo {name}")):
            wheel.writestr(f"homeassistant/components/x/translations/{language}.json",
                           json.dumps({"title": {"deep": text}}))
    with ZipFile(tmp_path / "emoji-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("emoji/unicode_codes/emoji_de.json", json.dumps({"x": ":roter_Kreis:"}))
    assert other_languages.collect(tmp_path) == {"fr": {"Bonjour le monde"}, "de": {"roter Kreis"}}


def test_every_order_reveals_everything() -> None:
    assert SHARES["10 groups"] == REVEALED
    for name, shares in SHARES.items():
        groups = reveal_groups(np.ones((SIDE, SIDE), np.bool_), shares)
        assert set(groups.ravel()) == {*range(1, int(name.split()[0]) + 1)}


@torch.inference_mode()
def test_no_order_looks_ahead() -> None:
    """A token's bits depend on those before it alone, and what is remembered changes nothing."""
    torch.manual_seed(0)
    codes = torch.randint(0, 8192, (1, SIDE * SIDE))
    raster, grouped = Raster(SMALL).eval(), Grouped(SMALL, SHARES["6 groups"]).eval()
    last = int(grouped.order[-1])
    for network, place in ((raster, SIDE * SIDE - 1), (grouped, last)):
        other = codes.clone()
        other[0, place] ^= 4095
        assert torch.equal(network.bits(codes)[:, :-1], network.bits(other)[:, :-1])
        assert not torch.equal(network.bits(codes)[:, -1], network.bits(other)[:, -1])
    before = torch.nn.functional.pad(codes[:, :-1], (1, 0))
    whole, _, _ = raster.step(0, before, *raster.nothing(1))
    first, _, memory = raster.step(0, before[:, :9], *raster.nothing(1))
    then, _, _ = raster.step(9, before[:, 9:], *memory)
    assert torch.allclose(torch.cat([first, then], 1), whole, atol=1e-5)


def test_cost_of_tokens_between_two_codes() -> None:
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer((8, 8, 8, 4, 4))
    network = ImageEntropyNet(SMALL)
    torch.nn.init.normal_(network.upper_head.weight)
    torch.nn.init.normal_(network.tail_head.weight)
    cost = TokenCost(network, quantizer)
    digits = quantizer.from_codes(torch.randint(8192, (2, 4, 5)))

    def latents(digits: torch.Tensor) -> torch.Tensor:
        """Whose scaled values are ``digits``; the outermost ones would be at infinity."""
        share = digits / (quantizer.levels - 1)
        return torch.logit(share.clamp(1e-6, 1 - 1e-6)) / 1.6

    def bits(digits: torch.Tensor) -> float:
        return float(cost(latents(digits)))

    for digit in range(5):
        digits[0, digit, 1, 2] = 2
        halfway, other = digits.clone(), digits.clone()
        halfway[0, digit, 1, 2] += 0.4999
        other[0, digit, 1, 2] += 1
        # The other tokens' costs depend on this token's code, which is the same up to halfway.
        own, middle = cost._costs(digits, digits), cost._costs(digits, halfway)
        assert torch.equal(own[0], middle[0])
        expected = bits(digits) + 0.4999 * float(
            middle[1][0, 1, 2, digit] - own[0][0, 1, 2]) / digits[:, 0].numel()
        assert bits(halfway) == pytest.approx(expected, abs=1e-3)
        # What the neighbouring code is said to cost is what it costs.
        assert cost._costs(other, other)[0][0, 1, 2] == pytest.approx(
            float(middle[1][0, 1, 2, digit]), abs=1e-3)
    start = latents(digits + torch.rand(digits.shape) * 0.6 - 0.3).requires_grad_()
    gradient, = torch.autograd.grad(cost(start), start)
    assert cost(start - 0.5 * gradient / gradient.abs().mean()) < cost(start)


class PixelJudge(torch.nn.Module):
    """Stands in for the perceptual networks, whose weights are in other packages."""

    CHANNELS = (3, 3)

    def features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [pixels, torch.nn.functional.avg_pool2d(pixels, 2)]

    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
        return (a[1] - b[1]).square().mean((1, 2, 3))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.between(self.features(a), self.features(b))


def test_tokenizer_training(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fidelity, "LPIPS", lambda network: PixelJudge())
    monkeypatch.setattr(fidelity, "InceptionDistance", PixelJudge)

    def train(out: str, *more: str) -> dict[str, torch.Tensor]:
        train_tokenizer.main(["--data", str(tiny_data), "--out", str(tmp_path / out), "--batch",
                              "2", "--minutes", "0.0001", *more])
        return averaged(tmp_path / out / "checkpoint.pt")

    def moved(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> set[str]:
        return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}

    first = train("first")
    start = str(tmp_path / "first" / "checkpoint.pt")
    polished = train("polished", "--polish", start, "--adversarial", "0.3")
    assert moved(polished, first) == {"decoder"}
    train("polished", "--polish", start, "--adversarial", "0.3")
    assert "resumed at step 1," in capsys.readouterr().out
    assert moved(train("further", "--start", start), first) == {"encoder", "decoder"}
    with pytest.raises(InvalidInput, match=r"--polish: .* was begun with another"):
        train("polished", "--polish", str(tmp_path / "further" / "checkpoint.pt"))
    with pytest.raises(CorruptData, match="was begun by another training, or with other options"):
        train("further", "--adversarial", "0.3")


def test_painter_training(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the model but the painter learns, and the refiner; a second start goes on, and
    the result can be exported."""
    monkeypatch.setattr(fidelity, "LPIPS", lambda network: PixelJudge())
    monkeypatch.setattr(fidelity, "InceptionDistance", PixelJudge)
    torch.manual_seed(0)
    tokenizer, start = tmp_path / "tokenizer.pt", tmp_path / "weights.safetensors"
    torch.save({"average": ImageTokenizer().state_dict()}, tokenizer)
    config = CompactConfig(width=64, depth=1, head=32, painter_depth=2)
    before = Compact(config).state_dict()
    save_file(before, start, metadata={METADATA: json.dumps(asdict(config))})

    def train() -> dict[str, torch.Tensor]:
        train_painter.main(["--data", str(tiny_data), "--start", str(start), "--tokenizer",
                            str(tokenizer), "--out", str(tmp_path / "out"), "--batch", "2",
                            "--minutes", "0.0001", "--depth", "3"])
        return averaged(checkpoint)

    checkpoint = tmp_path / "out" / "checkpoint.pt"
    after = train()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in moved} == {"painter"}
    assert "painter.to_latents.weight" in moved
    added = {".".join(name.split(".")[:3]) for name in after.keys() - before.keys()}
    assert added == {"painter.blocks.2"}
    refiner = load_refiner(checkpoint)
    assert refiner.leave.weight.abs().max() > 0
    ceilings = {name: value for name, value in averaged(checkpoint, "refiner").items()
                if name.endswith("ceiling")}
    assert all(value.max() > 0 for value in ceilings.values())
    assert all(torch.equal(averaged(checkpoint, "refiner_average")[name], value)
               for name, value in ceilings.items())
    train()
    assert "resumed at step 1," in capsys.readouterr().out
    assert export_compact.sizes(after) == replace(config, head=CompactConfig.head, painter_depth=3)


def test_what_the_painter_learns_to_fill() -> None:
    side = train_painter.SIDE
    for _ in range(2000):
        part = train_painter.hidden_part()
        assert all(0 <= first < end <= side for first, end in (part.rows, part.columns))
        box = part.hole[slice(*part.rows), slice(*part.columns)]
        assert 0 < part.hole.sum() == box.sum()
        assert box.numel() < side**2 / 2
        where = part.hole[part.window].float().expand(1, 1, -1, -1)
        pixels = torch.nn.functional.interpolate(where, scale_factor=16)
        assert part.inside(pixels).sum() == 256 * box.sum()
    a, b = train_painter.rescaled(torch.rand(2, 3, 48, 96), torch.rand(2, 3, 48, 96))
    assert a.shape == b.shape
    assert min(a.shape[2:]) >= train_painter.SMALLEST


@pytest.mark.parametrize("box", [(2, 3, 6, 7), (0, 0, 8, 3), (5, 0, 8, 8)])
def test_the_refiner_learns_on_what_the_client_shows(box: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = (16 * edge for edge in box)
    made = np.zeros((128, 128), bool)
    made[top:bottom, left:right] = True
    noise = np.random.default_rng(0).integers(60, 200, (2, 128, 128, 3))
    old, new = noise.astype(np.uint8)
    new = np.asarray(Image.fromarray(new).filter(ImageFilter.GaussianBlur(6)))
    before, after = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 255 for x in (old, new))
    shown = after + joining.continued(before - after, torch.from_numpy(made))
    expected = np.where(made[..., None], adjusted(new, old, made), old)
    np.testing.assert_allclose(255 * shown[0].permute(1, 2, 0), expected, atol=0.51)
    hidden = joining.covered(before, torch.from_numpy(made))
    np.testing.assert_allclose(255 * hidden[0].permute(1, 2, 0), covered(old, made), atol=0.51)


@pytest.mark.parametrize(("box", "sees"), [
    ((0, 0, 14, 4), (0, 4, 14, 14)), ((0, 10, 14, 14), (0, 0, 14, 10)),
    ((0, 0, 3, 14), (3, 0, 14, 14)), ((9, 0, 14, 14), (0, 0, 9, 14)),
    ((3, 4, 9, 8), None), ((0, 0, 5, 5), None)])
def test_tokens_around_a_part_know_nothing_of_it(
        box: tuple[int, int, int, int], sees: tuple[int, int, int, int] | None) -> None:
    torch.manual_seed(0)
    tokenizer, side = ImageTokenizer().eval(), train_painter.SIDE
    top, left, bottom, right = box
    hole = torch.zeros(side, side, dtype=torch.bool)
    hole[top:bottom, left:right] = True
    part = train_painter.Part((top, bottom), (left, right), hole)
    images = torch.rand(2, 3, 16 * side, 16 * side)
    other = torch.where(part.pixels, torch.rand_like(images), images)
    with torch.no_grad():
        codes, same = (train_painter.tokens_around(tokenizer, x, part) for x in (images, other))
        assert codes.shape == (2, side, side)
        assert torch.equal(codes[:, ~hole], same[:, ~hole])
        assert not torch.equal(tokenizer.encode(images)[:, ~hole],
                               tokenizer.encode(other)[:, ~hole])
        if sees:
            y, x = slice(sees[0], sees[2]), slice(sees[1], sees[3])
            cut = images[:, :, 16 * y.start:16 * y.stop, 16 * x.start:16 * x.stop]
            assert torch.equal(codes[:, y, x], tokenizer.encode(cut))


def test_one_crop_in_ten_is_of_a_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tokenizer, "DRAWINGS", 2)
    Image.new("RGBA", (256, 256), (0, 0, 255, 255)).save(tmp_path / "1f600.webp", lossless=True)
    drawings = train_tokenizer.drawings(tmp_path)
    assert [drawing.shape for drawing in drawings] == 5 * [(256, 256, 3)]
    assert (drawings[4] == (0, 0, 255)).all()
    white, black = (np.full((200, 300, 3), value, np.uint8) for value in (255, 0))
    crops = next(iter(train_tokenizer.Crops([white], [black], 500, seed=1)))
    assert crops.shape == (500, 160, 160, 3)
    assert 25 < int((crops.amax((1, 2, 3)) == 0).sum()) < 75


@pytest.mark.parametrize("resumed", [False, True])
def test_the_average_starts_anew_with_the_rounding_alone(tmp_path: Path, resumed: bool) -> None:
    run = Run(tmp_path, 1, 1.0)
    run.step, run.spent = 4000, 50.0 if resumed else 20.0
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    average = Average(network, 0.999)
    run.clock = iter(range(0, 1000, 10)).__next__
    for fraction in rounded_late(run, 0.5, network, average):
        torch.nn.init.constant_(network.weight, 100.0)
        if fraction > 0.5:
            average.update(network, run.step)
    assert (float(average.module.weight) < 2) is resumed


TRAINING = """
import itertools, sys, time
from pathlib import Path
from types import ModuleType
import torch
from torch.utils.data import IterableDataset
from unimic.cloud.training import loop
from unimic.cloud.training.command import command

class Batches(IterableDataset):
    def __iter__(self):
        return itertools.count()

left = []  # a loader that is still there at the end

def main():
    network = torch.nn.Linear(1, 1)
    run = loop.Run(Path(sys.argv[1]), 9, 1.0)
    run.restore({"network": network})
    batches = loop.prepared(Batches())
    left.append(batches)
    for fraction in run:
        next(batches)
        torch.nn.init.constant_(network.weight, run.step + 1.0)
        run.last_log = 0.0
        run.log(steps=1.0)
        time.sleep(0.05)
    run.save({"network": network})

command(main)
"""


def test_a_run_that_is_asked_to_end_is_saved_and_goes_on(tmp_path: Path) -> None:
    """In processes of their own, all of which ``timeout`` and terminals tell."""
    steps = 0
    for number, kill in ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.killpg),
                         (signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg), (None, None)):
        with subprocess.Popen([sys.executable, "-c", TRAINING, tmp_path], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                assert process.stdout
                if steps:
                    assert process.stdout.readline().startswith(f"resumed at step {steps},")
                for _ in range(3):
                    assert process.stdout.readline().startswith("step ")
                if kill:
                    kill(process.pid, number)
                    said, wrong = process.communicate(timeout=60)
                    assert "the same command goes on from there" in said
                else:  # nobody reads any more
                    process.stdout.close()
                    _, wrong = process.communicate(timeout=60)
            finally:  # also of one that hangs
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 130
        assert not wrong
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert saved["step"] >= steps + 3
        assert saved["network"]["weight"] == saved["step"]
        steps = saved["step"]


def test_what_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"network": torch.nn.Linear(1, 1)}
    run = Run(tmp_path, 1, 1.0, made_for={"--tokenizer": "a"})
    run.spent = 60.0
    run.save(state)
    Run(tmp_path, 1, 1.0, made_for={"--tokenizer": "a", "--other": "new"}).restore(state)
    assert "there is nothing left to do" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match=r"--tokenizer: .* was begun with another"):
        Run(tmp_path, 1, 1.0, made_for={"--tokenizer": "b"}).restore(state)
    for other in {"network": torch.nn.Linear(2, 1)}, state | {"more": torch.nn.Linear(1, 1)}:
        with pytest.raises(CorruptData, match="was begun by another training"):
            Run(tmp_path, 1, 1.0).restore(other)
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:500])
    with pytest.raises(CorruptData, match="is no whole checkpoint; remove it"):
        run.restore(state)


@pytest.mark.parametrize("training", [train_tokenizer, train_text_entropy, train_image_entropy,
                                      train_compact, train_painter])
@pytest.mark.parametrize(("option", "value"), [
    ("--minutes", "-5"), ("--minutes", "soon"), ("--rate", "-1"), ("--rate", "nan"),
    ("--rate", "inf"), ("--seed", "-1"), ("--seed", "one")])
def test_budgets_rates_and_seeds_that_cannot_be(
        training: ModuleType, option: str, value: str, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        training.main(["--out", str(tmp_path / "out"), option, value])
    assert caught.value.code == 2
    assert f"argument {option}: {value!r} is no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_bits_cost_needs_a_model_of_them(tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_tokenizer.main(["--data", str(tmp_path), "--out", str(tmp_path / "out"),
                              "--bit-price", "0.1"])
    assert "--bit-price is of bits under an --entropy-model" in capsys.readouterr().err


def test_what_cannot_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    state = {"network": torch.nn.Linear(1, 1)}
    run = Run(tmp_path, 1, 1.0)
    run.save(state)

    def full(parts: object, path: Path) -> None:
        path.write_bytes(b"some of it")
        raise RuntimeError("[enforce fail at inline_container.cc:672]")

    monkeypatch.setattr(torch, "save", full)
    run.step, run.last_save = 7, run.last_save - 1000
    run.keep(state)
    assert "is the disk full?" in capsys.readouterr().out
    with pytest.raises(OSError, match="is the disk full"):
        run.save(state)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    run.restore(state)
    assert run.step == 0


@pytest.mark.parametrize("cut", [700, 2000, -1300])
def test_shards_that_are_broken(tiny_data: Path, tmp_path: Path, cut: int) -> None:
    content = (tiny_data / "kodak.tar").read_bytes()
    (tmp_path / "kodak.tar").write_bytes(content)
    images = list(data.read_shards(tmp_path, "kodak"))
    assert images
    with tarfile.open(tiny_data / "kodak.tar") as tar:
        end = max(member.offset_data + member.size for member in tar)
    (tmp_path / "kodak.tar").write_bytes(content[:-(-end // 512) * 512])  # no zeros at the end
    assert len(list(data.read_shards(tmp_path, "kodak"))) == len(images)
    cut = cut if cut > 0 else end + cut
    (tmp_path / "kodak.tar").write_bytes(content[:cut])
    with pytest.raises(CorruptData, match=r"kodak\.tar"):
        list(data.read_shards(tmp_path, "kodak"))


def test_a_broken_and_a_tiny_picture_in_a_shard(tmp_path: Path) -> None:
    def shard(*files: tuple[str, bytes]) -> None:
        with tarfile.open(tmp_path / "photos-00.tar", "w") as tar:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    buffers = {side: io.BytesIO() for side in (15, 16)}
    for side, buffer in buffers.items():
        Image.new("RGB", (32, side)).save(buffer, "PNG")
    shard(*((f"{side}.png", buffer.getvalue()) for side, buffer in buffers.items()))
    assert [name for name, _ in data.read_shards(tmp_path, "photos")] == ["16"]
    shard(("whole.png", buffers[16].getvalue()), ("cut.png", buffers[16].getvalue()[:40]))
    with pytest.raises(CorruptData, match=r"photos-00\.tar: cut\.png: is no whole picture"):
        list(data.read_shards(tmp_path, "photos"))


def test_tokens_of_two_tokenizers(tmp_path: Path) -> None:
    codes = np.zeros((2, 3), np.int32)
    paths = [tmp_path / f"{name}.npz" for name in "abc"]
    for path, tokenizer in zip(paths, ("one", "one", "two"), strict=True):
        grids.save_grids(path, [("x", codes)], tokenizer)
    np.savez(tmp_path / "old.npz", codes=codes)
    assert grids.check_tokenizer([*paths[:2], tmp_path / "old.npz"]) == "one"
    assert grids.check_tokenizer([tmp_path / "old.npz"]) == ""
    with pytest.raises(InvalidInput, match=r"a\.npz: was made by another tokenizer than .*c\.npz"):
        grids.check_tokenizer(paths)
    (name, loaded), = grids.load_grids(paths[0])
    assert name == "x"
    assert np.array_equal(loaded, codes)


def test_albums_know_their_tokenizer(tmp_path: Path, store: ModelStore) -> None:
    with pytest.raises(InvalidInput, match="--shapes"):
        train_compact.load_albums(tmp_path / "none.npz", None)
    made = tmp_path / "shapes.npz"
    np.savez(made, tokenizer=np.array("another"))
    with pytest.raises(InvalidInput, match=r"--tokenizer: .* was made by another"):
        train_compact.load_albums(made, store.folder / "image-tokenizer")
    made.write_bytes(made.read_bytes()[:-30])
    with pytest.raises(CorruptData, match=r"shapes\.npz: is no whole file of tokens"):
        train_compact.load_albums(made, None)


def test_what_makes_the_same_tokens_is_one_tokenizer(tmp_path: Path, store: ModelStore) -> None:
    torch.manual_seed(0)
    trained = ImageTokenizer()
    for parameter in trained.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    assert made_by(trained) != made_by(load_image_tokenizer(store.folder / "image-tokenizer"))
    export.export_image_tokenizer(trained, tmp_path)
    exported = load_image_tokenizer(tmp_path)
    assert made_by(exported) == made_by(trained)
    torch.nn.init.zeros_(next(exported.decoder.parameters()))  # it has been polished
    torch.save({"average": exported.state_dict()}, tmp_path / "checkpoint.pt")
    assert made_by(load_image_tokenizer(tmp_path / "checkpoint.pt")) == made_by(trained)


def test_models_of_other_tokenizers_are_not_exported(tmp_path: Path, store: ModelStore) -> None:
    image = made_by(load_image_tokenizer(store.folder / "image-tokenizer"))
    text = mark(store.path("text-tokenizer", "tokenizer.json"))
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save({"made_for": {"--image-tokenizer": image, "--text-tokenizer": text}}, checkpoint)
    grids.save_grids(tmp_path / "some.npz", [("x", np.zeros((2, 3), np.int32))], image)
    export.check_made_for(checkpoint, store.folder, tmp_path)
    grids.save_grids(tmp_path / "some.npz", [("x", np.zeros((2, 3), np.int32))], "another")
    with pytest.raises(InvalidInput, match=r"--grids: .* by another tokenizer"):
        export.check_made_for(checkpoint, store.folder, tmp_path)
    for made_for in {"--image-tokenizer": "another"}, {"--tokenizer": "another"}:
        torch.save({"made_for": made_for}, checkpoint)
        with pytest.raises(InvalidInput, match=r"--checkpoint: .* learned with another"):
            export.check_made_for(checkpoint, store.folder)
    # An image tokenizer that nothing was ever trained with says nothing of itself; texts do.
    shutil.copytree(store.folder, tmp_path / "store")
    shutil.copy(store.folder / "image-tokenizer" / "decoder.onnx",
                tmp_path / "store" / "image-tokenizer" / "encoder.onnx")
    torch.save({"made_for": {"--text-tokenizer": "another"}}, checkpoint)
    with pytest.raises(InvalidInput, match=r"another text-tokenizer than there is in"):
        export.check_made_for(checkpoint, tmp_path / "store")


def test_the_painter_starts_from_no_model_of_other_tokenizers(tmp_path: Path, store: ModelStore
                                                              ) -> None:
    weights = store.path("compact", "weights.safetensors")
    train_painter.check_start(weights)
    train_painter.check_start(tmp_path / "weights.safetensors")
    manifest = json.loads((store.folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["models"]["compact"]["space"] = "00" * 8
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"--start: .* was made for other tokenizers"):
        train_painter.check_start(tmp_path / "compact" / "weights.safetensors")


def test_texts_that_are_broken(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    lines = gzip.compress(b"a line\n" * 99)
    for name, content, read in (
            ("flickr8k-captions.jsonl", b'{"image": "a"', data.read_captions),
            ("flickr8k-captions.jsonl", b'{"picture": "a"}\n', data.read_captions),
            ("daquar-train.csv", b"a,b\n1,2\n", lambda root: data.read_questions(root, "train")),
            ("text/x.txt.gz", lines[:-9], lambda root: data.read_text(root, "x")),
            ("text/x.txt.gz", b"words", lambda root: data.read_text(root, "x")),
            ("text/x.txt.gz", gzip.compress(b""), lambda root: data.read_text(root, "x")),
            ("emoji-1.whl", b"PK", other_languages.collect)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptData) as caught:
            read(tmp_path)
        assert caught.value.field == str(tmp_path / name)


def test_emoji_that_are_broken_or_none(tmp_path: Path) -> None:
    (tmp_path / "logo.webp").write_bytes(b"not looked at")
    (tmp_path / "1f600.webp").write_bytes(b"broken")
    with pytest.raises(CorruptData, match=r"1f600\.webp: is no whole picture"):
        data.read_emoji(tmp_path)


def test_copies_of_what_is_held_out_are_not_learned_from(tiny_data: Path) -> None:
    def names() -> set[str]:
        return {name for name, _ in data.training_images(tiny_data)}

    assert names() == {"a", "d", "imagenette", "photos", "imagenet-sample", "bsds500"}
    with Image.open(tiny_data / "photo.png") as held_out:  # "c" of Flickr8k, among others
        held_out.resize((300, 200)).save(tiny_data / "copy.jpg", quality=60)
    with tarfile.open(tiny_data / "photos-00.tar", "a") as tar:
        tar.add(tiny_data / "copy.jpg", "copy.jpg")
        tar.add(tiny_data / "other.png", "more.png")
    assert names() == {"a", "d", "imagenette", "photos", "more", "imagenet-sample", "bsds500"}


def test_nothing_to_learn_from(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path, "w"):
            pass
    with pytest.raises(InvalidInput, match="--data"):
        data.training_images(tmp_path)
    with pytest.raises(InvalidInput, match=r"no image for kodak\.npz"):
        grids.save_grids(tmp_path / "kodak.npz", [], "one")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("old")

    def fail() -> None:
        with whole(path) as file:
            file.write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    with whole(path) as file:
        file.write_text("new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("load", [load_image_tokenizer, load_refiner])
def test_checkpoints_of_something_else(tmp_path: Path,
                                       load: Callable[[Path], torch.nn.Module]) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError):
        load(path)
    for content, said in (({"average": {}, "refiner_average": {}}, "does not hold the weights"),
                          ({"step": 3}, "has no '")):
        torch.save(content, path)
        with pytest.raises(CorruptData, match=said):
            load(path)
    path.write_text("no checkpoint")
    with pytest.raises(CorruptData, match="is no whole checkpoint"):
        load(path)


def test_an_export_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "image-tokenizer").mkdir()
    (tmp_path / "image-tokenizer" / "encoder.onnx").write_bytes(b"old")

    def fail() -> None:
        with export.drafted(tmp_path, "image-tokenizer") as folder:
            (folder / "encoder.onnx").write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "image-tokenizer" / "encoder.onnx").read_bytes() == b"old"
    with export.drafted(tmp_path, "image-tokenizer") as folder:
        (folder / "encoder.onnx").write_bytes(b"new")
    assert (tmp_path / "image-tokenizer" / "encoder.onnx").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["image-tokenizer"]
    with pytest.raises(UnknownModel, match=r"manifest\.json"), export.drafted(tmp_path, "compact"):
        pytest.fail("it has no place there")


def test_compact_training(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          store: ModelStore) -> None:
    """It goes on from weights of any sizes, with little data, and can be exported."""
    tokens, chance = tmp_path / "tokens", np.random.default_rng(0)
    tokens.mkdir()
    tokenizer = made_by(load_image_tokenizer(store.folder / "image-tokenizer"))
    for name, images in {"flickr-train": "a", "flickr-train-flipped": "a", "daquar-train": "d",
                         "unlabelled": "photos", "flickr-train-320": "a", "emoji-train": "dog",
                         "emoji-coloured": "dog"}.items():
        codes = chance.integers(0, 8192, (20, 20), np.int32)
        grids.save_grids(tokens / f"{name}.npz", [(images, codes)], tokenizer)
    drawings = shapes.rendered_drawings(3)
    codes = chance.integers(0, 8192, (max(d.image for d in drawings) + 1, 4, 4))
    np.savez(tmp_path / "shapes.npz", tokenizer=np.array(tokenizer))
    monkeypatch.setattr(train_compact, "load_albums", lambda path, tokenizer: {
        name: train_compact.Album(drawings, {64: 1.0}, {64: codes})
        for name in ("drawing", "rendering")})
    monkeypatch.setattr(train_compact, "prepared", iter)
    config = CompactConfig(width=64, depth=1, painter_depth=2)
    before = Compact(config).state_dict()
    start = tmp_path / "start.safetensors"
    save_file(before, start, metadata={METADATA: json.dumps(asdict(config))})
    arguments = ["--data", str(tiny_data), "--tokens", str(tokens), "--shapes",
                 str(tmp_path / "shapes.npz"), "--text-tokenizer",
                 str(store.path("text-tokenizer", "tokenizer.json")), "--minutes", "0.0001",
                 "--out", str(tmp_path / "out")]
    train_compact.main([*arguments, "--start", str(start), "--batch", "3000"])
    checkpoint = tmp_path / "out" / "checkpoint.pt"
    after = averaged(checkpoint)
    assert not torch.equal(after["words.weight"], before["words.weight"])
    assert torch.equal(after["painter.to_latents.weight"], before["painter.to_latents.weight"])
    mine = tmp_path / "store"
    for name in "image-tokenizer", "text-tokenizer":
        shutil.copytree(store.folder / name, mine / name)
    shutil.copy(store.folder / "manifest.json", mine)
    export_compact.main(["--checkpoint", str(checkpoint), "--store", str(mine), "--data", "mine"])
    written = ModelStore(mine)
    assert written.entry("compact").data == "mine"
    assert load_weights(written.path("compact", "weights.safetensors")).config.painter_depth == 2
    grids.save_grids(tokens / "daquar-eval.npz", [("e", codes[0])], "two")
    with pytest.raises(InvalidInput, match="was made by another tokenizer"):
        train_compact.main(arguments)
    (tokens / "emoji-train.npz").unlink()
    monkeypatch.setattr(train_compact, "load_albums", None)  # which takes long
    with pytest.raises(InvalidInput, match=r"--tokens: .* has no emoji-train.npz; .* --emoji"):
        train_compact.main(arguments)


@pytest.mark.parametrize(("error", "code"), [
    (KeyboardInterrupt(), 130),
    (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'"),
    (InvalidInput("--minutes", "is 0", "use more"), "error: --minutes: is 0; use more")])
def test_commands_end_with_a_line(error: BaseException, code: int | str) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        command(main)
    assert caught.value.code == code
