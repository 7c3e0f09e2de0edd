"""Read exported weights back, so that a training can go on from the shipped model.

Checkpoints are large and stay with whoever trained; the exported models are everyone's. Rounding
costs little: a few hundred steps make up for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import RESIDUAL_SCALE, Embedding, Linear
from unimic.cloud.models.image_tokenizer import ImageTokenizer
from unimic.cloud.models.refiner import Refiner
from unimic.codec.errors import CorruptData
from unimic.codec.store import DECODER, ENCODER, REFINER

N = TypeVar("N", bound=nn.Module)
_ANOTHER = "name one of the training that makes it"


def _initializers(path: Path) -> dict[str, Tensor]:
    """Weights of a graph by parameter name, 8-bit ones expanded."""
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    weights: dict[str, Tensor] = {}
    for name, values in arrays.items():
        plain = name.removesuffix("_integers")
        if plain != name:
            values = values * arrays[f"{plain}_scale"]
        elif name.removesuffix("_scale") + "_integers" in arrays:
            continue
        weights[plain.removeprefix("network.")] = torch.from_numpy(values.astype(np.float32))
    return weights


def load_image_tokenizer(path: Path) -> ImageTokenizer:
    """The tokenizer of an exported folder or of the averaged weights of a training checkpoint.

    Raises:
        OSError: the files cannot be read.
        CorruptData: they lack a parameter of the model.
    """
    weights = (_initializers(path / ENCODER) | _initializers(path / DECODER)
               if path.is_dir() else averaged(path))
    return filled(ImageTokenizer(), weights, path).eval()


def made_by(tokenizer: nn.Module) -> str:
    """What tells tokens of one image tokenizer from those of another.

    It is that of its encoder in the bytes that are exported, so that a checkpoint and what is
    exported of it, also with a polished decoder, are one.
    """
    return _digest(tokenizer.get_submodule("encoder").state_dict())


def made_by_exported(folder: Path) -> str:
    """`made_by` of the image tokenizer of a store, ours or Show-o's; empty if it is another."""
    part = "encoder."
    weights = _initializers(folder / ENCODER)
    own = {name.removeprefix(part): values for name, values in weights.items()
           if name.startswith(part)}
    return _digest(own) if own else ""


def _digest(encoder: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.items()):
        values = tensor.float().numpy(force=True)
        digest.update(name.encode())
        digest.update((in_bytes(values)[0] if values.ndim == 4 else values).tobytes())
    return digest.hexdigest()[:16]


def in_bytes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a convolution as 8-bit integers, and the scale of each output."""
    scale = np.abs(values).max((1, 2, 3), keepdims=True) / np.float32(127) + np.float32(1e-12)
    return np.round(values / scale).astype(np.int8), scale


def load_refiner(path: Path) -> Refiner:
    """The refinement network of an exported folder or of a checkpoint of ``train_painter``.

    One of fewer channels is widened.

    Raises:
        OSError, CorruptData: as `load_image_tokenizer`; also if it has more channels than ours.
    """
    model = Refiner()
    weights = (_initializers(path / REFINER) if path.is_dir() else
               averaged(path, "refiner_average"))
    with _belonging(path, model):
        weights = {name: _widened(weights[name], wide.shape)
                   for name, wide in model.state_dict().items()}
    return filled(model, weights, path).eval()


def _widened(narrow: Tensor, shape: torch.Size) -> Tensor:
    """A parameter of a network of more channels, which begins by doing what the narrow one does.

    The new channels repeat the old ones, and nobody listens to them yet (Chen et al., "Net2Net",
    arXiv 1511.05641, section 2.2). So normalisation finds nearly the same statistics.
    """
    rows = narrow[torch.arange(shape[0]) % len(narrow)]
    wide = rows.new_zeros(shape)
    wide[tuple(map(slice, rows.shape))] = rows
    return wide


def averaged(checkpoint: Path, network: str = "average") -> dict[str, Tensor]:
    """The averaged weights of a training checkpoint, of the ``network`` that is called so.

    Raises:
        OSError, CorruptData: as `read_checkpoint`; also if it has none that is called so.
    """
    saved = read_checkpoint(checkpoint)
    if network not in saved:
        raise CorruptData(str(checkpoint), f"has no {network!r}", _ANOTHER)
    weights: dict[str, Tensor] = saved[network]
    return weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a training saved.

    Raises:
        OSError: the file cannot be read.
        CorruptData: it is no checkpoint, or a damaged one.
    """
    with path.open("rb") as file:
        try:
            saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # the ways to fail are many
            raise CorruptData(str(path), "is no whole checkpoint", _ANOTHER) from error
    return saved


def filled(network: N, weights: Mapping[str, Tensor], path: Path) -> N:
    """``network`` with those of ``weights``, of the file ``path``, that it has.

    Raises:
        CorruptData: some are missing or have other shapes.
    """
    with _belonging(path, network):
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


@contextmanager
def _belonging(path: Path, network: nn.Module) -> Iterator[None]:
    try:
        yield
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise CorruptData(str(path), f"does not hold the weights of this {type(network).__name__}",
                          _ANOTHER) from error


@torch.no_grad()
def load_exact(weights: Path, network: nn.Module) -> None:
    """Fill a trainable entropy network from the integers of its ``weights.safetensors``.

    Raises:
        CorruptData: the file lacks a parameter of the network.
    """
    with _belonging(weights, network):
        _expand(load_file(weights), network)


def _expand(integers: Mapping[str, Tensor], network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, Linear):
            scale = integers[f"{name}.multiplier"] * (module.in_scale / module.out_scale)
            module.weight.copy_(integers[f"{name}.weight"] * scale[:, None])
            if module.bias is not None:
                module.bias.copy_(integers[f"{name}.bias"] * scale / module.in_scale)
        elif isinstance(module, Embedding):
            module.weight.copy_(integers[f"{name}.weight"] / RESIDUAL_SCALE)
