"""The commands that need a service, against a server process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_backend import draw, fake_models, reply
from PIL import Image

from unimic.codec import umc
from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import TokenGrid
from unimic.edge import Models, decode, encode_image
from unimic.edge.cli import build_parser, main
from unimic.edge.demo import demo


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Models, "load", classmethod(lambda cls, *_, **__: fake_models()))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save("p.png")


@pytest.fixture
def server(server_process, monkeypatch: pytest.MonkeyPatch):
    with server_process() as (address, _):
        monkeypatch.setenv("UNIMIC_SERVER", address)
        yield address


def test_tasks(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "p.png", "what is it?"]) == 0
    assert capsys.readouterr().out.startswith("what is it? →")
    assert main(["ask", "p.png", "--server", server, "what is it?"]) == 0
    assert capsys.readouterr().out.startswith("what is it? →")
    assert main(["ask", "p.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["answer"].startswith("a picture →")
    assert main(["ask", "p.png", "\x1b[31mred\x00?\n", "-v"]) == 0  # the answer repeats it
    told = capsys.readouterr()
    assert told.out.startswith("\ufffd[31mred\ufffd?\n →")
    assert "confidence: 0.50\nshare: up" in told.err
    assert facts["share"]["up_payload_bytes"] > 0

    grid = TokenGrid(np.arange(12, dtype=np.int32).reshape(3, 4), 64, 48)
    Path("p.umc").write_bytes(encode_image(grid, fake_models()).data)
    assert main(["ask", "p.umc"]) == 0
    assert capsys.readouterr().out.strip() == reply("", grid.codes)
    assert main(["outpaint", "p.umc", "p-wide.png", "--right", "16"]) == 0
    assert Image.open("p-wide.png").size == (80, 48)
    assert main(["inpaint", "p.umc", "made.umc", "--box", "16,16,32,32", "--seed", "2"]) == 0
    made = decode("made.umc", fake_models()).grid
    assert np.argwhere(made.codes != grid.codes).tolist() == [[1, 1]]
    assert main(["generate", "a dog", "dog.umc", "--size", "80x33", "--seed", "2"]) == 0
    assert (decode("dog.umc", fake_models()).grid.codes == draw("a dog", 2, (3, 5))).all()

    photo = np.asarray(Image.open("p.png"))
    assert main(["inpaint", "p.png", "box.png", "--box", "16,16,32,32", "--seed", "2"]) == 0
    edited = np.asarray(Image.open("box.png"))
    same = (edited == photo).all(2)
    same[16:32, 16:32] = True
    assert same.all()
    assert (edited != photo).any()
    mask = Image.new("L", (64, 48))
    mask.paste(255, (16, 16, 32, 32))
    mask.save("mask.png")
    assert main(["inpaint", "p.png", "mask-out.png", "--mask", "mask.png", "--seed", "2"]) == 0
    assert (np.asarray(Image.open("mask-out.png")) == edited).all()
    layer = Image.new("RGBA", (64, 48), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (16, 16, 32, 32))
    layer.save("layer.png")
    assert main(["inpaint", "p.png", "layer-out.png", "--mask", "layer.png", "--seed", "2"]) == 0
    assert (np.asarray(Image.open("layer-out.png")) == edited).all()

    assert main(["outpaint", "p.png", "wide.webp", "--left", "10", "--bottom", "16"]) == 0
    assert Image.open("wide.webp").size == (74, 64)
    assert main(["generate", "a dog", "dog.jpg", "--size", "80x33", "-v"]) == 0
    assert Image.open("dog.jpg").size == (80, 33)
    assert "task: up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["ask", "missing.png"], "missing.png: cannot be read"),
     (["ask", "text.png"], "text.png: is not a picture"),
     (["ask", "cut.umc"], "cut.umc: "),
     (["inpaint", "p.png", "x.png", "--mask", "text.png"], "text.png: is not a picture"),
     (["inpaint", "-", "x.png", "--mask", "-"], "--mask: standard input is the picture"),
     (["generate", "a dog", ""], "OUT: is empty"),
     (["demo", "--photo", "p.png", "--out", "text.png"], "text.png: no folder can be made there"),
     (["demo", "--photo", "p.png", "--out", "text.png/x"], "text.png/x: no folder can be made"),
     (["inpaint", "p.png", "x.png", "--box", "0,0,100,100"], "mask: the box"),
     (["outpaint", "p.png", "x.png"], "margins"),
     (["generate", "refuse", "x.png"], "prompt: is not nice"),
     (["generate", "a dog", "p.png"], "p.png: exists")])
def test_errors(server: str, arguments: list[str], words: str,
                capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("words")
    Path("cut.umc").write_bytes(umc.MAGIC)
    if arguments[0] == "demo":
        arguments = [*arguments, "--server", server]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("unimic: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not Path("x.png").exists()


def test_the_folder_of_a_demo_is_made_before_any_turn(server: str, monkeypatch: pytest.MonkeyPatch,
                                                      ) -> None:
    def stop(*_: object) -> None:
        assert Path("out").is_dir()
        raise InvalidInput("turns", "are not taken", "stop here")

    monkeypatch.setattr("unimic.edge.demo._converse", stop)
    for _ in range(2):  # an empty folder is no reason to ask for -f
        with pytest.raises(InvalidInput, match="turns"):
            demo(build_parser(["demo"]).parse_args(
                ["demo", "--photo", "p.png", "--out", "out", "--server", server]))


@pytest.mark.parametrize("arguments", [
    ["generate", "a dog", "x.jpg", "--size", "65501x1"],
    ["outpaint", "p.png", "x.webp", "--left", "16320"],
    ["inpaint", "wide.png", "x.webp", "--box", "0,0,1,1"],
    ["generate", "a dog", "x.ico"]])
def test_what_the_output_cannot_hold_is_told_before_anything_is_sent(
        arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (16384, 1)).save("wide.png")
    assert main([*arguments, "--server", "127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("unimic: error: x.")
    assert "use .png" in err


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "p.png", "--server", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1: UNAVAILABLE" in capsys.readouterr().err


def test_development_certificates(tmp_path: Path, server_process,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parent.parent.parent / "deploy" / "make-dev-certs.sh"
    subprocess.run([script, tmp_path / "certs"], check=True, capture_output=True)
    with server_process("--tls", str(tmp_path / "certs"), "--mutual") as (address, _):
        port = address.rpartition(":")[2]
        known = ["--tls-cert", "certs/client.pem", "--tls-key", "certs/client.key"]
        trust = ["--server", f"localhost:{port}", "--tls-ca", "certs/ca.pem"]
        assert main(["ask", "p.png", *trust, *known]) == 0
        assert "a picture" in capsys.readouterr().out
        assert main(["ask", "p.png", *trust]) == 1  # the server does not know us
        assert "UNAVAILABLE" in capsys.readouterr().err
