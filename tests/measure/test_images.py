"""``unimic measure images``: rows, resuming, failures, the report."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from unimic.codec.errors import InvalidInput, UnimicError
from unimic.edge import console
from unimic.edge.cli import main
from unimic.measure import cli, codecs, curves, html, metrics, report, run
from unimic.measure.journal import WIDTH, Journal
from unimic.measure.metrics import METRICS, Judge, find


def measure(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers())
    args = parser.parse_args(["measure", "images", *map(str, arguments)])
    code: int = args.run(args)
    return code


def test_one_command(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bjontegaard")
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    common = ("--metrics", "psnr", "--json", out, "--report", page, "--jobs", 1, "--anchor",
              "jpeg", "--plots", tmp_path / "plots")
    assert measure(*files, "--codecs", "jpeg,jpeg/2", *common) == 1  # one picture is broken
    err = capsys.readouterr().err
    assert "broken.png" in err
    assert err.startswith("unimic: error: ")
    facts = json.loads(out.read_text())
    assert len(facts["errors"]) == 1
    assert len(facts["rows"]) == 2 * 2 * 6
    row = facts["rows"][0]
    assert row["bpp"] == pytest.approx(8 * row["file_bytes"] / (row["width"] * row["height"]))
    for mean in facts["averages"]:
        both = [row["psnr"] for row in facts["rows"]
                if (row["codec"], row["setting"]) == (mean["codec"], mean["setting"])]
        assert mean["psnr"] == pytest.approx(np.mean(both))
    assert facts["bd_rate_percent"]["psnr"]["jpeg"] == pytest.approx(0)

    before = (tmp_path / "r.jsonl").read_text().splitlines()
    with pytest.raises(InvalidInput, match="exists"):
        measure(*files, "--codecs", "jpeg", *common)
    assert measure(*files[:2], "--codecs", "jpeg,jpeg/2,webp/2", *common, "--resume") == 0
    after = (tmp_path / "r.jsonl").read_text().splitlines()
    assert after[:len(before)] == before
    added = [json.loads(line) for line in after[len(before):]]
    assert {row["codec"] for row in added if "codec" in row} == {"webp/2"}  # nothing twice

    drawing = ElementTree.parse(tmp_path / "plots" / "psnr.svg")
    shown = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert shown[0] == "PSNR, dB (higher is better)"
    assert shown[-2:] == ["jpeg", "webp"]

    text = page.read_text()
    assert not re.search(r"(src|href)=['\"]?http", text)
    assert "prefers-color-scheme: dark" in text
    assert ">+0.0<" in text  # the anchor's BD-rate
    assert "measure images" not in err
    _Balanced().feed(text)


def test_what_is_named_twice_counts_once(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(files[0])
    out = tmp_path / "r.json"
    assert measure(files[0], files[0].parent / "." / "a.png", tmp_path / "link.png", files[1],
                   "--codecs", "jpeg:10,jpeg:10:10,jpeg/1:10,jpeg:16", "--metrics", "psnr",
                   "--json", out, "--jobs", 1) == 0
    facts = json.loads(out.read_text())
    assert [(mean["setting"], mean["images"]) for mean in facts["averages"]] == [(10, 2), (16, 2)]
    assert [row["image"] for row in facts["rows"]] == [
        str(path) for path in files[:2] for _ in range(2)]


def test_names_that_are_no_utf_8(
        files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = files[0].rename(tmp_path / os.fsdecode(b"bl\xe4u.png"))
    out, page, printed = tmp_path / "r.json", tmp_path / "r.html", io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    monkeypatch.setattr(report, "text", lambda *_: ["KID × 1000"])
    assert main(["measure", "images", str(odd), "--codecs", "jpeg:10", "--metrics", "psnr",
                 "--json", str(out), "--report", str(page), "--jobs", "1"]) == 0
    assert json.loads(out.read_text())["rows"][0]["image"] == str(odd)
    assert "bl?u.png" in page.read_text()
    sys.stdout.flush()
    assert printed.getvalue() == b"KID ? 1000\n"


def test_json_alone_on_standard_output(
        files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    monkeypatch.chdir(tmp_path)
    assert measure(files[0], "--codecs", "jpeg:10", "--metrics", "psnr", "--json", "-",
                   "--jobs", 1) == 0
    assert json.loads(capsysbinary.readouterr().out)["rows"]
    assert (tmp_path / "results.jsonl").exists()


def test_a_folder_may_hold_more_than_pictures(
        files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "photo.PNG").write_bytes(files[0].read_bytes())
    Path("folder", "more.png").mkdir()
    for other in "README", "notes.md", "photo.umc":
        Path("folder", other).write_text("no picture")
    assert measure("folder", "--codecs", "jpeg:10", "--metrics", "psnr", "--json", "x.json",
                   "--jobs", 1) == 0
    assert [row["image"] for row in json.loads(Path("x.json").read_text())["rows"]] == [
        str(Path("folder", "photo.PNG"))]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--json", "x.jsonl"], "--json: .*x.jsonl is also the file of the journal;"),
    (["--json", "x.features"], "--json: .*x.features is also the file of the journal's features;"),
    (["--json", "x", "--report", "./x"], "--json: x is also the file of --report;"),
    (["--json", "-", "--report", "-"], "--json: - is also the file of --report;"),
    (["--report", "absent/x.html"], "absent/x.html: its folder does not exist;"),
    (["--report", "folder"], "folder: is a folder;"),
    (["--json", "folder.json"], "folder.jsonl: is a folder;"),
    (["--plots", "a.png"], "a.png: no folder can be made there"),
    (["--plots", "a.png/plots"], "a.png/plots: no folder can be made there"),
    (["--plots", "x", "--report", "x"], "x: is a folder;"),
    (["--anchor", "jpge"], "--anchor: 'jpge' is not among the codecs that are measured; use jpeg"),
    (["empty"], "empty: is a folder without pictures;"),
    (["."], r"\.: is a folder without pictures;"),
    (["absent.png"], "absent.png: cannot be read"),
])
def test_refused_before_all_work(arguments: list[str], said: str, files: list[Path],
                                 tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    for folder in "empty", "folder", "folder.jsonl":
        (work / folder).mkdir(parents=True)
    monkeypatch.chdir(work)
    if arguments != ["."]:
        files[0].rename("a.png")
    before = {*work.iterdir()}
    pictures = ["a.png"] if arguments[0].startswith("--") else []
    with pytest.raises(InvalidInput, match=f"^{said}"):
        measure(*pictures, "--codecs", "jpeg", "--metrics", "psnr", *arguments)
    assert {*work.iterdir()} - before <= {work / "x"}


def test_folders_that_cannot_be_written_to(
        files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dir: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(console.tempfile, "TemporaryFile", fail)
    for option in ["--report", tmp_path / "r.html"], ["--plots", tmp_path]:
        with pytest.raises(InvalidInput, match="no file can be written there"):
            measure(files[0], "--codecs", "jpeg", *option, "--json", tmp_path / "r.json")


def test_no_codec_is_there(
        files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> codecs.Codec:
        raise ImportError("pip install absent")

    monkeypatch.setitem(codecs.BUILT_IN, "absent", SimpleNamespace(load=lambda: absent))
    with pytest.raises(InvalidInput, match="--codecs: none of them"):
        measure(files[0], "--codecs", "absent", "--json", tmp_path / "r.json")
    assert not (tmp_path / "r.jsonl").exists()


def test_the_picture_that_leaves_a_metric_without_means(
        files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if metrics.find(["ms-ssim"])[1]:
        pytest.skip("pytorch-msssim is not installed")
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    assert measure(*files[:2], "--codecs", "jpeg:10", "--metrics", "psnr,ms-ssim", "--json", out,
                   "--report", page, "--jobs", 1) == 0  # the first is 160 pixels high
    said = "no mean, for a.png is under 161 pixels on a side"
    assert f"unimic: MS-SSIM has {said}\n" in capsys.readouterr().err
    assert said in page.read_text()
    assert json.loads(out.read_text())["too_small"] == {"ms-ssim": [str(files[0])]}


class _Balanced(HTMLParser):
    """Fails where a tag is closed that is not the one opened last."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_codec_that_fails_is_a_row(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(run.Variant, "encode", fail)
    row = run.measure(run.Task(files[0], "jpeg", 10, ("psnr",), fast=False, keep=False))
    assert row["error"] == "ZeroDivisionError: oops"
    row = run.measure(run.Task(Path("absent.png"), "jpeg", 10, ("psnr",), fast=False, keep=False))
    assert "absent.png" in row["error"]
    monkeypatch.setattr(run.Variant, "encode", lambda *_: sys.exit("no licence"))
    row = run.measure(run.Task(files[0], "jpeg", 10, ("psnr",), fast=False, keep=False))
    assert row["error"] == "SystemExit: no licence"


@pytest.mark.parametrize("wrong", [
    {"ideal_bits": float("nan")}, {"ideal_bits": float("inf")}, {"ideal_bits": -1.0},
    {"payload_bytes": -1}, {"payload_bytes": 2.5}, {"parts": {"x": float("nan")}},
    {"token_bits": np.full((2, 2), np.nan)}])
def test_figures_that_are_none_are_a_row(wrong: dict[str, Any], files: list[Path],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Variant, "encode", lambda *_: codecs.Encoded(b"1", **wrong))
    monkeypatch.setattr(run.Variant, "decode", lambda *_: Image.open(files[0]))
    row = run.measure(run.Task(files[0], "jpeg", 10, (), fast=False, keep=False))
    assert row["error"].startswith(f"{next(iter(wrong))}: ")


class Pool:
    """Answers at once; the second task is the death of its process, and takes the third with it."""

    def __init__(self, *_: object) -> None:
        self.submitted = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: object, task: run.Task) -> Future[run.Row]:
        self.submitted += 1
        if self.submitted == 4:
            raise BrokenProcessPool
        future: Future[run.Row] = Future()
        if task.setting == 2 or (task.setting == 3 and self.submitted == 3):
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(task.row)
        return future


def test_a_death_takes_nobody_else_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ProcessPoolExecutor", Pool)
    tasks = [run.Task(Path("a"), "jpeg", setting, (), fast=False, keep=False)
             for setting in (1, 2, 3, 4)]
    rows: list[run.Row] = []
    run.measure_all(tasks, 4, rows.append)
    assert [row["setting"] for row in rows] == [1, 2, 3, 4]
    assert [row["setting"] for row in rows if "error" in row] == [2]


def test_tables_sort_numbers_by_value_and_names_by_text() -> None:
    column = html.Column("x", "x")
    for value, key in ((3, "3.0"), (2.5, "2.5"), (np.float64(2.5), "2.5"), (True, "1.0")):
        assert f'data-sort="{key}"' in html.table([column], [{"x": value}])
    for value in ("2024-05-03.png", None):
        assert "data-sort" not in html.table([column], [{"x": value}])


def test_processes_end_with_the_one_that_started_them() -> None:
    """They share its standard output, which is open as long as one of them lives."""
    code = ("import concurrent.futures as f, multiprocessing as m, time\n"
            "from unimic.measure import run\n"
            "if __name__ == '__main__':\n"
            "    pool = f.ProcessPoolExecutor(1, m.get_context('spawn'), run._leave_be)\n"
            "    pool.submit(abs, 1).result()\n"
            "    pool.submit(time.sleep, 60)\n"
            "    print('works', flush=True)\n"
            "    time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"works\n"
        process.kill()
        assert process.communicate(timeout=20)[0] == b""


def test_pictures_of_one_name_in_two_folders(files: list[Path], tmp_path: Path) -> None:
    for folder in "one", "two":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(files[0].read_bytes())
    page = tmp_path / "r.html"
    assert measure(tmp_path / "one", tmp_path / "two", "--codecs", "jpeg:10", "--metrics", "psnr",
                   "--json", tmp_path / "r.json", "--report", page, "--jobs", 1) == 0
    for folder in "one", "two":
        assert f">{folder}/a.png<" in page.read_text()


CHATTY = """\
import os, sys, numpy as np
from PIL import Image
from unimic.measure.codecs import Codec, Encoded

print("loaded")

def encode(image, setting):
    print("python"), os.system("echo program")
    data = bytes([setting, *np.asarray(image).mean((0, 1)).astype(np.uint8)])
    return Encoded(data, np.float32(7), np.int64(4), {"first": np.float32(8), "count": 24})

def codec():
    return Codec("chatty", np.arange(9), np.arange(4, 8), encode,
                 lambda data, size: Image.new("RGB", size, tuple(data[1:])), {})
"""


def install(name: str, code: str, folder: Path) -> None:
    """A package with a codec, both of this name."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[unimic.codecs]\n{name} = {name}:codec\n")


def test_a_codec_that_prints_and_counts_with_numpy(files: list[Path], tmp_path: Path) -> None:
    install("chatty", CHATTY, tmp_path)
    for again in ([], ["--resume"]):
        done = subprocess.run(
            [sys.executable, "-m", "unimic.edge.cli", "measure", "images", files[0], "--codecs",
             "chatty,chatty/2:5", "--metrics", "psnr", "--jobs", "1", "--json", "-",
             "--report", "r.html", *again],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True,
            timeout=120, check=False)
        said = done.stderr.decode()
        assert done.returncode == 0, said
        facts = json.loads(done.stdout)
        assert [(row["codec"], row["setting"], row["ideal_bits"], row["parts"])
                for row in facts["rows"]] == [
            (codec, setting, 7, {"first": 8, "count": 24}) for codec, setting in
            (("chatty", 4), ("chatty", 5), ("chatty", 6), ("chatty", 7), ("chatty/2", 5))]
        assert said.count("python") == said.count("program") == (0 if again else 5)


HANGS = """\
import time
from unimic.measure.codecs import Codec

def encode(image, setting):
    print("works")
    time.sleep(600)

def codec():
    return Codec("hangs", range(9), range(9), encode, None, {})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
def test_one_interrupt_ends_a_codec_that_hangs(files: list[Path], tmp_path: Path) -> None:
    install("hangs", HANGS, tmp_path)
    with subprocess.Popen(
            [sys.executable, "-m", "unimic.edge.cli", "measure", "images", files[0], "--codecs",
             "hangs", "--metrics", "psnr", "--jobs", "2", "--json", "r.json"], cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stderr
            while b"works" not in process.stderr.readline():
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            said = process.communicate(timeout=30)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert b"Traceback" not in said


def test_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    row = {"image": "a", "codec": "jpeg", "setting": 3, "psnr": 20.0}
    task = run.Task(Path("a"), "jpeg", 3, ("psnr",), fast=False, keep=False)
    journal = Journal(path, {"python": "1"}, {"jpeg": {"libjpeg": "1"}}, resume=False)
    journal.add(row)
    journal.add(row | {"setting": 6, "error": "no"})
    journal.add(row | {"codec": "jpeg/2"})
    journal.add(row | {"codec": "webp"})
    journal.close()
    with path.open("a") as file:
        file.write('{"image": "a", "cod')  # killed while writing
    again = Journal(path, {"python": "1", "other": "2"}, {"jpeg": {"libjpeg": "1"}}, resume=True)
    assert again.left(task) is None
    assert again.left(replace(task, metrics=("psnr", "ms-ssim"))) == replace(
        task, metrics=("ms-ssim",))
    assert again.left(replace(task, keep=True)) == replace(task, metrics=(), keep=True)
    failed = replace(task, setting=6)
    assert again.left(failed) == failed
    again.add(row | {"setting": 6})
    again.add({"image": "a", "codec": "jpeg", "setting": 3, "ms-ssim": 0.9})
    again.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())
    third = Journal(path, {"python": "1"}, {"jpeg": {"libjpeg": "1"}}, resume=True)
    third.close()
    assert third.rows[task.key] == row | {"ms-ssim": 0.9}
    assert third.left(failed) is None
    with pytest.raises(InvalidInput, match="was made with python 1, here is 2"):
        Journal(path, {"python": "2"}, {}, resume=True)
    path.write_text("words\n")
    with pytest.raises(InvalidInput, match="no journal"):
        Journal(path, {}, {}, resume=True)


def test_journal_cut_within_a_character(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    row = {"image": "bl\udce4u\u2028.png", "codec": "jpeg", "setting": 3, "psnr": 20.0}
    journal = Journal(path, {}, {}, resume=False)
    journal.add(row)  # a name that is no UTF-8, with what some call the end of a line
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + '{"image": "blä'.encode()[:-1])
    again = Journal(path, {}, {}, resume=True)
    assert [*again.rows.values()] == [row]
    again.add(row | {"setting": 4})
    again.close()
    assert path.read_bytes().startswith(whole + b'{"made_by"')


def test_two_runs_at_once_do_not_write_one_journal(tmp_path: Path) -> None:
    first, second = (Journal(tmp_path / "j.jsonl", {}, {}, resume=False) for _ in range(2))
    row = {"image": "a.png", "codec": "jpeg", "setting": 3}
    first.add(row)
    with pytest.raises(InvalidInput, match=r"j\.jsonl: exists; use --resume"):
        second.add(row)
    first.close()


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_two_runs_do_not_go_on_with_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    row: run.Row = {"image": "a", "codec": "jpeg", "setting": 1, "content": ""}
    first = Journal(path, {}, {}, resume=False)
    first.add(row)
    with pytest.raises(InvalidInput, match="written by another run"):
        Journal(path, {}, {}, resume=True)
    anew = Journal(path, {}, {}, resume=False, force=True)
    with pytest.raises(InvalidInput, match="written by another run"):
        anew.add(row)
    first.add(row | {"setting": 2})
    first.close()
    again = Journal(path, {}, {}, resume=True)
    assert len(again.rows) == 2
    again.close()


def test_a_run_that_does_not_begin_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, {}, {}, resume=False).close()
    assert not path.exists()
    path.write_text("something else")
    Journal(path, {}, {}, resume=False, force=True).close()
    assert path.read_text() == "something else"
    anew = Journal(path, {}, {}, resume=False, force=True)
    anew.add({"image": "a", "codec": "jpeg", "setting": 3})
    anew.close()
    assert len(path.read_text().splitlines()) == 2


def test_another_picture_of_the_same_name_is_measured_anew(tmp_path: Path) -> None:
    path, picture = tmp_path / "j.jsonl", tmp_path / "a.png"
    picture.write_bytes(b"one")
    task = run.Task(picture, "jpeg", 3, ("psnr", "dists"), fast=False, keep=False,
                    content=run.content(picture.read_bytes()))
    journal = Journal(path, {}, {}, resume=False)
    journal.add(task.row | {"psnr": 20.0, "dists": 0.5})
    journal.close()
    again = Journal(path, {}, {}, resume=True)
    assert again.left(task) is None
    picture.write_bytes(b"two")
    other = replace(task, content=run.content(picture.read_bytes()))
    assert again.left(other) == other
    again.add(other.row | {"psnr": 30.0})
    again.close()
    third = Journal(path, {}, {}, resume=True)
    third.close()
    assert third.left(other) == replace(other, metrics=("dists",))  # that of before is no value


def test_another_version_of_a_codec_is_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    rows = [{"image": "a", "codec": name, "setting": 3, "psnr": 20.0}
            for name in ("jpeg", "jpeg/2", "webp")]
    made = {"jpeg": {"libjpeg": "1"}, "webp": {"webp": "1"}}
    journal = Journal(path, {}, made, resume=False)
    for row in rows:
        journal.add(row)
    journal.close()
    newer = Journal(path, {}, made | {"jpeg": {"libjpeg": "2"}}, resume=True)
    assert [row["codec"] for row in newer.rows.values()] == ["webp"]
    newer.add(rows[0] | {"psnr": 21.0})
    newer.close()
    older = Journal(path, {}, made, resume=True)
    older.close()
    assert older.rows["a", "jpeg", 3]["psnr"] == 20
    assert len(older.rows) == 3


def test_features_lie_beside_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    row = {"image": "a", "codec": "jpeg", "setting": 3}
    features = np.random.default_rng(0).random((2, 3, WIDTH)).astype(np.float16)
    journal = Journal(path, {}, {}, resume=False)
    for setting, one in enumerate(features):
        journal.add(row | {"setting": setting, "kid": one})
    journal.close()
    assert path.stat().st_size < 1000
    task = run.Task(Path("a"), "jpeg", 1, ("kid",), fast=False, keep=False)
    again = Journal(path, {}, {}, resume=True)
    again.close()
    assert np.array_equal(again.rows[task.key]["kid"], features[1])
    path.with_suffix(".features").write_bytes(features[0].tobytes())  # some are lost
    again = Journal(path, {}, {}, resume=True)
    again.close()
    assert again.left(task) == task
    assert again.left(replace(task, setting=0)) is None
    with path.with_suffix(".features").open("ab") as file:
        file.write(b"partly written")
    again = Journal(path, {}, {}, resume=True)
    again.add(row | {"setting": 2, "kid": features[0] + 1})
    again.close()
    third = Journal(path, {}, {}, resume=True)
    third.close()
    assert np.array_equal(third.rows["a", "jpeg", 2]["kid"], features[0] + 1)
    assert third.left(task) == task  # others lie where its features were


def curve(codec: str, *points: tuple[float, float]) -> list[run.Row]:
    return [{"codec": codec, "setting": i, "bpp": rate, "psnr": quality}
            for i, (rate, quality) in enumerate(points)]


def test_fronts_and_rates() -> None:
    half = curve("vvc/2", (0.01, 20), (0.02, 22), (0.04, 23), (0.08, 23.5))
    whole = curve("vvc", (0.03, 21), (0.06, 25), (0.12, 28), (0.24, 31))
    ((name, front),) = curves.families([*half, *whole], "psnr", True)
    assert name == "vvc"
    assert [row["bpp"] for row in front] == [0.01, 0.02, 0.04, 0.06, 0.12, 0.24]
    (chosen,) = curves.at_rate([*half, *whole], 0.05, "psnr", True)
    assert chosen["bpp"] == 0.06
    (chosen,) = curves.at_rate([*half, *whole], 1.0, "psnr", True)
    assert chosen["bpp"] == 0.24
    near = curve("vvc/4", (0.0501, 23), (0.052, 24), (0.056, 24.5))
    (chosen,) = curves.at_rate([*half, *whole, *near], 0.05, "psnr", True)
    assert chosen["bpp"] == 0.052  # the best of a tenth more


def test_the_middle_of_a_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(run.middle(Image.fromarray(pixels))), pixels[22:278, 72:328])
    assert run.middle(Image.fromarray(pixels[:9, :7])).size == (7, 9)


def test_of_equal_rates_the_better_one() -> None:
    for rows in curve("a", (0.1, 20), (0.1, 22)), curve("a", (0.1, 22), (0.1, 20)):
        assert [row["psnr"] for row in curves.front(rows, "psnr", True)] == [22]
        assert [row["psnr"] for row in curves.front(rows, "psnr", False)] == [20]


def test_no_rate_below_ours_where_there_is_one_above() -> None:
    (chosen,) = curves.at_rate(curve("a", (0.095, 21), (0.2, 28)), 0.1, "psnr", True)
    assert chosen["bpp"] == 0.2


def test_means_are_of_all_pictures() -> None:
    def row(image: str, codec: str, psnr: float | None) -> run.Row:
        return {"image": image, "codec": codec, "setting": 1, "bpp": 0.5, "psnr": psnr}

    rows = [row("x", "a", 20), row("y", "a", None), row("x", "b", 20), row("x", "c", 20),
            row("y", "c", 30), {**row("y", "b", None), "error": "it failed"}]
    means = curves.averages(rows, {}, [METRICS["psnr"]])
    assert [(mean["codec"], mean["images"], mean["psnr"]) for mean in means] == [
        ("a", 2, None), ("c", 2, 25)]


def test_ours_against_the_best_of_the_others() -> None:
    ours, first = curve("unimic", (0.1, 3.0)), curve("a", (0.1, 4.0))
    second = curve("b", (0.1, 5.0))
    assert curves.below_best([*ours, *first, *second], "psnr", "unimic") == pytest.approx(25)
    assert curves.below_best(ours, "psnr", "unimic") is None
    assert curves.below_best(first, "psnr", "unimic") is None
    for best in 0.0, -0.2:  # equal pictures; KID may be below 0
        assert curves.below_best([*ours, *curve("c", (0.1, best))], "psnr", "unimic") is None


def test_bd_rate() -> None:
    pytest.importorskip("bjontegaard")
    anchor = curve("a", (0.1, 25), (0.2, 28), (0.4, 31), (0.8, 34))
    twice = curve("b", (0.2, 25), (0.4, 28), (0.8, 31), (1.6, 34))
    assert curves.bd_rate(anchor, twice, "psnr", True) == pytest.approx(100, abs=0.5)
    assert curves.bd_rate(anchor, twice[:3], "psnr", True) is None
    apart = curve("c", (0.1, 5), (0.2, 6), (0.4, 7), (0.8, 8))
    assert curves.bd_rate(anchor, apart, "psnr", True) is None
    touching = curve("c", (0.1, 16), (0.2, 19), (0.4, 22), (0.8, 25.5))
    assert curves.bd_rate(anchor, touching, "psnr", True) is None
    nothing = curve("b", (0.0, 9))
    assert curves.bd_rate(anchor, [*nothing, *twice], "psnr", True) == curves.bd_rate(
        anchor, twice, "psnr", True)


def test_without_the_package_of_bd_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row | {"image": "a"} for row in
            curve("vvc", (0.1, 25), (0.2, 28), (0.4, 31), (0.8, 34))]
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    context = report.Context("unimic measure", "a machine", {}, curves.missing(), "vvc")
    facts = report.summary(rows, [METRICS["psnr"]], context)
    assert facts["bd_rate_percent"] == {"psnr": {}}
    assert "pip install bjontegaard" in report.html(rows, facts, [METRICS["psnr"]], context)


def test_points_of_no_bits_are_left_out_of_logarithmic_plots() -> None:
    some, none = [html.Point(0, 1, "none"), html.Point(2, 3, "some")], [html.Point(0, 1, "none")]
    drawing = html.draw("t", "x", {"a": some, "b": none}, log_x=True)
    assert drawing
    assert drawing.content.count("<circle") == 1
    assert html.draw("t", "x", {"b": none}, log_x=True) is None
    assert html.draw("t", "x", {"b": none})


class _Lines(HTMLParser):
    """The colours and dashes of each series, in legends and plots."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[tuple[str | None, str | None]]] = {}
        self._name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._name = given.get("data-series") or given.get("value") or self._name
        if "stroke-dasharray" in given:
            self.found.setdefault(self._name, set()).add(
                (given["stroke"], given["stroke-dasharray"]))


def test_curves_are_told_apart_without_colour() -> None:
    """By their dashes, and the legend shows them, whatever the names and whichever are missing."""
    names = ["unimic", "o'q\"<b>", *"cdefghijkl"]
    curves = {name: [html.Point(i, i, "")] for i, name in enumerate(names)}
    drawing = html.draw("t", "x", curves | {"d": []})
    assert drawing
    assert "d" not in drawing.names.values()
    lines = _Lines()
    lines.feed(html.page("t", [html.legend(names), drawing.figure()]))
    assert [*lines.found] == names
    (line, *others) = (line for (line,) in lines.found.values())  # one each: key and curve agree
    assert line[1] == "none"
    assert len({dashes for _, dashes in (line, *others[:8])}) == 9
    assert len({line, *others}) == len(names)  # colours repeat, with other dashes
    ElementTree.fromstring(drawing.file())


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def in_browser(page: str, script: str, folder: Path, size: str = "1000,800") -> Any:
    """What an expression is on a page, if there is a browser."""
    if BROWSER is None:
        pytest.skip("no browser is installed")
    file = folder / "page.html"
    file.write_text(f"""{page}<script>
        document.body.innerHTML = "<pre>" + JSON.stringify({script}) + "</pre>";
        </script>""")
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}",
         f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search("<pre>(.*)</pre>", shown)
    assert found
    return json.loads(found[1])


def test_the_script_of_pages(tmp_path: Path) -> None:
    """Keys reach what sorts; legends agree, whatever the names."""
    names, columns = ["unimic", "o'q\"<b>"], [html.Column("a", "a"), html.Column("b", "b")]
    rows = [{"a": name, "b": value} for name, value in (("x", 9), ("y", None), ("z", 1000))]
    drawing = html.draw("t", "x", {name: [html.Point(1, 2, "")] for name in names})
    assert drawing
    page = html.page("t", [html.legend(names), drawing.figure(), html.legend(names),
                           html.table(columns, rows)])
    assert in_browser(page, """(() => {
        const all = (what, of) => [...document.querySelectorAll(what)].map(of);
        const title = document.querySelectorAll("th button")[1];
        title.click(); title.click(); boxes[1].click();
        return [title.tabIndex, title.parentNode.getAttribute("aria-sort"),
                all("td:first-child", cell => cell.textContent).join(""),
                all("input", box => box.checked), all("g", part => part.style.display)];
        })()""", tmp_path) == [0, "descending", "zxy", [True, False] * 2, ["", "none"]]


def test_what_is_long_stays_in_sight(tmp_path: Path) -> None:
    """Why something failed, beside a long name; titles, above many rows; a plot's letters."""
    rows = [{"what": "x" * 244, "why": "it cannot be read " * 9}, *[{"what": "y", "why": "z"}] * 99]
    columns = [html.Column("what", "what"), html.Column("why", "why", left=True)]
    plot = html.plot("t", "x", {"a": [html.Point(1, 2, "")]})
    page = html.page("t", ["<div class=plots>", plot, "</div>", html.table(columns, rows)])
    width, right, below, letters = in_browser(page, """(() => {
        const box = what => document.querySelector(what).getBoundingClientRect();
        document.querySelector(".scroll").scrollTop = 500;
        return [innerWidth, box("td.left").right, box("th").top - box(".scroll").top,
                box(".plots svg").width / 560];
        })()""", tmp_path, "500,800")
    assert right <= width
    assert below == 0
    assert letters > 0.8


def test_metrics(photo: Image.Image) -> None:
    judge = Judge(photo, ("psnr",))
    assert judge(photo)["psnr"] == 99
    assert judge(Image.eval(photo, lambda v: v ^ 1))["psnr"] == pytest.approx(48.13, abs=0.01)


def test_network_metrics(photo: Image.Image) -> None:
    names = ("ms-ssim", "lpips-vgg", "lpips-alex", "dists")
    _, missing = metrics.find(names)
    if missing:
        pytest.skip("; ".join(missing.values()))
    judge = Judge(photo, names)
    same, near, far = (judge(picture) for picture in (
        photo, Image.eval(photo, lambda v: v & 0xF0), photo.resize((12, 10)).resize(photo.size)))
    assert same["ms-ssim"] is None  # 160 pixels high, 161 are needed
    for name in ("lpips-vgg", "lpips-alex", "dists"):
        assert same[name] == pytest.approx(0, abs=1e-6)
        assert same[name] < near[name] < far[name]  # type: ignore[operator]


def test_kid(photo: Image.Image) -> None:
    """Against the definition, a sum over pairs of pictures."""
    x, y = np.random.default_rng(1).random((2, 4, 1, 64)).astype(np.float16)
    y += 1
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(float) @ b.T.astype(float) / 64 + 1)[0, 0] ** 3)

    expected = np.mean([k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs])
    assert metrics.kid(list(x), list(y)) == pytest.approx(1000 * expected)
    assert metrics.kid(list(x), list(x)) == pytest.approx(0, abs=1e-9)
    assert metrics.kid(list(x), list(x + 0.1)) < 1000 * expected  # type: ignore[operator]
    assert metrics.kid([x[0]], [y[0]]) is None
    two = np.concatenate([x[0], x[1]]), np.concatenate([y[0], y[1]])
    assert metrics.kid([two[0], x[2]], [two[1], y[2]]) == pytest.approx(1000 * np.mean([
        k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in
        ((0, 2), (1, 2))]))  # crops of one picture are not compared


def test_features_of_crops(photo: Image.Image) -> None:
    _, missing = metrics.find(["kid"])
    if missing:
        pytest.skip("; ".join(missing.values()))
    assert metrics.features(photo.crop((0, 0, 80, 70)), ("psnr", "kid")) == {"kid": None}
    found = metrics.features(photo.crop((0, 0, 180, 80)), ("kid",))["kid"]
    assert found is not None
    assert found.shape == (2, 2048)
    first = metrics.features(photo.crop((0, 0, 80, 80)), ("kid",))["kid"]
    assert found[0] == pytest.approx(first[0], rel=1e-3, abs=2e-3)  # type: ignore[index]


def test_training_losses_are_marked() -> None:
    assert {name for name, metric in METRICS.items() if metric.training_loss} == {
        "lpips-alex", "kid"}
    rows = [{"image": "a", "codec": "unimic", "setting": 100, "file_bytes": 9, "width": 8,
             "height": 8, "ideal_bits": 1.0, "payload_bytes": 1, "bpp": 0.1, "encode_seconds": 1.0,
             "decode_seconds": 1.0, "parts": {"header": 72.0}, "lpips-alex": 0.3}]
    context = report.Context("unimic measure", "a machine", {}, {"jxl": "pip install it"}, "vvc")
    facts = report.summary(rows, [METRICS["lpips-alex"]], context)
    text = report.html(rows, facts, [METRICS["lpips-alex"]], context)
    titles = re.findall(r"<th[^>]*>([^<]*LPIPS[^<]*)", text)
    assert titles
    assert all("†" in title for title in titles)
    assert "pip install it" in text
    assert report.text(facts, [METRICS["lpips-alex"]])


def test_differences_have_their_sign() -> None:
    table = html.table([html.Column("x", "x", 1, signed=True), html.Column("y", "y", 1)],
                       [{"x": value, "y": value} for value in (1234.5, -80.8)])
    assert re.findall(r">([^<>]+)</td>", table) == ["+1,234.5", "1,234.5", "−80.8", "-80.8"]


def test_side_by_side(files: list[Path]) -> None:
    """How far each rate is from ours, and beside each picture the map of its bits."""
    crop = run.webp_base64(Image.open(files[0]))
    rows = [{"image": str(files[0]), "codec": codec, "setting": setting, "file_bytes": size,
             "bpp": size / 1000, "ideal_bits": 1.0, "payload_bytes": 1, "encode_seconds": 0.0021,
             "decode_seconds": 1.0, "psnr": 20.0, "crop": crop}
            for codec, setting, size in (("unimic", 100, 100), ("jpeg", 5, 176), ("webp", 5, 88))]
    rows[0] |= {"parts": {"header": 8.0}, "token_bits": [[1.0, 2.0]]}
    judges = [METRICS["psnr"]]
    context = report.Context("unimic measure", "a machine", {}, {curves.BD_RATE: "no"}, "jpeg")
    text = report.html(rows, report.summary(rows, judges, context), judges, context)
    assert "100 bytes, " in text
    assert "176 bytes (+76 %), " in text
    assert "88 bytes (−12 %), " in text
    assert re.search("<div class=pair><figure class=''>.*</figure><figure class='map'>.*</figure>"
                     "</div>", text)
    assert ">0.002<" in text  # seconds
    _Balanced().feed(text)


def test_pages_are_safe() -> None:
    nasty = "<script>alert(1)</script>"
    text = html.page("t", [html.table([html.Column("a", "a")], [{"a": nasty}]),
                           html.plot(nasty, "x", {"c": [html.Point(1, 1, nasty)]})])
    assert nasty not in text


@pytest.mark.parametrize(("low", "high"), [(0.012, 1.4), (20, 20), (-3, 4), (0.3001, 0.3002)])
def test_ticks_enclose_the_data(low: float, high: float) -> None:
    ticks = html._ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9


@pytest.mark.parametrize("arguments", [["--codecs", "nonsense"], ["--metrics", "nonsense"],
                                       ["--jobs", "0"], ["--crops", "-1"]])
def test_wrong_arguments(arguments: list[str], files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UnimicError):
        measure(files[0], *arguments, "--json", tmp_path / "r.json")


def test_a_narrower_resume_leaves_features_out(files: list[Path], tmp_path: Path) -> None:
    """A journal may hold what the report was not asked for."""
    if find(["kid"])[1]:
        pytest.skip("the network of KID is not installed")
    out = tmp_path / "r.json"
    common = ("--codecs", "jpeg:10", "--json", out, "--jobs", 1)
    photos = files[:2]
    assert measure(*photos, *common, "--metrics", "psnr,kid") == 0
    assert measure(*photos, *common, "--metrics", "psnr", "--resume") == 0
    assert "kid" not in json.loads(out.read_text())["averages"][0]


def test_nothing_that_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    assert measure(tmp_path / "a.png", "--codecs", "jpeg:10", "--json", out, "--jobs", 1,
                   "--report", page) == 1
    assert json.loads(out.read_text(), parse_constant=pytest.fail)["averages"] == []
    assert capsys.readouterr().out == "nothing was measured with every picture\n"
    text = page.read_text()
    assert re.findall("<h2>(.*)</h2>", text) == ["What could not be measured", "Made with"]
    assert "<td>a.png</td>" in text
