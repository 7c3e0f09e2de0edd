"""Single pictures through the video encoders of FFmpeg, as raw bitstreams.

Colour is converted here, so that every encoder gets the same samples: full-range BT.709, 4:2:0,
10 bits. Nothing about it is written into the bitstream; both sides know.
"""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PEAK = 1023
# RGB in [0, 1] to Y in [0, 1], Cb and Cr in [-½, ½]: BT.709.
_TO_YCC = np.array([[0.2126, 0.7152, 0.0722],
                    [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.5],
                    [0.5, -0.7152 / 1.5748, -0.0722 / 1.5748]])
_TO_RGB = np.linalg.inv(_TO_YCC)


@dataclass(frozen=True)
class Program:
    """An FFmpeg and its version."""

    path: str
    version: str


@cache
def _program() -> tuple[Program, str]:
    try:
        path = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ImportError("pip install imageio-ffmpeg") from error
    told = _run([path, "-version"], b"").decode().split()
    return Program(path, told[2]), _run([path, "-hide_banner", "-encoders"], b"").decode()


def find(encoder: str, codec: str) -> Program:
    """An FFmpeg with ``encoder`` that also decodes ``codec``.

    Raises:
        ImportError: there is none.
    """
    program, encoders = _program()
    if f" {encoder} " not in encoders:
        raise ImportError(f"pip install an imageio-ffmpeg whose FFmpeg has {encoder}")
    return program


def encode(program: Program, image: Image.Image, format_: str, encoder: str,
           options: list[str]) -> bytes:
    """The raw bitstream of a picture, whose last lines are repeated as `_padded` says."""
    width, height = _padded(image.size)
    with tempfile.TemporaryDirectory() as folder:  # encoders print warnings to standard output
        path = Path(folder) / "picture"
        _run([program.path, *_QUIET, "-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s",
              f"{width}x{height}", "-r", "1", "-i", "-", "-c:v", encoder, *options,
              "-f", format_, str(path)], _to_planes(image, width, height))
        return path.read_bytes()


def decode(program: Program, data: bytes, format_: str, size: tuple[int, int]) -> Image.Image:
    """The picture, of ``size``, of a bitstream of `encode`."""
    planes = _run([program.path, *_QUIET, "-threads", "1", "-f", format_, "-i", "-",
                   "-pix_fmt", "yuv420p10le", "-f", "rawvideo", "-"], data)
    return _from_planes(planes, size)


_QUIET = ["-hide_banner", "-loglevel", "error", "-nostdin"]


def _run(command: list[str], data: bytes) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"ffmpeg: {lines[-1]}")
    return done.stdout


def _padded(size: tuple[int, int]) -> tuple[int, int]:
    """Even sides, for the chroma, of at least 16, for x265."""
    width, height = (max(16, side + side % 2) for side in size)
    return width, height


def _to_planes(image: Image.Image, width: int, height: int) -> bytes:
    rgb = np.asarray(image, np.float32) / 255
    rgb = np.pad(rgb, ((0, height - image.height), (0, width - image.width), (0, 0)), mode="edge")
    ycc = rgb @ _TO_YCC.T.astype(np.float32)
    chroma = ycc[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3)) + 0.5
    planes = [ycc[..., 0], chroma[..., 0], chroma[..., 1]]
    return b"".join(np.rint(plane * _PEAK).clip(0, _PEAK).astype("<u2").tobytes()
                    for plane in planes)


def _from_planes(planes: bytes, size: tuple[int, int]) -> Image.Image:
    width, height = _padded(size)
    integers = np.frombuffer(planes, "<u2")
    samples: NDArray[np.float32] = integers.astype(np.float32) / np.float32(_PEAK)
    if samples.size != width * height * 3 // 2:
        raise RuntimeError("ffmpeg: the decoded picture has another size")
    luma, first, second = np.split(samples, [width * height, width * height * 5 // 4])
    ycc: NDArray[np.float32] = np.stack([luma.reshape(height, width),
                    _enlarge(first, width, height), _enlarge(second, width, height)], -1)
    rgb: NDArray[np.float32] = ycc @ _TO_RGB.T.astype(np.float32)
    pixels = np.rint(rgb * 255).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels[:size[1], :size[0]])


def _enlarge(chroma: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    plane = Image.fromarray(chroma.reshape(height // 2, width // 2))
    return np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC)) - np.float32(0.5)
