"""Read exported weights back, so that a training can go on from the shipped model.

Checkpoints are large and stay with whoever trained; the exported models are everyone's. Rounding
costs little: a few hundred steps make up for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from unimic.cloud.models.image_tokenizer import ImageTokenizer


def _initializers(path: Path) -> dict[str, Tensor]:
    """Weights of a graph by parameter name, 8-bit ones expanded."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    weights: dict[str, Tensor] = {}
    for name, values in arrays.items():
        scale = arrays.get(name.replace("_integers", "_scale"))
        if name.endswith("_integers") and scale is not None:
            values = values * scale
        plain = name.removesuffix("_integers").removeprefix("network.")
        weights[plain] = torch.from_numpy(values.astype(np.float32))
    return weights


def load_image_tokenizer(folder: Path, model: ImageTokenizer) -> None:
    """Fill ``model`` from the ``encoder.onnx`` and ``decoder.onnx`` of an exported tokenizer.

    Raises:
        KeyError: The graphs lack a parameter of the model.
    """
    weights = _initializers(folder / "encoder.onnx") | _initializers(folder / "decoder.onnx")
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
