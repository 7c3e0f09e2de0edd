"""Turn a run of ``train_compact`` or ``train_painter`` into the model of the store: averaged
weights, of few bytes.

    python -m unimic.cloud.training.export_compact --checkpoint OUT/checkpoint.pt \\
        --store codec/unimic/codec/models --figures FIGURES.json --command "…"

Without ``--figures`` the weights are entered with none, so that they can be measured
(``unimic.cloud.training.evaluate_compact``) and exported again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from unimic.cloud.models.compact import CompactConfig, packed
from unimic.cloud.training.command import command
from unimic.cloud.training.export import check_made_for, drafted, tell
from unimic.cloud.training.shipped import averaged
from unimic.codec.errors import CorruptData, InvalidInput
from unimic.codec.networks import WEIGHTS
from unimic.codec.proof import METADATA
from unimic.codec.store import add_model

DATA = ("Flickr8k train and rest (photos, captions; no licence seen), DAQUAR train (code "
        "Apache-2.0, images NYU), imagenette, ImageNet sample, BSDS500 train and val, sports and "
        "street photos (research use), easy-VQA train, Fluent emoji (MIT)")


def sizes(state: dict[str, Tensor]) -> CompactConfig:
    """The sizes of the model that ``state`` belongs to; heads are always the default."""
    width = state["words.weight"].shape[1]
    depth, painter_depth = (len({name for name in state if name.startswith(blocks)
                                 and name.endswith(".merge.weight")})
                            for blocks in ("blocks.", "painter.blocks."))
    return CompactConfig(width=width, depth=depth, painter_depth=painter_depth,
                         expansion=state["blocks.0.expand.weight"].shape[0] // width)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    parser.add_argument("--figures", type=Path, help="what evaluate_compact --json wrote")
    parser.add_argument("--command", default="", help="that trained the model")
    parser.add_argument("--data", default=DATA, help="that it was trained on (default: all that "
                        "train_compact takes)")
    args = parser.parse_args(argv)
    try:
        figures = json.loads(args.figures.read_text(encoding="utf-8")) if args.figures else {}
    except ValueError as error:
        raise InvalidInput("--figures", f"{args.figures} is no JSON ({error})",
                           "name what evaluate_compact --json wrote") from error
    state = averaged(args.checkpoint)
    try:
        metadata = {METADATA: json.dumps(asdict(sizes(state)))}
    except KeyError as error:
        raise CorruptData(str(args.checkpoint), "does not hold the weights of a compact model",
                          "name one of train_compact or train_painter") from error
    with drafted(args.store, "compact") as folder:
        check_made_for(args.checkpoint, args.store)
        save_file(packed(state), folder / WEIGHTS, metadata=metadata)
    entry = add_model(args.store, "compact", "multimodal", licence="Apache-2.0", data=args.data,
                      command=args.command, figures=figures)
    tell(args.store, entry)


if __name__ == "__main__":
    command(main)
