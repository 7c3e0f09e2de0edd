"""The exact networks, run by PyTorch on any device, and the coder of a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unimic.cloud.models.arithmetic import ExactEmbedding, ExactLinear, to_exact
from unimic.cloud.models.image_entropy import (
    ImageEntropyConfig,
    ImageEntropyNet,
    Memory,
)
from unimic.cloud.models.text_entropy import TextEntropyConfig, TextEntropyNet
from unimic.codec.coder import Coder, Drive, coder_of, load_coder
from unimic.codec.errors import InvalidInput
from unimic.codec.exactness import Executor
from unimic.codec.image_rows import Integers
from unimic.codec.networks import (
    IMAGE_ENTROPY,
    TEXT_ENTROPY,
    WEIGHTS,
    Floats,
    ImageNetwork,
    OnnxImageNetwork,
    OnnxTextNetwork,
    check_golden,
    configuration,
    image_layout,
)
from unimic.codec.store import ModelStore

MANY = 4
"""Windows from which a GPU is the faster one. It decodes eight in the time of one, 0.1 s, spent on
launching kernels; two CPU cores decode one in a quarter of that (docs/results.md, Time)."""


def load_device_coder(store: ModelStore, device: str, drive: Drive) -> Coder:
    """The coder of a service: ONNX Runtime on the CPU and, for many images at a time, a GPU.

    Texts are coded one by one, token after token: launching their steps would take longer.
    """
    if torch.device(device).type == "cpu":
        return load_coder(store, drive=drive)

    def load_image() -> ByNumber:
        network = ByNumber(OnnxImageNetwork(store), load_image_network(store, device))
        check_golden(store, IMAGE_ENTROPY, network.many)
        return network

    return coder_of(store, load_image, lambda: OnnxTextNetwork(store), drive)


class ByNumber:
    """`ImageNetwork` that has few windows at a time coded by one executor, many by another.

    Both compute the same integers, so nobody sees which of them did.
    """

    def __init__(self, few: ImageNetwork, many: ImageNetwork) -> None:
        self.few, self.many, self.layout = few, many, few.layout

    def read(self, rows: Integers, memory: tuple[ImageNetwork, Any] | None
             ) -> tuple[ImageNetwork, Any]:
        network, own = memory or (self.few if rows.shape[1] < MANY else self.many, None)
        return network, network.read(rows, own)

    def ask(self, rows: Integers, memory: tuple[ImageNetwork, Any]
            ) -> tuple[Floats, tuple[ImageNetwork, Any]]:
        network, own = memory
        logits, hidden = network.ask(rows, own)
        return logits, (network, hidden)

    def tail(self, hidden: tuple[ImageNetwork, Any], upper: Integers) -> Floats:
        network, own = hidden
        return network.tail(own, upper)


def executors(store: ModelStore, name: str, device: str) -> list[Executor]:
    """PyTorch on ``device``, one sequence at a time and in batches; and what a service with that
    device codes images with, where that is not the CPU alone. See `unimic models verify`."""
    check_device(device)
    software, batches = f"PyTorch on {device}", (1, 7, 64)
    if name == TEXT_ENTROPY:
        text = load_text_network(store, device)
        return [Executor(software, text, batch) for batch in batches]
    image = load_image_network(store, device)
    found = [Executor(software, image, batch) for batch in batches]
    if torch.device(device).type != "cpu":
        served = ByNumber(OnnxImageNetwork(store), image)
        found += [Executor(f"a service with {device}", served, batch) for batch in (1, 64)]
    return found


def check_device(name: str) -> None:
    """Raise `InvalidInput` unless this machine has the device, and it computes."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # by kind of device
        why = str(error).partition("\n")[0].partition(". ")[0]  # the rest is for programmers
        raise InvalidInput("--device", f"{name}: {why}",
                           "name a device of this machine, as cpu or cuda") from error


def load_image_network(store: ModelStore, device: str) -> TorchImageNetwork:
    """The store's image entropy model on ``device``."""
    weights = store.path(IMAGE_ENTROPY, WEIGHTS)
    network = ImageEntropyNet(ImageEntropyConfig(**configuration(weights)))
    return TorchImageNetwork(_load(network, weights, device))


def load_text_network(store: ModelStore, device: str) -> TorchTextNetwork:
    """The store's text entropy model on ``device``."""
    weights = store.path(TEXT_ENTROPY, WEIGHTS)
    network = TextEntropyNet(TextEntropyConfig(**configuration(weights)))
    return TorchTextNetwork(_load(network, weights, device))


def _load(network: Any, weights: Path, device: str) -> Any:
    to_exact(network)
    tensors = load_file(weights)
    rotations = tensors.pop("rotations")
    network.load_state_dict(tensors)
    network.rotations.copy_(rotations)
    for module in network.modules():
        if isinstance(module, (ExactLinear, ExactEmbedding)):
            module.weight = module.weight.float()  # once, not at every call
    # Matrix units that round their inputs to 10 bits are exact for bytes, which all factors are
    # (docs/results.md, Exactness). They save 3 %, since launches take the time: not worth trusting
    # those of every GPU.
    torch.backends.cuda.matmul.allow_tf32 = False
    return network.eval().to(device)


@contextmanager
def _plainly(device: torch.device) -> Iterator[None]:
    """Without gradients, nor the 16-bit products of an autocast that the caller may be in."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class TorchImageNetwork:
    """`unimic.codec.networks.ImageNetwork` on PyTorch; memories stay on the device."""

    def __init__(self, network: ImageEntropyNet) -> None:
        self.network = network
        self.device = network.rotations.device
        self.layout = image_layout(asdict(network.config))

    def _tensor(self, array: Integers) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def read(self, rows: Integers, memory: Memory | None) -> Memory:
        with _plainly(self.device):
            return self.network.content(
                *self._tensor(rows), *memory or self.network.empty_memory(rows.shape[1]))

    def ask(self, rows: Integers, memory: Memory) -> tuple[Floats, Tensor]:
        with _plainly(self.device):
            logits, hidden = self.network.query(*self._tensor(rows), *self.network.asked(memory))
        return logits.cpu().numpy(), hidden

    def tail(self, hidden: Tensor, upper: Integers) -> Floats:
        with _plainly(self.device):
            logits: Tensor = self.network.tail(hidden, self._tensor(upper))
        return logits.cpu().numpy()


class TorchTextNetwork:
    """`unimic.codec.networks.TextNetwork` on PyTorch."""

    def __init__(self, network: TextEntropyNet) -> None:
        self.network = network
        self.device = network.rotations.device
        self.positions = network.config.positions

    def step(self, ids: Integers, position: int, memory: Memory | None) -> tuple[Floats, Memory]:
        batch, count = ids.shape
        places = torch.arange(position, position + count, device=self.device).expand(batch, -1)
        with _plainly(self.device):
            logits, *seen = self.network.step(
                torch.from_numpy(ids).to(self.device), places,
                *(tensor[:batch] for tensor in memory or self.network.empty_memory(batch)))
        return logits.cpu().numpy(), tuple(seen)
