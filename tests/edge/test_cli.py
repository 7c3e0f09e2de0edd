"""The command line: files, pipes, reports, errors and exit codes."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimic.codec import store as store_module
from unimic.codec.errors import InvalidInput
from unimic.codec.store import ModelStore, add_model
from unimic.edge import cli
from unimic.edge.cli import main
from unimic.edge.console import MOST_PIXELS_A_SIDE, picture_bytes, picture_format

TEXTS = ["", "Two dogs run on a beach.", "naïve 漢字 🏖️\r\n\ttabs\n", "é" * 1000]


@pytest.fixture(scope="session")
def raw_store(tiny_store: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of tokenizers without entropy models: tokens can only be coded raw."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_store.folder / "image-tokenizer", folder / "image-tokenizer")
    shipped = Path(store_module.__file__).parent / "models" / "text-tokenizer"
    shutil.copytree(shipped, folder / "text-tokenizer")
    for name, sizes in (("image-tokenizer", {"image_codes": 8192, "patch": 16}),
                        ("text-tokenizer", {"text_codes": 4096})):
        add_model(folder, name, name, licence="none", data="none", command="none", figures={},
                  sizes=sizes)
    return folder


@pytest.fixture(autouse=True)
def here(raw_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIMIC_MODELS", str(raw_store))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)).save(
        "photo.png")
    return tmp_path


def run(*arguments: str) -> int:
    return main(arguments)


def test_picture_there_and_back(here: Path) -> None:
    assert run("encode", "photo.png", "p.umc", "--raw") == 0
    assert run("decode", "p.umc", "back.png") == 0
    assert Image.open("back.png").size == (50, 37)
    assert run("decode", "p.umc", "back.jpg") == 0
    assert Image.open("back.jpg").format == "JPEG"
    assert not [path for path in here.iterdir() if "part" in path.name]


@pytest.mark.parametrize(("quality", "tokens"), [("25", 1), ("50", 4), ("200", 35)])
def test_qualities(quality: str, tokens: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "photo.png", "p.umc", "--raw", "--quality", quality) == 0
    assert run("info", "p.umc", "--json") == 0
    (packet,) = json.loads(capsys.readouterr().out)["packets"]
    assert (packet["tokens"], packet["pitch"]) == (tokens, 1600 // int(quality))
    assert run("decode", "p.umc", "back.png") == 0
    assert Image.open("back.png").size == (50, 37)


@pytest.mark.parametrize("text", TEXTS)
def test_text_there_and_back(text: str) -> None:
    Path("notes.txt").write_bytes(text.encode())
    assert run("encode", "notes.txt", "p.umc", "--raw") == 0
    assert run("decode", "p.umc", "back.txt") == 0
    assert Path("back.txt").read_bytes() == text.encode()


def test_text_that_looks_like_a_picture() -> None:
    Path("p1.txt").write_text("P1 1 1 0")
    assert run("encode", "p1.txt", "p.umc", "--raw", "--text") == 0
    assert run("decode", "p.umc", "back.txt") == 0
    assert Path("back.txt").read_text() == "P1 1 1 0"


def test_prompt_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("encode", "photo.png", "p.umc", "--raw", "--prompt", "noise") == 0
    assert run("decode", "p.umc", "prompt.txt") == 0
    assert Path("prompt.txt").read_text() == "noise"
    assert run("decode", "p.umc", "back.png") == 0
    assert run("info", "--json", "p.umc") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [packet["kind"] for packet in facts["packets"]] == ["text", "image"]


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    run("encode", "photo.png", "p.umc", "--raw")
    assert run("info", "p.umc") == 0
    out = capsys.readouterr().out
    assert "image, generic, 50×37 at 16 pixels a token, 12 tokens, raw" in out
    assert run("info", "p.umc", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    (packet,) = facts["packets"]
    assert facts["bytes"] == Path("p.umc").stat().st_size == (
        facts["container_bytes"] + packet["header_bytes"] + packet["payload_bytes"])
    assert packet["payload_bytes"] == -(-12 * 13 // 8)


def test_links_and_devices() -> None:
    Path("real.umc").write_text("old")
    Path("link.umc").symlink_to("real.umc")
    assert run("encode", "photo.png", "link.umc", "--raw") == 1
    assert run("encode", "photo.png", "link.umc", "--raw", "-f") == 0
    assert Path("link.umc").is_symlink()
    assert run("info", "real.umc") == 0
    assert run("encode", "photo.png", "/dev/null", "--raw") == 0


def test_reports(capsys: pytest.CaptureFixture[str]) -> None:
    run("encode", "photo.png", "p.umc", "--raw")
    assert capsys.readouterr() == ("", "")
    run("encode", "photo.png", "p.umc", "--raw", "-f", "-v")
    out, err = capsys.readouterr()
    assert not out
    assert "50×37 pixels in" in err
    run("encode", "photo.png", "p.umc", "--raw", "-f", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["file_bytes"] == Path("p.umc").stat().st_size
    assert facts["ideal_bits"] == 12 * 13
    for output, described in (("back.png", {"kind": "image", "width": 50, "height": 37}),
                              ("back.txt", {"kind": "text", "characters": 2})):
        run("encode", "photo.png", "p.umc", "--raw", "-f", "--prompt", "hi")
        capsys.readouterr()
        assert run("decode", "p.umc", output, "--json") == 0
        assert described.items() <= json.loads(capsys.readouterr().out).items()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["encode", "missing.jpg", "x.umc"], "missing.jpg: cannot be read (No such file"),
     (["encode", "photo.png", "photo.png"], "photo.png: exists; use -f"),
     (["encode", "photo.png", "no/where.umc"], "folder does not exist"),
     (["encode", "photo.png", "."], "is a folder"),
     (["encode", "broken", "x.umc"], "broken: is not a picture"),
     (["encode", "cut.png", "x.umc"], "cut.png: the picture is damaged"),
     (["encode", "broken", "x.umc", "--text"], "is not UTF-8 text"),
     (["encode", "photo.png", "x.umc"], "no image entropy model"),
     (["encode", "photo.png", "x.umc", "--raw", "--budget", "99"], "--budget: needs entropy"),
     (["encode", "photo.png", "x.umc", "--raw", "--quality", "24"], "quality: 24 is out of range"),
     (["encode", "notes.txt", "x.umc", "--prompt", "words"], "--prompt: belongs to a picture"),
     (["encode", "notes.txt", "x.umc", "--quality", "50"], "--quality: belongs to a picture"),
     (["decode", "photo.png", "x.png"], "magic: this is no .umc file"),
     (["decode", "p.umc", "x.txt"], "holds no text"),
     (["decode", "t.umc", "x.png"], "holds no picture"),
     (["info", "notes.txt"], "magic"),
     (["inpaint", "photo.png", "x.txt", "--box", "0,0,9,9"], "not that of a picture")])
def test_errors_are_one_line(arguments: list[str], words: str,
                             capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken").write_bytes(b"\xff\xfe\x00 neither")
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:2000])
    Path("notes.txt").write_text("words")
    run("encode", "photo.png", "p.umc", "--raw")
    run("encode", "notes.txt", "t.umc", "--raw")
    capsys.readouterr()
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("unimic: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not list(Path().glob("x.*"))


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["encode", "photo.png"],
                                       ["ask", "photo.png", "what?", "is it?"],
                                       ["ask", "photo.png", "--tsl", "what?"],
                                       ["inpaint", "photo.png", "x.png"],
                                       ["inpaint", "photo.png", "x.png", "--box", "1,2"],
                                       ["generate", "dogs", "x.png", "--size", "big"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encode", "decode", "ask", "measure images", "measure session",
                                     "measure tasks", "measure entropy", "measure speed"])
def test_help_fits_the_terminal_and_keeps_examples(
        command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(*command.split(), "--help")
    wrapped, _, examples = capsys.readouterr().out.partition("\nexamples:\n")
    assert max(map(len, wrapped.splitlines())) <= 80
    assert all(line.startswith("  ") for line in examples.splitlines() if line)
    assert f"  unimic {command} " in examples


def test_help_of_all_commands_is_as_it_was_laid_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    assert cli.DESCRIPTION in capsys.readouterr().out


def test_a_damaged_file_never_decodes_to_something_else() -> None:
    run("encode", "photo.png", "p.umc", "--raw")
    run("decode", "p.umc", "original.png")
    data = Path("p.umc").read_bytes()
    random = np.random.default_rng(3)
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 1 << int(random.integers(8))
        Path("d.umc").write_bytes(damaged)
        code = run("decode", "d.umc", "d.png", "-f")
        assert code == 1 or Path("d.png").read_bytes() == Path("original.png").read_bytes()


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unimic.edge.commands.files.read_input", interrupt)
    assert run("info", "p.umc") == 130


def test_unexpected_errors_are_one_line(monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("unimic.edge.commands.files.read_input", fail)
    assert run("info", "p.umc") == 1
    assert capsys.readouterr().err == "unimic: error: unexpected RuntimeError: first second\n"


def test_models(capsys: pytest.CaptureFixture[str], raw_store: Path,
                monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run("models", "list", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert {model["name"] for model in facts["models"]} == {"image-tokenizer", "text-tokenizer"}
    assert run("models", "verify") == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(raw_store, damaged)
    with (damaged / "image-tokenizer" / "encoder.onnx").open("ab") as file:
        file.write(b"\0")
    monkeypatch.setenv("UNIMIC_MODELS", str(damaged))
    assert run("models", "verify") == 1
    assert "FAILED  image-tokenizer" in capsys.readouterr().out


def test_models_of_other_tokenizers_are_named(
        capsys: pytest.CaptureFixture[str], store: ModelStore, monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    manifest = json.loads((store.folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["models"]["compact"]["space"] = "00" * 8
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setenv("UNIMIC_MODELS", str(tmp_path))
    assert run("models", "list") == 0
    line, = (line for line in capsys.readouterr().out.splitlines() if "other tokenizers" in line)
    assert "compact" in line


def test_a_damaged_network_is_a_failed_check(capsys: pytest.CaptureFixture[str], store: ModelStore,
                                             monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                             ) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(store.folder, damaged)
    with (damaged / "text-entropy" / "step.onnx").open("ab") as file:
        file.write(b"\0")
    monkeypatch.setenv("UNIMIC_MODELS", str(damaged))
    assert run("models", "verify") == 1
    printed = capsys.readouterr().out
    assert "FAILED  text-entropy: its networks can be loaded" in printed
    assert "ok      text-tokenizer" in printed


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unimic.edge.cli", *arguments]


def test_pipes() -> None:
    data = Path("photo.png").read_bytes()
    coded = subprocess.run(command("encode", "-", "-", "--raw", "--json"), input=data,
                           capture_output=True, check=True)
    assert json.loads(coded.stderr)["width"] == 50
    back = subprocess.run(command("decode", "-", "-"), input=coded.stdout, capture_output=True,
                          check=True)
    assert not back.stderr  # no progress bar in a pipe
    assert Image.open(io.BytesIO(back.stdout)).size == (50, 37)


@pytest.mark.parametrize(("redirection", "words"), [
    ("decode p.umc - >/dev/full", "standard output: cannot be written (No space left"),
    ("info p.umc >/dev/full", "standard output: cannot be written (No space left"),
    ("decode p.umc - >&-", "standard output: is closed"),
    ("info p.umc >&-", "standard output: is closed"),
    ("info - <&-", "standard input: is closed")])
def test_standard_streams_that_fail(redirection: str, words: str) -> None:
    run("encode", "photo.png", "p.umc", "--raw")
    ended = subprocess.run(f"{shlex.join(command())} {redirection}", shell=True,
                           capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"unimic: error: {words}")
    assert ended.stderr.count("\n") == 1


def test_no_standard_error() -> None:
    ended = subprocess.run(f"{shlex.join(command('encode', 'photo.png', 'p.umc', '--raw'))} 2>&-",
                           shell=True, stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (0, b"")


@pytest.mark.parametrize("name", [f"back.{extension}" for extension in (
    "png", "jpg", "webp", "avif", "tif", "jp2", "gif", "bmp", "ppm")])
def test_every_format_keeps_the_size(name: str) -> None:
    run("encode", "photo.png", "p.umc", "--raw")
    assert run("decode", "p.umc", name) == 0
    assert Image.open(name).size == (50, 37)


@pytest.mark.parametrize("name", ["x.ico", "x.icns", "x.xbm", "x.palm", "x.pdf", "x.im"])
def test_formats_that_do_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("encode", "photo.png", "p.umc", "--raw", "--prompt", "not to be written as a picture")
    assert run("decode", "p.umc", name) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"unimic: error: {name}: ")
    assert "use .png" in err
    assert not Path(name).exists()
    assert picture_format(name) is None


@pytest.mark.parametrize("kind", MOST_PIXELS_A_SIDE)
def test_limits_of_formats_are_where_they_are_said_to_be(kind: str) -> None:
    most = MOST_PIXELS_A_SIDE[kind]
    for size in ((most, 1), (1, most)):
        data = picture_bytes(Image.new("RGB", size), kind)
        assert Image.open(io.BytesIO(data)).size == size
    for size in ((most + 1, 1), (1, most + 1)):
        with pytest.raises(InvalidInput, match=r"x\.y: .* use \.png"):
            picture_bytes(Image.new("RGB", size), kind, "x.y")


def test_an_encoder_that_fails() -> None:
    with pytest.raises(InvalidInput, match=r"x\.webp: cannot be written .* use \.png"):
        picture_bytes(Image.new("RGB", (0, 1)), "WEBP", "x.webp")


def test_a_picture_too_large_for_the_format_is_not_even_drawn(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was drawn")

    run("encode", "photo.png", "p.umc", "--raw")
    monkeypatch.setitem(MOST_PIXELS_A_SIDE, "WEBP", 49)
    monkeypatch.setattr("unimic.edge.image_tokenizer.ImageTokenizer.decode", fail)
    assert run("decode", "p.umc", "x.webp") == 1
    assert "x.webp: 50×37 pixels are more than the 49 a side that WEBP holds; use .png" in (
        capsys.readouterr().err)


def test_reader_that_goes_away() -> None:
    run("encode", "photo.png", "p.umc", "--raw")
    with subprocess.Popen(command("decode", "p.umc", "-"), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_demo_refuses_small_photos(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (15, 99)).save("small.png")
    assert run("demo", "--photo", "small.png", "--out", "out") == 1
    assert capsys.readouterr().err.startswith("unimic: error: small.png: 15×99 pixels are too few")


def test_demo_says_why_its_service_did_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--photo", "photo.png", "--out", "out") == 1
    err = capsys.readouterr().err
    assert "the service did not start (unimic: error: model: no 'compact'" in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_nothing_and_what_should_be_a_picture_are_no_texts(capsys: pytest.CaptureFixture[str]
                                                           ) -> None:
    for name, data, words in (("a.jpg", b"", "a.jpg: is not a picture"),
                              ("b.svg", b"<svg/>", "b.svg: is not a picture"),
                              ("c.ppm", b"P3 2 2 255 1 2", "c.ppm: the picture is damaged")):
        Path(name).write_bytes(data)
        assert main(["encode", name, "out.umc"]) == 1
        assert words in capsys.readouterr().err
        assert main(["encode", "--text", "--raw", name, f"{name}.umc"]) == 0


def test_a_file_that_is_overwritten_keeps_its_permissions() -> None:
    out = Path(f"{'o' * 250}.umc")  # as long as names may be
    Path("a.txt").write_text("a")
    out.write_bytes(b"")
    out.chmod(0o600)
    assert main(["encode", "--raw", "-f", "a.txt", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.stat().st_size


def test_a_folder_that_cannot_be_written_to_is_told_first(capsys: pytest.CaptureFixture[str]
                                                          ) -> None:
    assert main(["decode", "no-such.umc", "/proc/x.png"]) == 1
    assert "/proc: no file can be written there" in capsys.readouterr().err


def test_nothing_is_written_over_what_it_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    photo = Path("photo.png").read_bytes()
    Path("same.png").symlink_to("photo.png")
    for target in ("photo.png", "./photo.png", "same.png"):
        assert run("encode", "photo.png", target, "-f", "--raw") == 1
        assert "is IN itself" in capsys.readouterr().err
    run("encode", "photo.png", "p.umc", "--raw")
    assert run("decode", "p.umc", "p.umc", "-f") == 1
    assert Path("photo.png").read_bytes() == photo


def test_errors_name_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("a") / "b"
    folder.mkdir(parents=True)
    run("encode", "photo.png", str(folder / "p.umc"), "--raw")
    data = (folder / "p.umc").read_bytes()
    (folder / "p.umc").write_bytes(data[:-1])
    for arguments in (("info",), ("decode", "back.png")):
        assert run(arguments[0], str(folder / "p.umc"), *arguments[1:]) == 1
        assert capsys.readouterr().err.startswith("unimic: error: a/b/p.umc: crc: ")
    assert run("info", str(folder / "none.umc")) == 1
    assert capsys.readouterr().err.startswith("unimic: error: a/b/none.umc: cannot be read")


def test_a_file_name_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run("encode", "photo.png", "red\x1b[31m.umc", "--raw")
    capsys.readouterr()
    assert run("info", "red\x1b[31m.umc") == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("address", ["localhost", ":50051", "localhost:0", "localhost:65536", "",
                                     "http://localhost:50051", "b\udcff\udce9:1"])
def test_what_is_no_address(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "a red circle", "red.png", "--server", address) == 1
    err = capsys.readouterr().err
    assert "is no address; use host:port" in err
    assert err.count("\n") == 1


def test_the_current_folder_is_gone(tmp_path: Path) -> None:
    photo = Path("photo.png").absolute()
    gone = tmp_path / "gone"
    gone.mkdir()
    ended = subprocess.run(
        f"rmdir {gone}; {shlex.join(command('encode', str(photo), 'p.umc', '--raw'))}", shell=True,
        cwd=gone, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == ("unimic: error: the current folder is gone; change to one that is "
                            "there\n")


def test_errors_without_a_standard_error() -> None:
    ended = subprocess.run(f"{shlex.join(command('info', 'none.umc'))} 2>&-", shell=True,
                           stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_no_file_becomes_the_standard_error() -> None:
    code = ("import os; from unimic.edge.console import be_lenient; be_lenient()\n"
            "print(os.path.samestat(os.fstat(2), os.stat(os.devnull)))")
    ended = subprocess.run(f"{shlex.join([sys.executable, '-c', code])} <&- 2>&-", shell=True,
                           stdout=subprocess.PIPE)
    assert ended.stdout == b"True\n"


def test_onnx_runtime_keeps_no_record_of_the_device(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    subprocess.run(command("encode", "photo.png", "p.umc", "--raw"), check=True,
                   env=environment | {"HOME": str(home)})
    assert list(home.iterdir()) == []
