"""Run in an environment that has nothing but the edge extra (`make test-edge`)."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from unimic.edge import Client
from unimic.edge.cli import main

folder = tempfile.TemporaryDirectory()  # goes when the process does
os.chdir(folder.name)
Image.linear_gradient("L").resize((200, 120)).save("photo.png")
Path("notes.txt").write_text("Two dogs run on a beach. 漢字\n", encoding="utf-8")
for source, target in (("photo.png", "back.png"), ("notes.txt", "back.txt")):
    if main(["encode", source, "p.umc", "-f"]) or main(["decode", "p.umc", target]):
        sys.exit(f"{source} did not come back")
if Path("back.txt").read_bytes() != Path("notes.txt").read_bytes():
    sys.exit("the text has changed")
if Image.open("back.png").size != (200, 120):
    sys.exit("the picture has another size")
if main(["models", "verify"]):
    sys.exit("the models do not pass")
if Client is None or find_spec("torch") or "torch" in sys.modules:
    sys.exit("torch is here")
print("edge works by itself")
