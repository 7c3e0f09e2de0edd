"""The main job, end to end, with the shipped models and a server in its own process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unimic.edge.cli import main


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.linear_gradient("L").resize((176, 144)).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    arguments = ["demo", "--photo", str(tmp_path / "photo.png"), "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    turns = {turn["turn"]: turn for turn in json.loads(capsys.readouterr().out)["turns"]}
    assert list(turns) == ["share", "ask", "inpaint", "outpaint", "generate"]
    for name, way in (("share", "up"), ("generate", "down"), ("inpaint", "down")):
        cost = turns[name]
        # The shortest bytes in an interval may be luckily short: by 16 bits once in 65,536 times.
        assert 0 < cost[f"{way}_ideal_bits"] <= 8 * cost[f"{way}_payload_bytes"] + 16
        assert cost[f"{way}_payload_bytes"] < cost[f"{way}_wire_bytes"]
    # 99 tokens went up once; the edit of some of them brings back only those.
    assert turns["inpaint"]["down_payload_bytes"] < turns["share"]["up_payload_bytes"]
    assert Image.open(out / "outpainted.png").size == (176 + 64, 144)
    assert {path.stem for path in out.iterdir()} == {
        "original", "decoded", "inpainted", "outpainted", "generated", "contact-sheet"}
    assert main(arguments) == 1  # it does not overwrite unless told to
    assert "use -f" in capsys.readouterr().err
