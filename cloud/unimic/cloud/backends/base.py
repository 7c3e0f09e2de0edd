"""What the service asks of a large multimodal model, and how it finds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import numpy as np

from unimic.codec.errors import InvalidInput, UnimicError, UnknownModel
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, Mask, TokenSpace

Watch = Callable[[int, int], None]
"""Called as ``watch(step, steps)`` after each step of a computation; raises `Cancelled` when
nobody waits for any of the batch any more. Let it pass through."""

MAX_STEPS = 1000  # of one request


class Cancelled(BaseException):
    """Nobody waits for the result: stop computing. No error, so that nobody takes it for one."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        seed: equal seeds give equal tokens on the same device, on a CPU whatever the batch.
        steps: of the sampler, at least 1.
        temperature: of the draw; 0 takes the likeliest token.
        guidance: strength of classifier-free guidance; 0 is none.
    """

    seed: int
    steps: int
    temperature: float
    guidance: float


@dataclass(frozen=True)
class GenerateRequest:
    """An image of ``rows`` × ``columns`` tokens from a prompt, which may be empty."""

    prompt: str
    rows: int
    columns: int
    sampling: Sampling

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.rows, self.columns


@dataclass(frozen=True, eq=False)
class _OfImage:
    codes: Codes

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        rows, columns = self.codes.shape
        return rows, columns


@dataclass(frozen=True, eq=False)
class FillRequest(_OfImage):
    """Inpainting and outpainting: the tokens of ``codes`` where ``mask`` is True are made anew.

    ``codes`` and ``mask`` are ``(rows, columns)``; codes under the mask mean nothing. At least one
    mask cell is True; all of them may be. The prompt may be empty.
    """

    mask: Mask
    prompt: str
    sampling: Sampling


@dataclass(frozen=True, eq=False)
class AnswerRequest(_OfImage):
    """A question about the image ``codes`` ``(rows, columns)``; an empty one asks for a caption."""

    question: str
    sampling: Sampling


Request = GenerateRequest | FillRequest | AnswerRequest


@dataclass(frozen=True)
class Answer:
    """A text and how sure the model is of it, 0 to 1."""

    text: str
    confidence: float


class Backend(ABC):
    """A model that does the tasks on tokens.

    The three methods take a batch and return one result for each request, in order. All requests
    of a batch have the same grid shape and the same number of steps; prompts, questions, masks,
    seeds, temperatures and guidance differ. A result must not depend on the rest of the batch, but
    for rounding on an accelerator. The requests are the method's own, to write into if it likes.
    Methods run in worker threads, at most one for each ``--workers`` at a time, and call ``watch``
    after every step. A `unimic.codec.errors.UnimicError` is passed on to the client; other
    exceptions, and results that are none, become an internal error, and the service goes on.

    Attributes:
        name: as the user chooses it.
        space: of the tokens that come and go.
        defaults: sampling where the client asks for nothing else.
        max_tokens: of the largest grid that one request may have.
        max_batch: the most requests in one call.
    """

    name: str
    space: TokenSpace
    defaults: Sampling
    max_tokens: int
    max_batch: int = 8

    def generate(self, requests: Sequence[GenerateRequest], watch: Watch) -> list[Codes]:
        """Text to image: int32 codes ``(rows, columns)`` for each request.

        Unless a backend knows better, an image is a grid whose tokens are all to be filled.
        """
        return self.fill([
            FillRequest(np.zeros(r.shape, np.int32), np.ones(r.shape, np.bool_), r.prompt,
                        r.sampling)
            for r in requests], watch)

    def fill_defaults(self, prompt: str, seed: int) -> Sampling:
        """`defaults` of `fill`, where they depend on the request: on its ``prompt``, which may be
        empty, and the ``seed`` that it names, or 0. Everybody waits for it: it must be quick."""
        return self.defaults

    @abstractmethod
    def fill(self, requests: Sequence[FillRequest], watch: Watch) -> list[Codes]:
        """Inpaint and outpaint: whole grids of int32 codes ``(rows, columns)``, one a request.

        Where the mask is False the service takes the given codes, whatever is there.
        """

    @abstractmethod
    def answer(self, requests: Sequence[AnswerRequest], watch: Watch) -> list[Answer]:
        """Questions and captions."""


ENTRY_POINTS = "unimic.backends"
"""Entry point group of the backends: each names a factory
``(store: ModelStore, device: str, weights: str | None) -> Backend``."""


def backend_names() -> list[str]:
    """The backends that are installed."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def load_backend(name: str, store: ModelStore, device: str, weights: str | None = None) -> Backend:
    """Make the backend that is installed under ``name``.

    Args:
        device: as torch names it (``"cpu"``, ``"cuda:0"``).
        weights: a folder or file in place of the weights that the backend finds by itself.

    Raises:
        UnknownModel: no such backend, its weights are not here, or it cannot be made.
        InvalidInput: several packages have one of this name.
    """
    found = {_package(point): point for point in entry_points(group=ENTRY_POINTS, name=name)}
    if not found:
        raise UnknownModel("backend", f"there is no backend {name!r}",
                           f"installed are: {', '.join(backend_names()) or 'none'}")
    if len(found) > 1:
        raise InvalidInput("--backend", f"{name!r} is offered by {' and by '.join(sorted(found))}",
                           "uninstall all of them but one")
    (package, point), = found.items()
    try:
        backend: Backend = point.load()(store, device, weights)
    except UnimicError:
        raise
    except (Exception, SystemExit) as error:
        raise UnknownModel("backend", f"{name!r} of {package} cannot be made "
                           f"({type(error).__name__}: {error})", "-vv shows where") from error
    if wrong := _wrong(backend):
        raise UnknownModel("backend", f"{name!r} of {package} {wrong}", "tell its author")
    return backend


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"


def _wrong(backend: object) -> str:
    """What of a backend is not as it must be; empty if nothing is."""
    if not isinstance(backend, Backend):
        return f"is a {type(backend).__name__}, no Backend"
    for name, kind in (("name", str), ("space", TokenSpace), ("defaults", Sampling),
                       ("max_tokens", int), ("max_batch", int)):
        value = getattr(backend, name, None)
        if not isinstance(value, kind):
            return f"has {value!r} as {name} in place of {kind.__name__}"
        if isinstance(value, int) and value < 1:
            return f"has {value} as {name} in place of 1 or more"
    for name, (least, below) in _DEFAULTS.items():
        value = getattr(backend.defaults, name)
        if not isinstance(value, (int, float)) or not least <= value < below:  # NaN fails too
            return f"has {value!r} as defaults.{name} in place of {least} or more, below {below}"
    return ""


_DEFAULTS = {"seed": (0, 1 << 64), "steps": (1, MAX_STEPS + 1), "temperature": (0, 1000),
             "guidance": (0, 1000)}
