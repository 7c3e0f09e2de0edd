"""The transformer: Phi-1.5 with normalised queries and keys, over text and image ids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    DynamicCache,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

from unimic.cloud.backends.show_o.checkpoint import PHI, Checkpoint, load_strictly, read_config
from unimic.cloud.backends.show_o.sequences import Vocabulary
from unimic.codec.errors import CorruptData, UnknownModel


@dataclass(frozen=True)
class Memory:
    """What was read: keys and values, and which of them are padding, bool ``(B, n)``."""

    cache: DynamicCache
    padding: Tensor


class ShowO(nn.Module):
    """Predicts image codes and words; modules are named as in the published checkpoint.

    Attributes:
        vocabulary: its ids.
        side: of the square of image tokens that it was trained on.
    """

    def __init__(self, phi: PhiConfig, vocabulary: Vocabulary, side: int) -> None:
        super().__init__()
        self.vocabulary, self.side = vocabulary, side
        self.showo = PhiForCausalLM(phi)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def read(self, ids: Tensor, visible: Tensor) -> tuple[Tensor, Memory]:
        """Features ``(B, n, width)`` of ids ``(B, n)``, and the memory of them.

        Args:
            ids: padded at the left.
            visible: bool ``(B, 1, n, n)``.
        """
        padding = ids == self.vocabulary.mark("pad")
        cache = DynamicCache(config=self.showo.config)
        # Where padding ends does not matter: positions count relative to each other.
        return self._features(ids, visible, cache), Memory(cache, padding)

    def image_logits(self, memory: Memory, ids: Tensor, visible: Tensor) -> Tensor:
        """Logits ``(B, n, codes)`` of the tokens of images with their marks ``(B, n + 2)``.

        They are not remembered: the next call follows the same memory.

        Args:
            memory: of the prompts.
            ids: of `Vocabulary.image`.
            visible: bool ``(B, 1, n + 2, all)``.
        """
        features = self._features(ids, visible, memory.cache)
        memory.cache.crop(-ids.shape[1])
        first = self.vocabulary.first_code
        return self._logits(features[:, 1:-1], slice(first, first + self.vocabulary.codes))

    def next_features(self, memory: Memory, words: Tensor) -> tuple[Tensor, Memory]:
        """Features ``(B, 1, width)`` after one more word ``(B,)`` each, and the longer memory."""
        padding = F.pad(memory.padding, (0, 1))
        features = self._features(words.unsqueeze(1), ~padding[:, None, None], memory.cache)
        return features, Memory(memory.cache, padding)

    def word_logits(self, features: Tensor) -> Tensor:
        """Logits ``(B, words)`` after the last of ``features`` ``(B, n, width)``."""
        return self._logits(features[:, -1], slice(0, self.vocabulary.text))

    def _features(self, ids: Tensor, visible: Tensor, cache: DynamicCache) -> Tensor:
        # By position: the name of the fourth argument, the cache, differs between releases.
        features: Tensor = self.showo.model(
            ids.to(self.device), visible.to(self.device), None, cache).last_hidden_state
        return features

    def _logits(self, features: Tensor, ids: slice) -> Tensor:
        head = self.showo.lm_head
        # Of a slice PyTorch would make a batch of products, each with a copy of the weights.
        return F.linear(features.contiguous(), head.weight[ids], head.bias[ids]).float()


def load_show_o(found: Checkpoint, device: str) -> tuple[ShowO, PreTrainedTokenizerBase]:
    """The model of a checkpoint, and its text tokenizer.

    It computes in bfloat16, on a CPU in the type that the file has.

    Raises:
        UnknownModel: it is not whole.
        CorruptData: it does not fit.
    """
    config, phi = read_config(found.show_o), read_config(found.phi)
    if config.get("w_clip_vit"):
        raise CorruptData("--weights", f"{found.show_o} looks at CLIP features, not at tokens",
                          "use showlab/show-o or showlab/show-o-512x512")
    text = _load_tokenizer(found.phi)
    try:
        vocabulary = Vocabulary(config["llm_vocab_size"], config["codebook_size"],
                                text.bos_token_id)
        side = math.isqrt(config["num_vq_tokens"])
        whole = (len(text) == vocabulary.text and config["vocab_size"] == vocabulary.size
                 and config["num_vq_tokens"] == side * side)
    except (KeyError, TypeError) as error:
        raise CorruptData("--weights", f"{found.show_o}/config.json lacks {error}",
                          "download it anew") from error
    if not whole:
        raise CorruptData("--weights", f"the sizes in {found.show_o}/config.json do not fit each "
                          f"other and the {len(text)} text tokens of {found.phi}",
                          "download both whole")
    if phi.get("hidden_act") == "gelu_new":
        phi["hidden_act"] = "gelu_pytorch_tanh"  # the same function, in one pass over memory
    sizes = PhiConfig(**{**phi, "vocab_size": vocabulary.size, "qk_layernorm": True})
    sizes._attn_implementation = "sdpa"
    with torch.device("meta"):  # every parameter comes from the file
        model = ShowO(sizes, vocabulary, side)
    load_strictly(model, found.show_o)
    dtype = None if torch.device(device).type == "cpu" else torch.bfloat16
    model.showo.model.rotary_emb = None  # is in no file, and stays float32
    model.to(device, dtype)
    model.showo.model.rotary_emb = PhiRotaryEmbedding(sizes).to(device)
    return model.eval().requires_grad_(False), text


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        text: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False)  # or it may ask on the terminal
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UnknownModel("--weights", f"{folder} has no tokenizer ({reason})",
                           f"download {PHI} to that folder") from error
    return text
