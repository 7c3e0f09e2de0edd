"""Tiny networks with the interfaces and the limited sight of the shipped ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from unimic.codec.tokens import TokenSpace


class TinyStore:
    """The part of `ModelStore` that the image tokenizer and the refiner need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = {path.name: None for path in folder.iterdir() if path.is_dir()}

    def space(self) -> TokenSpace:
        return TokenSpace(b"tinytiny")

    def fits(self, name: str) -> bool:
        return True

    def path(self, name: str, file: str) -> Path:
        return self.folder / name / file


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    folder = tmp_path_factory.mktemp("store")
    for name, write in (("image-tokenizer", write_tokenizer), ("image-refiner", write_refiner)):
        (folder / name).mkdir()
        write(folder / name)
    return TinyStore(folder)


def write_tokenizer(folder: Path) -> None:
    """Write ``encoder.onnx`` and ``decoder.onnx`` that see one token in each direction."""
    random = np.random.default_rng(0)
    one = np.ones((), dtype=np.float32)
    analysis = random.normal(size=(1, 3, 48, 48)).astype(np.float32)
    sight = {"kernel_shape": [48, 48], "strides": [16, 16], "pads": [16, 16, 16, 16]}
    _save(folder / "encoder.onnx", [("pixels", TensorProto.FLOAT, [1, 3, "H", "W"])],
          ("codes", TensorProto.INT32, [1, "h", "w"]),
          [helper.make_node("Conv", ["pixels", "analysis"], ["seen"], **sight),
           helper.make_node("Sigmoid", ["seen"], ["part"]),
           helper.make_node("Mul", ["part", "top"], ["scaled"]),
           helper.make_node("Cast", ["scaled"], ["whole"], to=TensorProto.INT32),
           helper.make_node("Squeeze", ["whole", "axis"], ["codes"])],
          {"analysis": analysis / 16, "top": one * 8191, "axis": np.array([1])})
    _save(folder / "decoder.onnx", [("codes", TensorProto.INT32, [1, "h", "w"])],
          ("pixels", TensorProto.FLOAT, [1, 3, "H", "W"]),
          [helper.make_node("Cast", ["codes"], ["real"], to=TensorProto.FLOAT),
           helper.make_node("Mul", ["real", "step"], ["part"]),
           helper.make_node("Unsqueeze", ["part", "axis"], ["latents"]),
           helper.make_node("ConvTranspose", ["latents", "synthesis"], ["drawn"], **sight),
           helper.make_node("Sigmoid", ["drawn"], ["pixels"])],
          {"synthesis": analysis, "step": one / 8191, "axis": np.array([1])})


def write_refiner(folder: Path) -> None:
    """Write a ``refiner.onnx`` that smears what was lost over 16 pixels in each direction."""
    kernel = np.random.default_rng(1).normal(size=(3, 3, 33, 33)).astype(np.float32) / 33
    picture = TensorProto.FLOAT, [1, 3, "H", "W"]
    plane = TensorProto.FLOAT, [1, 1, "H", "W"]
    sources = [("shown", *picture), ("lost", *picture), ("mirrored", *picture), ("close", *plane),
               ("hole", *plane)]
    _save(folder / "refiner.onnx", sources, ("refined", *picture),
          [helper.make_node("Mul", ["mirrored", "close"], ["near"]),
           helper.make_node("Add", ["lost", "near"], ["both"]),
           helper.make_node("Conv", ["both", "kernel"], ["smeared"], pads=[16] * 4),
           helper.make_node("Mul", ["smeared", "hole"], ["inside"]),
           helper.make_node("Add", ["shown", "inside"], ["refined"])], {"kernel": kernel})


def _save(path: Path, sources: list, target: tuple, nodes: list, constants: dict) -> None:
    graph = helper.make_graph(
        nodes, path.stem, [helper.make_tensor_value_info(*source) for source in sources],
        [helper.make_tensor_value_info(*target)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
