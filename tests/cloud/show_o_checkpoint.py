"""A Show-o checkpoint with random weights, in the layout of the published ones: small, for tests.

The recipe: parameters, sorted by name, are drawn one after the other from
``numpy.random.RandomState(seed)``, seed 1 for MAGVIT-v2 and 2 for Show-o. Matrices and kernels are
standard normal over the root of their inputs (all axes but the first), vectors 0.1 times standard
normal, plus 1 if they are a ``weight``.

    python tests/cloud/show_o_checkpoint.py FOLDER 256

writes one of the published sizes, for pictures of 256×256 or 512×512, 3.3 GB: to measure on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CODES = 8192


@dataclass(frozen=True)
class Sizes:
    """What the configurations of a checkpoint say.

    Attributes:
        text: number of text ids.
        boundary: the text id that begins and ends a text.
        side: of the square of image tokens.
        magvit: of the image tokenizer.
        phi: of the language model.
        dtype: of Show-o's weights, as torch names it.
    """

    text: int
    boundary: int
    side: int
    magvit: dict[str, Any] = field(default_factory=dict)
    phi: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"

    @property
    def show_o(self) -> dict[str, Any]:
        """Of the whole."""
        return {"w_clip_vit": False, "vocab_size": self.text + 10 + CODES + 1,
                "llm_vocab_size": self.text, "codebook_size": CODES,
                "num_vq_tokens": self.side ** 2}


PHI = {"model_type": "phi", "partial_rotary_factor": 0.5, "hidden_act": "gelu_new",
       "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0}
SMALL = Sizes(
    300, 256, 4,
    {"channels": 32, "encoder_factors": [1, 2, 2, 2, 3], "encoder_blocks": [2, 1, 1, 1, 1],
     "decoder_factors": [1, 1, 2, 2, 3], "decoder_blocks": [1, 1, 2, 1, 1]},
    {**PHI, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
     "num_attention_heads": 4})
SIDE = SMALL.side


def published(side: int) -> Sizes:
    """Those of ``showlab/show-o`` (16) and ``showlab/show-o-512x512`` (32), but in bfloat16."""
    return Sizes(50_295, 50_256, side, {}, {
        **PHI, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
        "num_attention_heads": 32}, "bfloat16")


def fill(module: torch.nn.Module, seed: int) -> None:
    """Give the parameters of ``module`` the values of the recipe."""
    chance = np.random.RandomState(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            values = chance.standard_normal(tuple(parameter.shape))
            if parameter.ndim > 1:
                values /= np.sqrt(np.prod(parameter.shape[1:]))
            else:
                values = 0.1 * values + name.endswith("weight")
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def write_checkpoint(folder: Path, sizes: Sizes = SMALL, pickled: bool = False) -> Path:
    """Write ``show-o``, ``magvitv2`` and ``phi-1_5`` to ``folder``; the first of them."""
    from transformers import PhiConfig

    from unimic.cloud.backends.show_o.magvit import Magvit, MagvitConfig
    from unimic.cloud.backends.show_o.model import ShowO
    from unimic.cloud.backends.show_o.sequences import Vocabulary

    magvit = Magvit(MagvitConfig(**sizes.magvit))
    phi = PhiConfig(**{**sizes.phi, "vocab_size": sizes.show_o["vocab_size"],
                       "qk_layernorm": True})
    show_o = ShowO(phi, Vocabulary(sizes.text, CODES, sizes.boundary), sizes.side)
    for name, module, seed, config in (
            ("magvitv2", magvit, 1, sizes.magvit),
            ("show-o", show_o.to(getattr(torch, sizes.dtype)), 2, sizes.show_o)):
        fill(module, seed)
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        if pickled:
            torch.save(module.state_dict(), folder / name / "pytorch_model.bin")
        else:
            save_file(module.state_dict(), folder / name / "model.safetensors")
    write_phi(folder / "phi-1_5", sizes)
    return folder / "show-o"


def write_phi(folder: Path, sizes: Sizes = SMALL) -> None:
    """Configuration and a tokenizer of single bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(sizes.phi))
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    letters |= {f"<|{i}|>": i for i in range(len(letters), sizes.text)}
    del letters[f"<|{sizes.boundary}|>"]
    letters["<|endoftext|>"] = sizes.boundary
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>"}))


if __name__ == "__main__":
    print(write_checkpoint(Path(sys.argv[1]), published(int(sys.argv[2]) // 16)))
