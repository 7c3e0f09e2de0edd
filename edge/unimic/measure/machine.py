"""What measured: command, machine, versions."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from unimic.codec.version import __version__

_PACKAGES = ("numpy", "pillow", "onnxruntime", "constriction", "bjontegaard", "easy-vqa",
             "opencv-python-headless", "pycocoevalcap")


def command() -> str:
    """The command line of this process."""
    return shlex.join(["unimic", *sys.argv[1:]])


def describe() -> str:
    """Processor, cores, system and time."""
    lines = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if lines.exists():
        names = [line.partition(":")[2].strip() for line in lines.read_text().splitlines()
                 if line.startswith("model name")]
        model = names[0] if names else model
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return f"{model}, {os.cpu_count()} cores, {platform.system()}; {now}"


def versions(*others: Mapping[str, str]) -> dict[str, str]:
    """Of Python, this package, what it always uses, and ``others``."""
    found = {"unimic": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for more in others:
        found |= more
    return found
