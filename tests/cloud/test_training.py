"""What training is fed with, and the orders of coding that it compares."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from unimic.cloud.models.compact import Compact, CompactConfig
from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.models.image_tokenizer import FiniteScalarQuantizer, ImageTokenizer
from unimic.cloud.training import (
    export_compact,
    fidelity,
    joining,
    other_languages,
    train_painter,
    train_tokenizer,
)
from unimic.cloud.training.compare_orders import SHARES, SIDE, Grouped, Raster
from unimic.cloud.training.cost import TokenCost
from unimic.cloud.training.loop import Average, Run, rounded_late
from unimic.cloud.training.shipped import averaged, load_refiner
from unimic.codec.order import REVEALED, reveal_groups
from unimic.codec.proof import METADATA
from unimic.edge.seams import adjusted

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
