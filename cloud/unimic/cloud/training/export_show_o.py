"""Make a model store of Show-o's tokens: MAGVIT-v2 as ONNX graphs, and the project's text tokens.

    python -m unimic.cloud.training.export_show_o --weights FOLDER/show-o --store STORE

Service and clients use the store by ``UNIMIC_MODELS=STORE``. Weights stay in float32, so that the
tokens are those of the published encoder. Without an entropy model for them, tokens travel with
fixed length.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path

import onnx

from unimic.cloud.backends.show_o.backend import CHECKPOINT
from unimic.cloud.backends.show_o.checkpoint import MAGVIT, digest, find_magvit
from unimic.cloud.backends.show_o.magvit import BITS, PATCH, load_magvit
from unimic.cloud.training.command import command
from unimic.cloud.training.export import drafted, image_tokenizer_graphs, tell
from unimic.codec.store import IMAGE_TOKENIZER, TEXT_TOKENIZER, Entry, ModelStore, add_model


def export_show_o(weights: str | None, store: Path, shipped: ModelStore) -> list[Entry]:
    """Write both tokenizers to ``store``.

    Args:
        weights: see `find_magvit`.
        store: folder of the new store; what it has under these names is replaced.
        shipped: has the text tokenizer.
    """
    magvit = load_magvit(find_magvit(weights))
    if store.resolve() != shipped.folder.resolve():
        shutil.copytree(shipped.folder / TEXT_TOKENIZER, store / TEXT_TOKENIZER,
                        dirs_exist_ok=True)
    with drafted(store, IMAGE_TOKENIZER) as folder:
        for name, graph in image_tokenizer_graphs(folder, magvit, magvit.encode,
                                                  magvit.decode).items():
            onnx.save(graph, str(folder / name))
    text = asdict(shipped.entry(TEXT_TOKENIZER))
    kept = {field: text[field]
            for field in ("kind", "licence", "data", "command", "figures", "id", "sizes")}
    return [
        add_model(store, TEXT_TOKENIZER, **kept),
        add_model(store, IMAGE_TOKENIZER, IMAGE_TOKENIZER, licence=f"that of {MAGVIT}",
                  data=f"see {MAGVIT}", command="unimic.cloud.training.export_show_o",
                  figures={CHECKPOINT: digest(magvit)},
                  sizes={"image_codes": 1 << BITS, "patch": PATCH}),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="as for `unimic serve --backend show-o`")
    parser.add_argument("--store", type=Path, required=True, help="folder of the model store")
    args = parser.parse_args(argv)
    for entry in export_show_o(args.weights, args.store, ModelStore.default()):
        tell(args.store, entry)


if __name__ == "__main__":
    command(main)
