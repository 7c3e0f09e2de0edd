"""Counting bytes, comparing sessions; the services here are stand-ins."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import socketserver
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.tokens import TokenGrid, TokenSpace
from unimic.edge import console
from unimic.edge.connection import ServiceError
from unimic.measure import choose, cli, codecs, entropy, session, session_report, sessions
from unimic.measure.codecs import Codec, Encoded, Setting, Variant
from unimic.measure.metrics import METRICS
from unimic.measure.proxy import CountingProxy
from unimic.measure.session import Settings, Turn

PATCH = 16
PSNR, LPIPS = METRICS["psnr"], METRICS["lpips-vgg"]


class Echo(socketserver.StreamRequestHandler):
    """Answers every line twice."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(2 * line)


@pytest.fixture
def echo() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_proxy_counts_every_byte(echo: str) -> None:
    with CountingProxy(echo) as proxy:
        host, _, port = proxy.address.rpartition(":")
        for _ in range(2):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"x" * 99_999 + b"\n")
                received = client.makefile("rb")
                assert len(received.readline() + received.readline()) == 200_000
        assert (proxy.up, proxy.down) == (200_000, 400_000)


def test_proxy_without_a_server() -> None:
    with CountingProxy("127.0.0.1:1") as proxy:
        host, _, port = proxy.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            assert client.recv(1) == b""
    with pytest.raises(InvalidInput, match="--server: 'somewhere' has no port"):
        CountingProxy("somewhere")


def test_bytes_of_the_same_session_in_pictures(photo: Image.Image) -> None:
    (variant,), _ = codecs.find(["jpeg"])
    edited = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    choice, = choose.within([variant], photo, [3000])
    box = edited.crop((8, 8, 40, 24))
    turns = [Turn("share", {}, photo, None, None), Turn("ask", {}, photo, None, None),
             Turn("inpaint", {}, photo, edited, box), Turn("generate", {}, None, edited, edited)]
    found = session.picture_bytes(turns, choice)
    first, second, third = (len(variant.encode(p, choice.setting).data)
                            for p in (photo, edited, box))
    assert found["sends_changes"] == [first, 0, third, second]
    assert found["keeps_pictures"] == [first, 0, second, second]
    assert found["keeps_nothing"] == [first, first, first + second, second]


class Cloud:
    """A client whose edits are noise, whose tokens are means, and whose answers are colours."""

    def __init__(self, *_: object, **__: object) -> None:
        self.shares: list[int | None] = []

    def __enter__(self) -> Cloud:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def share(self, image: Image.Image, quality: int = 100, budget: int | None = None) -> Any:
        self.shares.append(budget)
        wire = 40 if budget is None else budget
        stats = SimpleNamespace(up=SimpleNamespace(wire_bytes=wire))
        return SimpleNamespace(image=image, grid=tokens(image), stats=stats)

    def inpaint(self, picture: Any, box: tuple[int, int, int, int], prompt: str, seed: int) -> Any:
        edited = picture.image.copy()
        noise = np.random.default_rng(seed).integers(
            0, 256, (box[3] - box[1], box[2] - box[0], 3), dtype=np.uint8)
        edited.paste(Image.fromarray(noise), box[:2])
        return SimpleNamespace(image=edited, grid=tokens(edited))


def tokens(image: Image.Image) -> TokenGrid:
    small = image.convert("L").reduce(PATCH)
    return TokenGrid(np.asarray(small, np.int32), image.width, image.height)


def draw(grid: TokenGrid) -> Image.Image:
    small = Image.fromarray(grid.codes.astype(np.uint8)).convert("RGB")
    return small.resize((grid.width, grid.height))


def nobody(done: int, all_: int) -> None:
    """Nobody watches."""


def test_drift(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Client", Cloud)
    (variant,), _ = codecs.find(["jpeg/2"])
    choice, = choose.within([variant], photo, [1500])
    models: Any = SimpleNamespace(images=SimpleNamespace(decode=draw),
                                  coder=SimpleNamespace(space=TokenSpace(b"testtest")))
    left_out: dict[str, str] = {}
    rows = session.drift("nowhere", models, photo, 100, [choice], PSNR, 6, 1, left_out, nobody)
    assert not left_out
    assert [(row["codec"], row.get("setting"), row["turns"]) for row in rows] == [
        (*name, turns) for turns in (1, 5, 6)
        for name in (("unimic", None), ("jpeg/2", choice.setting))]
    ours, theirs = rows[::2], rows[1::2]
    assert all(row["changed_tokens"] == 0 for row in ours)
    assert len({row["psnr"] for row in ours}) == 1
    assert theirs[0]["psnr"] > theirs[1]["psnr"]  # it is scaled and coded anew each time
    with pytest.raises(InvalidInput, match="too narrow"):
        session.drift("nowhere", models, photo.crop((0, 0, 20, 90)), 100, [choice], PSNR, 1, 1,
                      {}, nobody)


def sometimes(name: str, calls: int) -> Codec:
    """Sends every pixel; encodes so many times."""
    left = iter(range(calls))

    def encode(image: Image.Image, setting: Setting) -> Encoded:
        if next(left, None) is None:
            raise RuntimeError("no licence")
        return Encoded(image.tobytes())

    return Codec(name, [0], [0], encode, lambda data, size: Image.frombytes("RGB", size, data), {})


def coarse(name: str) -> Codec:
    """Sends the mean colour."""
    return Codec(name, [0], [0],
                 lambda image, _: Encoded(bytes(np.asarray(image).mean((0, 1)).astype(np.uint8))),
                 lambda data, size: Image.new("RGB", size, tuple(data)), {})


def test_codecs_that_fail_or_are_too_coarse_are_left_out(
        photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Client", Cloud)
    turns = [Turn("share", {"turn": "share", "up_bytes": 9, "down_bytes": 1}, photo, None, None)]
    monkeypatch.setattr(session, "converse", lambda *_: turns)
    near = photo.resize((48, 40)).resize(photo.size)  # what our tokens show

    class Images(SimpleNamespace):
        encode = staticmethod(lambda image, pitch: image)
        decode = staticmethod(lambda grid: near if grid is photo else draw(grid))

    models: Any = SimpleNamespace(images=Images(),
                                  coder=SimpleNamespace(space=TokenSpace(b"testtest")))
    families = [[Variant(sometimes(name, calls))] for name, calls in
                (("never", 0), ("once", 1), ("twice", 2), ("always", 99))]
    families.append([Variant(coarse("too coarse"))])
    facts = session.measure("nowhere", models, photo, Settings(100, PSNR, 2, 1, families),
                            console.progress)
    ours = facts["value"]
    assert [other["codec"] for other in facts["others"]] == ["twice", "always"]
    assert [(row["codec"], row.get("setting")) for row in facts["drift"]] == [
        ("unimic", None), ("always", 0)] * 2
    assert facts["left_out"] == {
        **dict.fromkeys(("never", "once", "twice"), "RuntimeError: no licence"),
        "too coarse": f"none of its settings reaches our PSNR, dB: {ours:.2f}"}
    results = of_sessions("psnr", facts)
    assert "left out: never: RuntimeError: no licence" in session_report.text(results)
    assert "too coarse" in session_report.html(results)


def test_what_is_wrong_shows_before_the_session(
        photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, models: object) -> None:
        raise InvalidInput(address, "nobody is there", "start it")

    monkeypatch.setattr(session, "converse", lambda *_: pytest.fail("it began"))
    models: Any = SimpleNamespace(coder=SimpleNamespace(space=TokenSpace(b"testtest")))
    settings = Settings(100, LPIPS, 1, 1, [])
    for size in (48, 48), (63, 99), (99, 31):
        with pytest.raises(InvalidInput, match=r"use one of at least 64×32 pixels"):
            session.measure("nowhere", models, photo.resize(size), settings, console.progress)
    monkeypatch.setattr(session, "Client", refuse)
    with pytest.raises(InvalidInput, match=r"^nowhere: nobody is there"):
        session.measure("nowhere", models, photo.resize((64, 32)), settings, console.progress)


def test_edits_stay_in_their_half() -> None:
    for width, height, left in ((256, 256, 128), (64, 48, 32), (33, 20, 16)):
        for turn in range(1, 9):
            box = session._box((width, height), left, turn)
            assert left <= box[0] < box[2] <= width
            assert 0 <= box[1] < box[3] <= height


def test_a_dictionary_helps_zstd() -> None:
    pytest.importorskip("zstandard")
    known = [f"a dog number {i} runs on the beach and plays".encode() for i in range(2000)]
    found = dict(entropy.compressors(known))
    text = b"a dog runs on the beach"
    assert len(found["zstd with a dictionary"](text)) < len(found["zstd"](text))
    assert zlib.decompress(found["zlib"](text), -zlib.MAX_WBITS) == text  # nothing around it
    assert len(found["xz"](text)) < len(text) + 8
    assert "zstd with a dictionary" not in dict(entropy.compressors([]))
    with pytest.raises(InvalidInput, match="--dictionary: zstd cannot learn from it"):
        dict(entropy.compressors(known[:2]))


def measure(*arguments: object) -> int | None:
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers())
    args = parser.parse_args(["measure", *map(str, arguments)])
    code: int | None = args.run(args)
    return code


def test_entropy_of_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (16, 16), "teal").save(tiny)
    (tmp_path / "d").mkdir()
    texts = [tmp_path / "t.txt", tmp_path / "d" / "t.txt"]
    for path in texts:
        path.write_text(f"{path}\n")
    measure("entropy", "--images", tiny, tiny, "--texts", *texts, "--json")
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert facts["images"]["images"] == 1
    assert None in facts["images"].values()  # of its one token, nothing was masked
    assert [name for name in facts if name.startswith("texts")] == [f"texts {p}" for p in texts]
    measure("entropy", "--images", tiny)
    assert " –\n" in capsys.readouterr().out
    measure("entropy", "--texts", texts[0])
    printed = capsys.readouterr().out
    assert "bits per character: zlib " in printed
    assert len({len(line) for line in printed.splitlines()[1:]}) == 1  # figures in one column


def test_nothing_to_measure(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.txt", tmp_path / "text.txt"
    empty.write_text("\n\n")
    text.write_text("a dog\n")
    (tmp_path / "folder").mkdir()
    for arguments, said in (
            (["entropy", "--texts", empty], r"empty\.txt: is empty"),
            (["entropy", "--texts", text, "--dictionary", empty], r"empty\.txt: is empty"),
            (["entropy", "--images", tmp_path / "folder"], "folder without pictures"),
            (["speed", tmp_path / "folder"], "folder without pictures"),
            (["speed", tmp_path / "absent"], "absent: cannot be read")):
        with pytest.raises(InvalidInput, match=said):
            measure(*arguments)


@pytest.mark.parametrize("metric", ["lpips-vgg", "lpips-alex", "psnr"])
def test_session_report(metric: str) -> None:
    facts = of_sessions(metric, held("photo.png", 320, [other("jpeg", 5, 1600, 3200, 6400)],
                                     [drifted(metric, 0.4)]))
    lines = "\n".join(session_report.text(facts))
    report = session_report.html(facts)
    assert "jpeg 5 1,600 5.0 3,200 10.0 6,400 20.0" in re.sub(" +", " ", lines)
    assert "axes need not begin at 0" in report
    for times in "5.0", "10.0", "20.0":
        assert f">{times}<" in report
    assert ("no evidence" in lines) == ("no evidence" in report) == (metric == "lpips-alex")
    assert set(session_report.plots(facts)) == {"drift-psnr", f"drift-{metric}"}


def of_sessions(metric: str, *found: dict[str, Any], failed: tuple[Any, ...] = ()
                ) -> dict[str, Any]:
    """Results."""
    return {"command": "unimic", "machine": "machine", "versions": {"unimic": "0"},
            "settings": {"equal": metric}, "failed": failed, "totals": sessions.totals(found),
            "sessions": [{"image": "photo.png", **session} for session in found]}


def held(image: str, ours: int, others: list[dict[str, Any]], drift: list[dict[str, Any]]
         ) -> dict[str, Any]:
    """A session of one turn."""
    return {"image": image, "turns": [{"turn": "share", "up_bytes": ours - 20, "down_bytes": 20}],
            "bytes": ours, "value": 0.4, "others": others, "drift": drift, "left_out": {}}


def other(codec: str, setting: Setting, changes: int, once: int, every: int) -> dict[str, Any]:
    return {"codec": codec, "setting": setting, "sends_changes": [changes],
            "keeps_pictures": [once], "keeps_nothing": [every]}


def drifted(metric: str, value: float, **codec: object) -> dict[str, Any]:
    codec = codec or {"codec": "unimic", "changed_tokens": 3}
    return {**codec, "turns": 1, "psnr": 20.0, metric: value}


def test_sessions_of_several_photos() -> None:
    """Each codec in all at its own settings; what was left out somewhere has no sum."""
    jpeg = {"codec": "jpeg", "setting": 5}, {"codec": "jpeg/2", "setting": 9}
    first = held("a/x.png", 100, [other("jpeg", 5, 200, 1000, 2000),
                                  other("vvc/2", 40, 300, 800, 1000)],
                 [drifted("dists", 0.1), drifted("dists", 0.5, **jpeg[0]),
                  drifted("dists", 0.9, codec="webp/2", setting=1)])
    second = held("b/x.png", 300, [other("jpeg/2", 9, 600, 1000, 2000),
                                   other("vvc", 41, 100, 1200, 3000),
                                   other("webp", 1, 50, 60, 70)],
                  [drifted("dists", 0.2), drifted("dists", 0.7, **jpeg[1])])
    assert sessions.totals([first, second]) == [
        {"codec": "unimic", **dict.fromkeys(session.WAYS, 400)},
        *({"codec": codec, **dict(zip(session.WAYS, sums, strict=True)),
           **{f"times_{way}": total / 400 for way, total in zip(session.WAYS, sums, strict=True)}}
          for codec, sums in (("jpeg", (800, 2000, 4000)), ("vvc", (400, 2000, 4000)),
                              (sessions.BEST, (250, 860, 1070))))]
    failed = {"image": "c/y.png", "error": "y.png: is not a picture; use one"}
    facts = of_sessions("dists", first, second | {"left_out": {"avif": "no licence"}},
                        failed=(failed,))
    lines = [" ".join(line.split()) for line in session_report.text(facts)]
    assert "a/x.png 0.4000 100 jpeg 5 2.0 vvc/2 40 8.0 vvc/2 40 10.0" in lines
    assert "b/x.png 0.4000 300 webp 1 0.2 webp 1 0.2 webp 1 0.2" in lines
    assert "unimic 1 0.1500 20.00 6" in lines
    assert "jpeg 1 0.6000 20.00 –" in lines
    assert not [line for line in lines if line.startswith("webp 1 ")]  # of one photo alone
    assert "left out: b/x.png, avif: no licence" in session_report.text(facts)
    assert "left out: c/y.png: y.png: is not a picture; use one" in session_report.text(facts)
    report = session_report.html(facts)
    assert "The same session with 2 photos" in report
    assert report.count("<details>") == 2
    assert sessions.totals([first | {"others": []}, second])[1:] == []


def test_sessions_go_on_after_a_broken_photo_and_an_interruption(
        tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    measured: list[tuple[int, int]] = []

    def of_photo(address: str, models: object, picture: Image.Image, *_: object
                 ) -> dict[str, Any]:
        if picture.size in measured:
            raise KeyboardInterrupt
        measured.append(picture.size)
        found = held("", 100 * len(measured), [other("jpeg", 5, 200, 1000, 2000)],
                     [drifted("psnr", 20.0)])
        del found["image"]
        return found

    monkeypatch.setattr(sessions, "measure", of_photo)
    monkeypatch.setattr("unimic.edge.demo.service", lambda server: contextlib.nullcontext("here"))
    folder, out, journal = (tmp_path / name for name in ("photos", "r.json", "r.jsonl"))
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    for name, size in (("b", (64, 64)), ("c", (70, 64)), ("d", (70, 64))):
        photo.resize(size).save(folder / f"{name}.png")
    options = ("session", folder, "--codecs", "jpeg", "--equal", "psnr", "--json", out)
    journal.write_text('{"made_by": {}, "codecs": {}}\n' + json.dumps(  # of another measurement
        {"image": str(folder / "b.png"), "content": "", "codec": "unimic", "setting": 100}) + "\n")
    with pytest.raises(KeyboardInterrupt):
        measure(*options, "--resume")
    assert not out.exists()
    kept = [json.loads(line) for line in journal.read_text().splitlines()][3:]
    assert [(Path(row["image"]).name, row["bytes"]) for row in kept] == [("b.png", 100),
                                                                         ("c.png", 200)]
    with pytest.raises(InvalidInput, match=r"r\.jsonl: exists; use --resume"):
        measure(*options)
    with pytest.raises(InvalidInput, match=r"was made with --edits 50, here is 4; use -f"):
        measure(*options, "--edits", 4, "--resume")
    measured.clear()
    (folder / "b.png").write_bytes((folder / "d.png").read_bytes())  # another photo
    (folder / "d.png").unlink()
    assert measure(*options, "--resume") == 1  # a.png
    assert measured == [(70, 64)]
    whole = json.loads(out.read_text())
    assert [(Path(row["image"]).name, row["bytes"]) for row in whole["sessions"]] == [
        ("b.png", 100), ("c.png", 200)]
    assert whole["sessions"][1] == kept[1]
    assert [Path(row["image"]).name for row in whole["failed"]] == ["a.png"]
    assert whole["totals"] == sessions.totals(whole["sessions"])
    told = capsys.readouterr()
    assert "left out: a.png: " in told.out
    assert re.search(r"^unimic: error: 1 of 3 photos .*a\.png: is not a picture", told.err, re.M)
    assert measure("session", folder / "b.png", *options[2:], "--resume") == 0
    (folder / "a.png").unlink()
    assert measure(*options, "--resume") == 0  # of c.png nothing is lost
    assert measured == [(70, 64)]
    measured.clear()
    assert measure("session", folder / "b.png", *options[2:], "-f") == 0
    assert measured == [(70, 64)]
    with pytest.raises(SystemExit):
        measure(*options, "--resume", "-f")


def test_sessions_without_anything_to_go_on_with(tmp_path: Path, photo: Image.Image) -> None:
    picture, out = tmp_path / "photo.png", tmp_path / "r.json"
    photo.save(picture)
    for more in (), ("--json", "-"):
        with pytest.raises(InvalidInput, match="--resume: there is no file to go on with"):
            measure("session", picture, "--resume", *more)
    (tmp_path / "no.png").write_bytes(b"")
    nobody_there = ("--codecs", "jpeg", "--equal", "psnr", "--server", "localhost:1", "--json", out)
    with pytest.raises(InvalidInput, match=r"no\.png: is not a picture"):
        measure("session", tmp_path / "no.png", *nobody_there)
    with pytest.raises(InvalidInput, match=r"photos: none of them .* first, .*no\.png: is not"):
        measure("session", tmp_path / "no.png", picture, *nobody_there)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".png"] == []


def test_ours_is_no_other_codec() -> None:
    for command in ("session", "photo.png"), ("tasks",):
        with pytest.raises(InvalidInput, match="--codecs: unimic is measured in any case"):
            measure(*command, "--codecs", "jpeg,unimic")


def test_metrics_that_others_cannot_be_equal_by(tmp_path: Path) -> None:
    for metric in "kid", "beauty":
        with pytest.raises(InvalidInput, match=f"--equal: '{metric}' is no metric of single .*; "
                           "use psnr, ms-ssim, lpips-vgg, dists, lpips-alex"):
            measure("session", tmp_path / "photo.png", "--equal", metric)


def test_errors_of_the_service_name_it_and_not_the_relay() -> None:
    with pytest.raises(ServiceError, match=r"^cloud:50051: UNAVAILABLE: gone") as caught, \
            session._named("cloud:50051"):
        raise ServiceError("127.0.0.1:4", grpc.StatusCode.UNAVAILABLE, "gone")
    assert caught.value.status is grpc.StatusCode.UNAVAILABLE
