"""Write trained checkpoints into a model store: integers, graphs, golden vectors, manifest.

    python -m unimic.cloud.training.export image-tokenizer --checkpoint … --store … OF
    python -m unimic.cloud.training.export text-entropy --checkpoint … --store … OF
    python -m unimic.cloud.training.export image-entropy --checkpoint … --store … --grids … OF
    python -m unimic.cloud.training.export image-refiner --checkpoint … --store … OF

OF: ``--data … --command …``, what the model was trained on and how, for the manifest. The order is
this: the entropy models belong to the token space that the tokenizers make up. An exact network
becomes ``weights.safetensors`` and graphs whose initialisers are those very bytes, so that both
executors read one file. Each graph is written with signed and with unsigned weights; see
`unimic.codec.networks`.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from safetensors.torch import save
from torch import Tensor, nn

from unimic.cloud.models.arithmetic import (
    KEY_MAX,
    QUERY_MAX,
    VALUE_MAX,
    WEIGHT_MAX,
    ExactLinear,
    to_exact,
)
from unimic.cloud.models.image_entropy import ImageEntropyConfig, ImageEntropyNet
from unimic.cloud.models.image_tokenizer import PATCH, ImageTokenizer
from unimic.cloud.models.onnx_forms import PRODUCT as PRODUCT_NODE
from unimic.cloud.models.onnx_forms import RUNTIME
from unimic.cloud.models.refiner import Refiner
from unimic.cloud.models.text_entropy import TextEntropyNet
from unimic.cloud.networks import TorchImageNetwork, TorchTextNetwork
from unimic.cloud.training.command import command
from unimic.cloud.training.grids import check_tokenizer, load_grids
from unimic.cloud.training.loop import mark
from unimic.cloud.training.shipped import (
    averaged,
    filled,
    in_bytes,
    load_image_tokenizer,
    load_refiner,
    made_by_exported,
    read_checkpoint,
)
from unimic.cloud.training.tokenize_images import HISTOGRAM_OF
from unimic.codec.errors import InvalidInput
from unimic.codec.image_rows import FIELDS, Integers
from unimic.codec.networks import (
    GOLDEN,
    HISTOGRAM,
    IMAGE_ENTROPY,
    PRODUCT,
    TEXT_ENTROPY,
    UNSIGNED,
    WEIGHTS,
    run_image_golden,
    run_text_golden,
)
from unimic.codec.proof import METADATA, prove
from unimic.codec.store import (
    CARD,
    DECODER,
    ENCODER,
    ID_BYTES,
    IMAGE_REFINER,
    IMAGE_TOKENIZER,
    REFINER,
    TEXT_TOKENIZER,
    Entry,
    ModelStore,
    add_model,
    sha256_of,
)
from unimic.codec.text import TOKENIZER_FILE

OPSET = 18


class _Function(nn.Module):
    """One method of a network as a module that can be exported."""

    def __init__(self, network: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, *inputs: Tensor) -> Any:
        return self.method(*inputs)


@contextmanager
def drafted(store: Path, name: str) -> Iterator[Path]:
    """A copy of a model's folder to write into, which takes its place if nothing goes wrong.

    Raises:
        UnknownModel: the store has no tokenizers, which all other models need.
    """
    if name != IMAGE_TOKENIZER:
        ModelStore(store).space()
    store.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=store, prefix=".") as draft:
        folder = Path(draft) / name
        folder.mkdir()
        if (store / name).exists():
            shutil.copytree(store / name, folder, dirs_exist_ok=True)
        yield folder
        (store / name).mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.replace(store / name / file.name)


def tell(store: Path, entry: Entry) -> None:
    """Print what was entered."""
    print(f"{entry.name} {entry.id.hex()} {sum(f.bytes for f in entry.files.values())} bytes; its "
          f"card, {store / entry.name / CARD}, is yours to write")


def export_graph(path: Path, network: nn.Module, method: Callable[..., Any],
                 inputs: tuple[Tensor, ...], names: list[str], outputs: list[str],
                 axes: dict[str, dict[int, str]]) -> onnx.ModelProto:
    """Export one method of ``network``, its sizes along ``axes`` left open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hundred of them: of tracing, and of what is deprecated
        torch.onnx.export(_Function(network, method).eval(), inputs, str(path), input_names=names,
                          output_names=outputs, dynamic_axes=axes, opset_version=OPSET,
                          dynamo=False, do_constant_folding=False, custom_opsets={RUNTIME: 1})
    graph = onnx.load(str(path))
    for node in graph.graph.node:
        node.ClearField("doc_string")
    return graph


def write_exact(folder: Path, network: nn.Module, config: Any,
                graphs: dict[str, onnx.ModelProto]) -> None:
    """Write the integers once, with their proof, and let the graphs refer to them."""
    tensors = {k: v.contiguous() for k, v in network.state_dict().items()}
    tensors["rotations"] = network.get_buffer("rotations").contiguous()
    layers = {name: module.in_max for name, module in network.named_modules()
              if isinstance(module, ExactLinear)}
    raw = save(tensors, {METADATA: json.dumps({
        "config": asdict(config), "input_bounds": layers,
        "logits": {"query": QUERY_MAX, "key": KEY_MAX, "channels": config.width // config.heads},
        "mixture": {"weight": WEIGHT_MAX, "value": VALUE_MAX, "keys": config.keys}})})
    (folder / WEIGHTS).write_bytes(raw)
    for bound in prove(folder / WEIGHTS):
        if not bound.holds:
            raise SystemExit(f"{bound.part}: a sum may reach {bound.largest}, over {bound.limit}")
    header = 8 + int.from_bytes(raw[:8], "little")
    places = json.loads(raw[8:header])
    onnx.save(product(), str(folder / PRODUCT))
    for name, graph in graphs.items():
        for tensor in graph.graph.initializer:
            key = tensor.name.removeprefix("network.")
            if key not in places:
                continue
            start, end = places[key]["data_offsets"]
            if raw[header + start:header + end] != tensor.raw_data:
                raise SystemExit(f"{name}: {key} differs from the weights")
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for field, value in (("location", WEIGHTS), ("offset", header + start),
                                 ("length", end - start)):
                tensor.external_data.add(key=field, value=str(value))
        onnx.save(graph, str(folder / f"{name}.onnx"))
        onnx.save(with_unsigned_weights(graph), str(folder / f"{name}{UNSIGNED}.onnx"))


def product() -> onnx.ModelProto:
    """The product of bytes with signed bytes, for `unimic.codec.networks.saturates`."""
    tensor, kinds = helper.make_tensor_value_info, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weights"], ["sums"])], "product",
        [tensor("rows", kinds.UINT8, ["m", "k"]), tensor("weights", kinds.INT8, ["k", "n"])],
        [tensor("sums", kinds.INT32, ["m", "n"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def with_unsigned_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same integers from second factors that are 128 more, as unsigned bytes."""
    graph = copy.deepcopy(graph)
    offset, zero = "unsigned.offset", "unsigned.zero"
    graph.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.array(128, np.int32), offset),
        onnx.numpy_helper.from_array(np.array(128, np.uint8), zero)])
    nodes, done = [], set()
    for node in graph.graph.node:
        if node.op_type == PRODUCT_NODE:
            factor, wide, moved, unsigned = (node.input[1] + end for end in
                                             ("", ".wide", ".moved", ".unsigned"))
            if factor not in done:
                nodes += [
                    helper.make_node("Cast", [factor], [wide], to=onnx.TensorProto.INT32),
                    helper.make_node("Add", [wide, offset], [moved]),
                    helper.make_node("Cast", [moved], [unsigned], to=onnx.TensorProto.UINT8)]
                done.add(factor)
            node.input[1], node.input[5] = unsigned, zero
        nodes.append(node)
    nodes = [copy.deepcopy(node) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def model_id(folder: Path) -> bytes:
    """Name of an exact model: the hash of its weights file."""
    return bytes.fromhex(sha256_of(folder / WEIGHTS))[:ID_BYTES]


def check_made_for(checkpoint: Path, store: Path, grids: Path | None = None) -> None:
    """Compare tokenizers: those that a checkpoint learned with, the store's, and that of grids.

    Raises:
        InvalidInput: they are not the same.
    """
    text = mark(store / TEXT_TOKENIZER / TOKENIZER_FILE)
    image = made_by_exported(store / IMAGE_TOKENIZER)
    for option, learned in read_checkpoint(checkpoint).get("made_for", {}).items():
        if learned not in ("", image, text):
            raise InvalidInput("--checkpoint", f"{checkpoint} learned with another {option[2:]} "
                               f"than there is in {store}", "export that first, or train it anew")
    if grids and check_tokenizer(sorted(grids.glob("*.npz"))) not in ("", image):
        raise InvalidInput("--grids", f"{grids} were made by another tokenizer than that of "
                           f"{store}", "make them anew")


def write_histogram(folder: Path, grids: Path) -> None:
    """Counts of every code in the training grids: the order-0 yardstick."""
    codes = np.concatenate([codes.ravel() for source in HISTOGRAM_OF
                            for _, codes in load_grids(grids / f"{source}.npz")])
    np.savez_compressed(folder / HISTOGRAM, counts=np.bincount(codes, minlength=8192))


def export_image_entropy(network: ImageEntropyNet, folder: Path) -> bytes:
    """Write a trained image entropy model, which becomes exact in place; returns its id."""
    to_exact(network)
    rng = np.random.default_rng(0)
    write_exact(folder, network, network.config, image_entropy_graphs(network, folder))
    golden: dict[str, np.ndarray] = {}
    for part, count, group in (("known", 40, 0), ("coded", 60, 1), ("asked", 200, 2)):
        rows = random_rows(network.config, rng, count, group)
        golden |= {f"{part}_{field}": values[0].astype(np.int32)
                   for field, values in zip(FIELDS, rows, strict=True)}
    golden["given"] = rng.integers(0, network.config.upper, 200).astype(np.int32)
    golden |= run_image_golden(TorchImageNetwork(network), golden)
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
    return model_id(folder)


def random_rows(config: ImageEntropyConfig, rng: np.random.Generator, count: int, group: int,
                ) -> Integers:
    """Rows of random codes at random places, int64 ``(4, 1, count)``."""
    limits = (config.upper, config.lower, config.coordinates**2)
    columns = [rng.integers(0, limit, count) for limit in limits]
    columns[1] += config.upper
    return np.stack([*columns, np.full(count, group)])[:, None]


def image_entropy_graphs(network: ImageEntropyNet, folder: Path) -> dict[str, onnx.ModelProto]:
    """The graphs of an image entropy model; leaves them in ``folder`` too."""
    c = network.config

    def rows(count: int, group: int) -> Tensor:
        return torch.from_numpy(random_rows(c, np.random.default_rng(0), count, group))

    memory = network.content(*rows(5, 0), *network.empty_memory(1))
    names = memory_names("group", c.content_layers + 1)
    new = [f"new_{name}" for name in names]
    asked = [names[0], *names[-2:]]
    row_axes = {name: {0: "batch", 1: "rows"} for name in FIELDS}
    hidden = torch.zeros(1, 3, c.width)
    return {
        "content": export_graph(
            folder / "content.onnx", network, network.content, (*rows(3, 1), *memory),
            [*FIELDS, *names], new,
            row_axes | memory_axes(names, "keys") | memory_axes(new, "all_keys")),
        "query": export_graph(
            folder / "query.onnx", network, network.query,
            (*rows(3, 1), *network.asked(memory)), [*FIELDS, *asked], ["logits", "hidden"],
            row_axes | memory_axes(asked, "keys")
            | {n: {0: "batch", 1: "rows"} for n in ("logits", "hidden")}),
        "tail": export_graph(
            folder / "tail.onnx", network, network.tail,
            (hidden, torch.zeros(1, 3, dtype=torch.long)), ["hidden", "upper"], ["logits"],
            {n: {0: "batch", 1: "rows"} for n in ("hidden", "upper", "logits")}),
    }


def memory_names(first: str, layers: int) -> list[str]:
    """Names of a memory's tensors."""
    return [first, *(f"{part}_{layer}" for layer in range(layers) for part in ("key", "value"))]


def memory_axes(names: list[str], count: str) -> dict[str, dict[int, str]]:
    """The open axes of a memory's tensors: batch, and ``count`` rows."""
    axes = [1, *[3, 2] * (len(names) // 2)]  # keys lie transposed
    return {name: {0: "batch", axis: count} for name, axis in zip(names, axes, strict=True)}


def export_text_entropy(network: TextEntropyNet, folder: Path) -> bytes:
    """Write a trained text entropy model, which becomes exact in place; returns its id."""
    to_exact(network)
    ids = torch.tensor([[0, 5, 6]])
    _, *memory = network.step(ids, torch.arange(3)[None], *network.empty_memory(1))
    names = memory_names("position", network.config.layers)
    new = [f"new_{name}" for name in names]
    batch_rows = {0: "batch", 1: "rows"}
    graph = export_graph(
        folder / "step.onnx", network, network.step, (ids, torch.arange(3, 6)[None], *memory),
        ["ids", "places", *names], ["logits", *new],
        {"ids": batch_rows, "places": batch_rows, "logits": batch_rows}
        | memory_axes(names, "keys") | memory_axes(new, "all_keys"))
    write_exact(folder, network, network.config, {"step": graph})
    shape = (4, min(40, network.config.positions))
    sequence = np.random.default_rng(0).integers(1, network.config.codes, shape)
    golden: dict[str, np.ndarray] = {"ids": sequence.astype(np.int32)}
    golden |= run_text_golden(TorchTextNetwork(network), golden)
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
    return model_id(folder)


def export_image_tokenizer(model: ImageTokenizer, folder: Path) -> None:
    """Write encoder and decoder as ONNX graphs with 8-bit weights.

    A file that holds the same network already stays as it is: the exporter numbers intermediate
    results differently from time to time, and a token space is known by the encoder's bytes.
    """
    model.eval()
    with TemporaryDirectory() as draft:
        graphs = image_tokenizer_graphs(Path(draft), model, model.encode_with_distances,
                                        model.decode, ["upper_distance", "lower_distance"])
    for name, graph in graphs.items():
        path, small = folder / name, with_small_weights(graph)
        if not (path.exists() and _same_network(onnx.load(str(path)), small)):
            onnx.save(small, str(path))


def export_refiner(model: Refiner, folder: Path) -> None:
    """Write the refinement network as an ONNX graph with 8-bit weights."""
    pixels, hole = torch.rand(1, 3, 4 * PATCH, 5 * PATCH), torch.ones(1, 1, 4 * PATCH, 5 * PATCH)
    axes = {2: "height", 3: "width"}
    names = ["shown", "lost", "mirrored", "close", "hole"]
    with TemporaryDirectory() as draft:
        graph = export_graph(Path(draft) / REFINER, model, model.forward,
                             (pixels, pixels, pixels, hole, hole), names, ["refined"],
                             dict.fromkeys((*names, "refined"), axes))
    onnx.save(with_small_weights(graph), str(folder / REFINER))


def _same_network(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Whether two graphs differ in nothing but the names of intermediate results."""
    def parts(model: onnx.ModelProto) -> tuple[list[str], list[bytes]]:
        nodes = [node.op_type + "".join(map(str, node.attribute)) for node in model.graph.node]
        return nodes, [t.SerializeToString() for t in model.graph.initializer]

    return parts(a) == parts(b)


def image_tokenizer_graphs(folder: Path, model: nn.Module, pixels_to_codes: Callable[..., Any],
                           codes_to_pixels: Callable[..., Tensor],
                           more: Sequence[str] = ()) -> dict[str, onnx.ModelProto]:
    """The two graphs of an image tokenizer as the edge runs them, by their files' names; leaves
    them in ``folder`` too.

    Args:
        folder: for the files.
        model: whose methods are the two functions.
        pixels_to_codes: ``(B, 3, 16h, 16w)`` in [0, 1] to ``(B, h, w)``, and what ``more`` names,
            ``(B, h, w, n)`` each.
        codes_to_pixels: the codes back to pixels.
        more: names of more outputs of the encoder.
    """
    pixels, codes = torch.rand(1, 3, 4 * PATCH, 5 * PATCH), torch.zeros(1, 4, 5, dtype=torch.int32)
    image_axes = {2: "height", 3: "width"}
    grid_axes = {1: "rows", 2: "columns"}

    def encode(pixels: Tensor) -> tuple[Tensor, ...]:
        codes, *others = pixels_to_codes(pixels) if more else (pixels_to_codes(pixels),)
        return codes.to(torch.int32), *others

    def decode(codes: Tensor) -> Tensor:
        return codes_to_pixels(codes.long())

    return {
        ENCODER: export_graph(folder / ENCODER, model, encode, (pixels,), ["pixels"],
                              ["codes", *more], {"pixels": image_axes} | dict.fromkeys(
                                  ("codes", *more), grid_axes)),
        DECODER: export_graph(folder / DECODER, model, decode, (codes,), ["codes"],
                              ["pixels"], {"codes": grid_axes, "pixels": image_axes}),
    }


def with_small_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Keep convolution weights as 8-bit integers with one scale an output, expanded on loading."""
    graph = copy.deepcopy(graph)
    expansions = []
    for tensor in list(graph.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim != 4:
            continue
        integers, scale = in_bytes(values)
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(integers, f"{name}_integers"))
        graph.graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
        expansions += [
            onnx.helper.make_node("Cast", [f"{name}_integers"], [f"{name}_whole"],
                                  to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name]),
        ]
    nodes = [*expansions, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[IMAGE_TOKENIZER, IMAGE_ENTROPY, TEXT_ENTROPY,
                                          IMAGE_REFINER])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    parser.add_argument("--grids", type=Path, help="folder of tokenize_images (image-entropy)")
    parser.add_argument("--command", required=True, help="that trained the checkpoint")
    parser.add_argument("--data", required=True, help="that it was trained on")
    parser.add_argument("--figures", type=json.loads, default={}, help="measured, as JSON")
    args = parser.parse_args(argv)
    if args.model == IMAGE_ENTROPY and not args.grids:
        parser.error("image-entropy needs --grids, whose codes its histogram counts")
    identity, sizes = None, None
    with drafted(args.store, args.model) as folder:
        if args.model != IMAGE_TOKENIZER:
            check_made_for(args.checkpoint, args.store, args.grids)
        if args.model == IMAGE_TOKENIZER:
            export_image_tokenizer(load_image_tokenizer(args.checkpoint), folder)
            sizes = {"image_codes": 8192, "patch": PATCH}
        elif args.model == IMAGE_REFINER:
            export_refiner(load_refiner(args.checkpoint), folder)
        elif args.model == IMAGE_ENTROPY:
            images = filled(ImageEntropyNet(), averaged(args.checkpoint), args.checkpoint)
            write_histogram(folder, args.grids)
            identity = export_image_entropy(images, folder)
        else:
            texts = filled(TextEntropyNet(), averaged(args.checkpoint), args.checkpoint)
            identity = export_text_entropy(texts, folder)
    entry = add_model(args.store, args.model, args.model, licence="Apache-2.0", data=args.data,
                      command=args.command, figures=args.figures, id=identity, sizes=sizes)
    tell(args.store, entry)


if __name__ == "__main__":
    command(main)
