"""Show-o (Xie et al., arXiv 2408.12528) as a backend: its public checkpoints, on its own tokens.

`transformers` has the language model, Phi-1.5. The rest is here, in the order of the data:

* `checkpoint`: finds the published files and loads them strictly;
* `magvit`: MAGVIT-v2, pictures to tokens and back;
* `sequences`: what the model reads, and which token sees which;
* `model`: the transformer;
* `sampling`: how hidden image tokens are drawn;
* `backend`: the tasks.
"""

from __future__ import annotations

from unimic.cloud.backends.base import Backend
from unimic.codec.errors import UnknownModel
from unimic.codec.store import ModelStore


def load(store: ModelStore, device: str = "cpu", weights: str | None = None) -> Backend:
    """See `backend.load`.

    Raises:
        UnknownModel: `transformers` is not installed.
    """
    try:
        from unimic.cloud.backends.show_o import backend
    except ModuleNotFoundError as error:
        raise UnknownModel("--backend", f"show-o needs {error.name}, which is not installed",
                           "pip install 'unimic[show-o]'") from error
    return backend.load(store, device, weights)
