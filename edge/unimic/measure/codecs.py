"""Picture codecs behind one small interface.

A codec of one's own is a module with a function that returns a `Codec`, named in the entry-point
group ``unimic.codecs`` of any installed package::

    [project.entry-points."unimic.codecs"]
    mine = "my_package:codec"

The function raises `ImportError`, with the words of what to install, where something is missing;
with any other exception, too, the codec is skipped. It is called once in every worker process.
The name is that of no other codec, and without ``/``, ``:`` and ``,``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimic.codec.errors import InvalidInput, UnimicError

OURS = "unimic"
SCALES = (1, 2, 4)
GROUP = "unimic.codecs"
SEPARATORS = frozenset("/:,")  # of what users write behind and between names
ANY = "any"  # in place of a codec: the picture cannot be measured at all
ORIGINAL = "original"  # in place of a codec: what metrics of sets need of the original itself
Setting = int | str


def reason(error: BaseException) -> str:
    """What the code of a codec raised, in words."""
    plain = isinstance(error, (UnimicError, ImportError))  # these are made to be read
    return str(error) if plain else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Encoded:
    """A coded picture.

    Attributes:
        data: all that the receiver needs but for the picture's size.
        ideal_bits: information of the coded symbols under their model, where it is known.
        payload_bytes: of ``data``, without headers and containers, where it is known.
        parts: where the bits are, by name; they add up to those of ``data``.
        token_bits: information of each token ``(rows, columns)``, of a codec that has tokens.
    """

    data: bytes
    ideal_bits: float | None = None
    payload_bytes: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    token_bits: NDArray[np.float64] | None = None

    @property
    def bare_bytes(self) -> int:
        """Bytes that a service of one's own needs: without a container, where one is known of."""
        return len(self.data) if self.payload_bytes is None else self.payload_bytes


@dataclass(frozen=True)
class Codec:
    """One codec.

    Attributes:
        name: as users write it.
        knob: all values of its quality setting, from the smallest files to the largest.
        ladder: those of them that rate-distortion curves are drawn through.
        encode: an RGB picture at a setting.
        decode: the RGB picture of what `encode` made, of this (width, height).
        versions: of what does the work.
    """

    name: str
    knob: Sequence[Setting]
    ladder: Sequence[Setting]
    encode: Callable[[Image.Image, Setting], Encoded]
    decode: Callable[[bytes, tuple[int, int]], Image.Image]
    versions: dict[str, str]


@dataclass(frozen=True)
class Variant:
    """A codec behind down- and upscaling by ``scale``; 1 is the codec itself.

    Attributes:
        settings: to draw curves through, if not those of the codec's ladder.
    """

    codec: Codec
    scale: int = 1
    settings: tuple[Setting, ...] = ()

    @property
    def ladder(self) -> Sequence[Setting]:
        """The settings that curves are drawn through."""
        return self.settings or self.codec.ladder

    @property
    def name(self) -> str:
        """As users write it: ``vvc`` or ``vvc/2``."""
        return self.codec.name if self.scale == 1 else f"{self.codec.name}/{self.scale}"

    def encode(self, image: Image.Image, setting: Setting) -> Encoded:
        """Scale down, then code."""
        copy = image.copy()  # a codec may work in its place
        return self.codec.encode(self._resize(copy, self._small(image.size)), setting)

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Decode, then scale up to ``size``, that of the picture before `encode`.

        Raises:
            InvalidInput: what the codec made is no picture, not RGB, or of another size.
        """
        small = self._small(size)
        picture = self.codec.decode(data, small)
        if not isinstance(picture, Image.Image):  # a codec may be another package's
            raise InvalidInput("picture", f"is a {type(picture).__name__}", "decode to a PIL image")
        if picture.mode != "RGB":
            raise InvalidInput("picture", f"mode {picture.mode}", "decode it to RGB")
        if picture.size != small:
            raise InvalidInput("picture", f"{picture.size} pixels, the original has {small}",
                               "decode it to the original's size")
        return self._resize(picture, size)

    def _small(self, size: tuple[int, int]) -> tuple[int, int]:
        return -(-size[0] // self.scale), -(-size[1] // self.scale)

    def _resize(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image if self.scale == 1 else image.resize(size, Image.Resampling.LANCZOS)


BUILT_IN = {name: EntryPoint(name, f"unimic.measure.{function}", GROUP) for name, function in {
    OURS: "ours:codec", "jpeg": "classical:jpeg", "webp": "classical:webp",
    "avif": "classical:avif", "jp2": "classical:jp2", "jxl": "classical:jxl",
    "av1": "classical:av1", "hevc": "classical:hevc", "vvc": "classical:vvc"}.items()}


def known() -> dict[str, list[EntryPoint]]:
    """Where the function of each codec is, by name: the built-in ones and other packages'.

    Where several packages offer one name, it has several.
    """
    offers = {name: [entry] for name, entry in BUILT_IN.items()}
    for entry in _of_packages():
        if _nameable(entry.name):
            offers.setdefault(entry.name, []).append(entry)
    return offers


def misnamed() -> dict[str, str]:
    """Codecs of other packages that nobody could name, and why."""
    return {f"{entry.name!r} of {_package(entry)}":
            f"no codec is called {ANY} or {ORIGINAL}, or has '/', ':' or ',' in its name; tell its "
            "author" for entry in _of_packages() if not _nameable(entry.name)}


def _nameable(name: str) -> bool:
    return name not in (ANY, ORIGINAL) and not SEPARATORS & {*name}


def _of_packages() -> list[EntryPoint]:
    """Those of other packages; what is found twice, as of a package in two folders, counts once."""
    return [*{(entry.name, entry.value, _package(entry)): entry
              for entry in entry_points(group=GROUP)}.values()]


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unimic"  # those of `BUILT_IN`


def _only(name: str, offers: Sequence[EntryPoint]) -> EntryPoint:
    if len(offers) > 1:
        packages = " and by ".join(sorted(_package(entry) for entry in offers))
        raise InvalidInput("--codecs", f"{name!r} is offered by {packages}",
                           "uninstall all of them but one")
    return offers[0]


def _make(name: str, entry: EntryPoint) -> Codec:
    """The codec of an entry point; in worker processes it is found again by this name."""
    codec: Codec = replace(entry.load()(), name=name)
    for what in "knob", "ladder":
        if not len(getattr(codec, what)):
            raise InvalidInput(what, "has no settings", "tell its author")
    return codec


def find(names: Sequence[str]) -> tuple[list[Variant], dict[str, str]]:
    """The codecs that users name, and why others of them cannot be had.

    Args:
        names: such as ``vvc``, behind scaling by 2 ``vvc/2``, at two settings ``vvc:44:50``.

    Raises:
        InvalidInput: no codec has that name, or several have, or it has no such setting.
    """
    entries, made, missing = known(), dict[str, Codec](), dict[str, str]()
    variants = []
    for name in names:
        variant, *settings = name.split(":")
        plain, _, scale = variant.partition("/")
        if plain not in entries or not re.fullmatch("(|[1-9][0-9]?)", scale):
            raise InvalidInput("--codecs", f"{name!r} is unknown",
                               f"use {', '.join(entries)}, or one of them with /2 or /4")
        entry = _only(plain, entries[plain])
        if plain not in made and plain not in missing:
            try:
                made[plain] = _make(plain, entry)
            except (Exception, SystemExit) as error:  # of another package it may be anything
                missing[plain] = reason(error)
        if plain in made:
            variants.append(Variant(made[plain], int(scale or 1), _settings(made[plain], settings)))
    return variants, missing


def _settings(codec: Codec, wanted: Sequence[str]) -> tuple[Setting, ...]:
    known = {str(setting): setting for setting in codec.knob}
    for setting in wanted:
        if setting not in known:
            raise InvalidInput("--codecs", f"{codec.name} has no setting {setting!r}",
                               f"use one of {codec.knob[0]} … {codec.knob[-1]}, for example "
                               f"{_near(codec, setting)}")
    return tuple(known[setting] for setting in wanted)


def _near(codec: Codec, wanted: str) -> Setting:
    """The setting nearest to a number; without one, that in the middle of the ladder."""
    numbers = [setting for setting in codec.knob if isinstance(setting, int)]
    if wanted.isdecimal() and numbers:
        return min(numbers, key=lambda number: abs(number - int(wanted)))
    return codec.ladder[len(codec.ladder) // 2]


def all_names() -> list[str]:
    """Every codec, and each classical one also behind scaling."""
    return [name if scale == 1 else f"{name}/{scale}" for name in known()
            for scale in (SCALES if name != OURS else (1,))]
