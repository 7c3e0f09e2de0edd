"""The published files: where they are, and strict loading.

A checkpoint is a folder with ``config.json`` and weights, as it is on the Hugging Face Hub:
``showlab/show-o`` or ``showlab/show-o-512x512`` with its companions ``showlab/magvitv2`` and
``microsoft/phi-1_5``. On disk the companions lie beside it, as ``magvitv2`` and ``phi-1_5``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unimic.codec.errors import CorruptData, UnknownModel

MAGVIT, PHI = "showlab/magvitv2", "microsoft/phi-1_5"
DEFAULT = "showlab/show-o"
WEIGHTS = ("*.safetensors", "*.bin")
"""Patterns of weights; of several kinds the first is taken. Shards are put together."""


@dataclass(frozen=True)
class Checkpoint:
    """The three folders of one model."""

    show_o: Path
    magvit: Path
    phi: Path


def find_checkpoint(name: str | None) -> Checkpoint:
    """The checkpoint ``name``: a folder, or else a repository of the Hugging Face Hub.

    Args:
        name: ``showlab/show-o`` if it is None.

    Raises:
        UnknownModel: a folder is missing, or the Hub cannot be asked.
    """
    name = name or DEFAULT
    folder = Path(name)
    if not folder.is_dir():
        # Of Phi only the configuration and the tokenizer are needed.
        return Checkpoint(_download(name, "config.json", *WEIGHTS), find_magvit(name),
                          _download(PHI, "*.json", "*.txt"))
    return Checkpoint(folder, find_magvit(name), _companion(folder, "phi-1_5", PHI))


def find_magvit(name: str | None) -> Path:
    """The folder of the image tokenizer alone, by the name of its checkpoint.

    Raises:
        UnknownModel: as `find_checkpoint`.
    """
    folder = Path(name or DEFAULT)
    if not folder.is_dir():
        return _download(MAGVIT, "config.json", *WEIGHTS)
    return _companion(folder, "magvitv2", MAGVIT)


def _companion(folder: Path, name: str, source: str) -> Path:
    path = folder.resolve().parent / name
    if not path.is_dir():
        raise UnknownModel("--weights", f"there is no {path}", f"download {source} to that folder")
    return path


def _download(repository: str, *patterns: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise UnknownModel("--weights", f"there is no folder {repository}, and huggingface-hub is "
                           "not installed", "name a folder or install 'unimic[show-o]'") from error
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UnknownModel("--weights", f"{repository} is no folder, and the Hugging Face Hub does "
                           f"not give it ({reason})",
                           "name the folder of a downloaded checkpoint") from error


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnknownModel("--weights", f"cannot read {path} ({error.strerror})",
                           "name the folder of a whole checkpoint") from error
    except ValueError as error:
        raise CorruptData("--weights", f"{path} is no JSON ({error})",
                          "download it anew") from error
    if not isinstance(config, dict):
        raise CorruptData("--weights", f"{path} is no JSON object", "download it anew")
    return config


def load_strictly(module: nn.Module, folder: Path) -> None:
    """Give ``module`` the tensors of a checkpoint, which replace its own, also on ``meta``.

    Raises:
        UnknownModel: there are no weights in ``folder``.
        CorruptData: a file is damaged, or names and shapes are not exactly those of ``module``.
    """
    safe, pickled = (sorted(folder.glob(pattern)) for pattern in WEIGHTS)
    if not (files := safe or pickled):
        raise UnknownModel("--weights", f"{folder} has no weights ({' or '.join(WEIGHTS)})",
                           "download the whole checkpoint")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _read(file)
    expected = module.state_dict()
    problems = {
        "missing": expected.keys() - found.keys(),
        "left over": found.keys() - expected.keys(),
        "of another shape": {
            f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in expected.keys() & found.keys()
            if found[name].shape != expected[name].shape},
    }
    if any(problems.values()):
        raise CorruptData("--weights", f"{folder} does not fit: " + "; ".join(
            f"{what}: {', '.join(sorted(names))}" for what, names in problems.items() if names),
            "use the checkpoint of this model, whole and unchanged")
    module.load_state_dict(found, assign=True)


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            tensors: Mapping[str, Tensor] = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise CorruptData("--weights", f"{file} cannot be read ({error})",
                          "download it anew") from error
    if not isinstance(tensors, Mapping) or not all(
            isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CorruptData("--weights", f"{file} holds something other than tensors by name",
                          "download it anew")
    return tensors


def digest(module: nn.Module) -> str:
    """SHA-256 over the names and values of a module's tensors, whatever file they came from."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.cpu().contiguous().numpy().data)
    return hashed.hexdigest()
