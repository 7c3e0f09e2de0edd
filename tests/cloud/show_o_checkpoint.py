"""A small Show-o checkpoint with random weights, in the layout of the published ones.

The recipe: parameters, sorted by name, are drawn one after the other from
``numpy.random.RandomState(seed)``, seed 1 for MAGVIT-v2 and 2 for Show-o. Matrices and kernels are
standard normal over the root of their inputs (all axes but the first), vectors 0.1 times standard
normal, plus 1 if they are a ``weight``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXT, CODES, SIDE = 300, 8192, 4
BOUNDARY = 256
MAGVIT = {"channels": 32, "encoder_factors": [1, 2, 2, 2, 3], "encoder_blocks": [2, 1, 1, 1, 1],
          "decoder_factors": [1, 1, 2, 2, 3], "decoder_blocks": [1, 1, 2, 1, 1]}
SHOW_O = {"w_clip_vit": False, "vocab_size": TEXT + 10 + CODES + 1, "llm_vocab_size": TEXT,
          "codebook_size": CODES, "num_vq_tokens": SIDE * SIDE}
PHI = {"model_type": "phi", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
       "num_attention_heads": 4, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new",
       "layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0}


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


def write_checkpoint(folder: Path, pickled: bool = False) -> Path:
    """Write ``show-o``, ``magvitv2`` and ``phi-1_5`` to ``folder``; the first of them."""
    from transformers import PhiConfig

    from unimic.cloud.backends.show_o.magvit import Magvit, MagvitConfig
    from unimic.cloud.backends.show_o.model import ShowO
    from unimic.cloud.backends.show_o.sequences import Vocabulary

    magvit = Magvit(MagvitConfig(**MAGVIT))
    sizes = PhiConfig(**{**PHI, "vocab_size": SHOW_O["vocab_size"], "qk_layernorm": True})
    show_o = ShowO(sizes, Vocabulary(TEXT, CODES, BOUNDARY), SIDE)
    for name, module, seed, config in (("magvitv2", magvit, 1, MAGVIT),
                                       ("show-o", show_o, 2, SHOW_O)):
        fill(module, seed)
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        if pickled:
            torch.save(module.state_dict(), folder / name / "pytorch_model.bin")
        else:
            save_file(module.state_dict(), folder / name / "model.safetensors")
    write_phi(folder / "phi-1_5")
    return folder / "show-o"


def write_phi(folder: Path) -> None:
    """Configuration and a tokenizer of single bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PHI))
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    letters["<|endoftext|>"] = BOUNDARY
    letters |= {f"<|{i}|>": i for i in range(BOUNDARY + 1, TEXT)}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>"}))
