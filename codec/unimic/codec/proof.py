"""Proof that an exact network cannot leave the integers that floats add exactly.

For each output of each matrix product: Σ|weight| · max|input| + |bias| < 2²⁴. The largest input is
the bound that the network clamps to. From these follow the bounds of what is done with outputs:
queries and keys are turned by cosines and sines of 7 binary digits; layers are added up, and their
squares summed in float64. The weights file has all that this takes; what its metadata says of the
graphs, which clamp inputs, weights and values, golden vectors check.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

LIMIT = 2**24
BYTE_MAX = 255
TABLE_MAX = 127  # of a row of the embedding table; two are added
ROTATION_ONE = 128  # cosines and sines are integers over this


@dataclass(frozen=True)
class Bound:
    """The largest magnitude that a partial sum of one part can reach."""

    part: str
    largest: int
    limit: int = LIMIT

    @property
    def holds(self) -> bool:
        """Whether floats add the part's integers exactly, in any order."""
        return self.largest < self.limit


METADATA = "unimic"
"""The one key of the metadata: safetensors writes several in no certain order, and the file's hash
names the model."""


def facts(weights: Path) -> dict[str, dict[str, int]]:
    """Of a ``weights.safetensors``.

    Returns:
        ``config``, its sizes; ``input_bounds`` of its layers; of attention, for its ``logits`` the
        largest ``query`` and ``key`` and how many ``channels``, for its ``mixture`` the largest
        ``weight`` and ``value`` and how many ``keys``.
    """
    with safe_open(weights, framework="numpy") as file:
        found: dict[str, dict[str, int]] = json.loads(file.metadata()[METADATA])
    return found


def prove(weights: Path) -> list[Bound]:
    """The bounds of every sum in the network of a ``weights.safetensors``."""
    known, tensors = facts(weights), load_file(weights)
    bounds = [Bound(part, math.prod(known[part].values())) for part in ("logits", "mixture")]
    together = 2 * TABLE_MAX
    layers = [name.removesuffix(".multiplier") for name in sorted(tensors)
              if name.endswith(".multiplier")]
    for layer in layers:
        weight = tensors[f"{layer}.weight"].astype(np.int64)
        sums = np.abs(weight).sum(1) * known["input_bounds"].get(layer, BYTE_MAX)
        if f"{layer}.bias" in tensors:
            sums += np.abs(tensors[f"{layer}.bias"].astype(np.int64))
        bounds.append(Bound(layer, int(sums.max())))
        outputs = np.nan_to_num(sums * np.abs(tensors[f"{layer}.multiplier"]), nan=np.inf)
        output = int(min(outputs.max(), LIMIT)) + 1
        together += output
        if layer.endswith((".query", ".key")):
            bounds.append(Bound(f"{layer}, turned", 2 * ROTATION_ONE * output))
    bounds.append(Bound("squares of all outputs together",
                        known["config"]["width"] * together**2, 2**53))
    return bounds
