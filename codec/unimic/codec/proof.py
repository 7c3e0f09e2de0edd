"""Proof that an exact network cannot leave the integers that float32 adds exactly.

For each output of each matrix product: Σ|weight| · max|input| + |bias| < 2²⁴. The largest input is
the bound that the network clamps to; weights and bounds are read from the weights file alone, so
the proof needs nothing of the program that made it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

LIMIT = 2**24


@dataclass(frozen=True)
class Bound:
    """The largest magnitude that a partial sum of one layer can reach."""

    layer: str
    largest: int

    @property
    def holds(self) -> bool:
        """Whether float32 adds the layer's integers exactly, in any order."""
        return self.largest < LIMIT


METADATA = "unimic"
"""The one key of the metadata: safetensors writes several in no certain order, and the file's hash
names the model."""


def facts(weights: Path) -> dict[str, dict[str, int]]:
    """Of a ``weights.safetensors``: ``config``, its sizes, and ``input_bounds`` of its layers."""
    with safe_open(weights, framework="numpy") as file:
        found: dict[str, dict[str, int]] = json.loads(file.metadata()[METADATA])
    return found


def prove(weights: Path) -> list[Bound]:
    """The bound of every matrix product of a ``weights.safetensors``."""
    inputs = facts(weights)["input_bounds"]
    tensors = load_file(weights)
    bounds = []
    for layer, largest_input in inputs.items():
        weight = tensors[f"{layer}.weight"].astype(np.int64)
        sums = np.abs(weight).sum(1) * largest_input
        if f"{layer}.bias" in tensors:
            sums += np.abs(tensors[f"{layer}.bias"].astype(np.int64))
        bounds.append(Bound(layer, int(sums.max())))
    return bounds
