"""A session of many turns on the real wire, beside the same session done by sending pictures.

Ten turns go through a relay that counts the bytes of the connection. Beside them stands what the
pictures alone would take with classical codecs, at the setting whose photo is by one metric not
worse than that of our tokens: nothing is counted for their questions, masks and headers. Three
such services are told apart: one that keeps pictures, as ours keeps tokens, and sends of each what
is new in it; one that keeps pictures and sends each whole; and one that keeps nothing, to which the
picture of every turn goes again.

Then the photo is edited again and again in its right half, and the left half, which nobody edits,
is compared with the original: as the service holds it, in tokens; and as a picture that is coded
anew in every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress
from unimic.codec.tokens import TokenGrid
from unimic.edge.client import Client
from unimic.edge.connection import ServiceError
from unimic.edge.models import Models
from unimic.edge.regions import Box
from unimic.edge.results import Answer, Picture
from unimic.measure.choose import Choice, side_by_side, smallest
from unimic.measure.codecs import OURS, Variant, reason
from unimic.measure.metrics import METRICS, SMALLEST, Judge, Metric
from unimic.measure.proxy import CountingProxy

Row = dict[str, Any]
Of = TypeVar("Of", Sequence[Variant], Choice)
Made = TypeVar("Made")
CHECKPOINTS = (1, 5, 20, 50)
TURNS = 10
MARGIN = 32
LOWEST = 3
"""Pixels: in lower photos some of the boxes are empty."""
WAYS = {"sends_changes": "changes alone", "keeps_pictures": "each picture once",
        "keeps_nothing": "in every turn"}
"""What the services of other codecs send, see `picture_bytes`."""


@dataclass(frozen=True)
class Turn:
    """One turn of ours.

    Attributes:
        name: of what was done.
        row: its figures.
        sent: the picture that a service which keeps nothing needs for it.
        made: the picture that came of it, if one did.
        changed: what of that is not in ``sent``: a box of it, or all.
    """

    name: str
    row: Row
    sent: Image.Image | None
    made: Image.Image | None
    changed: Image.Image | None


@dataclass(frozen=True)
class Settings:
    """Of a session.

    Attributes:
        quality: of the shared photo, see `AsyncClient.share`.
        metric: by which the other codecs' photo is not worse than ours.
        edits: turns of the drift.
        seed: of what the service draws.
        families: the variants of each codec.
    """

    quality: int
    metric: Metric
    edits: int
    seed: int
    families: Sequence[Sequence[Variant]]

    def as_dict(self) -> dict[str, str | int]:
        """By the options that they are given by."""
        return {"quality": self.quality, "equal": self.metric.name, "edits": self.edits,
                "seed": self.seed,
                "codecs": ",".join(variants[0].codec.name for variants in self.families)}


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Errors of a service name it, not the relay before it."""
    try:
        yield
    except ServiceError as error:
        raise ServiceError(address, error.status, error.details) from error


def converse(address: str, models: Models, photo: Image.Image, quality: int, seed: int,
             progress: Progress) -> list[Turn]:
    """The ten turns; boxes are in the right half of the photo."""
    turns: list[Turn] = []
    with (_named(address), CountingProxy(address) as proxy,
          Client(proxy.address, models=models) as cloud):
        counted = [0, 0]

        def take(name: str, call: Callable[[], Picture | Answer], sent: Image.Image | None,
                 box: Box | None = None) -> Any:
            result = call()
            now = [proxy.up, proxy.down]
            stats = result.stats
            row = {"turn": name, "up_bytes": now[0] - counted[0],
                   "down_bytes": now[1] - counted[1], **stats.as_dict()}
            counted[:] = now
            made = result.image if isinstance(result, Picture) and name != "share" else None
            turns.append(Turn(name, row, sent, made, made.crop(box) if made and box else made))
            progress(len(turns), TURNS)
            return result

        width, height = photo.size
        upper = (width * 5 // 8, height // 8, width * 7 // 8, height * 3 // 8)
        lower = (width * 5 // 8, height * 5 // 8, width * 7 // 8, height * 7 // 8)
        shared = take("share", lambda: cloud.share(photo, quality=quality), photo)
        take("ask", lambda: cloud.ask(shared, "what is in the picture?"), photo)
        first = take("inpaint", lambda: cloud.inpaint(shared, upper, "a red ball", seed=seed),
                     photo, upper)
        second = take("inpaint", lambda: cloud.inpaint(first, lower, "a dog", seed=seed),
                      first.image, lower)
        wide = take("outpaint", lambda: cloud.outpaint(second, right=MARGIN, seed=seed),
                    second.image, (width, 0, width + MARGIN, height))
        take("ask", lambda: cloud.ask(wide, "what colour is the ball?"), wide.image)
        fresh = take("generate", lambda: cloud.generate("two dogs run on a beach", seed=seed), None)
        box = (fresh.width // 4, fresh.height // 4, fresh.width * 3 // 4, fresh.height * 3 // 4)
        edited = take("inpaint", lambda: cloud.inpaint(fresh, box, "a boat", seed=seed),
                      fresh.image, box)
        take("ask", lambda: cloud.ask(edited, "what do the dogs do?"), edited.image)
        take("inpaint", lambda: cloud.inpaint(wide, upper, "a blue ball", seed=seed), wide.image,
             upper)
    return turns


def match(families: Sequence[Sequence[Variant]], photo: Image.Image, decoded: Image.Image,
          metric: Metric, left_out: dict[str, str], progress: Progress
          ) -> tuple[float, list[Choice]]:
    """Our photo by ``metric``, and for each codec the smallest file that is not worse.

    Args:
        families: the variants of each codec.
        photo: the original, large enough for `left_half`.
        decoded: what our tokens of it show.
        metric: of single pictures.
        left_out: gets codecs that have none, and why.
        progress: called as ``progress(done, all)``.
    """
    judge = Judge(photo, (metric.name,))

    def value(picture: Image.Image) -> float:
        found = judge(picture)[metric.name]
        assert found is not None
        return found

    ours, choices = value(decoded), []

    def enough(picture: Image.Image) -> bool:
        return value(picture) >= ours if metric.higher else value(picture) <= ours

    def find(variants: Sequence[Variant]) -> Choice | None:
        choice = smallest(variants, photo, enough)
        if not choice:
            left_out[_name(variants)] = f"none of its settings reaches our {metric.shown(ours)}"
        return choice

    for done, choice in enumerate(_attempts(find, families, left_out), start=1):
        if choice:
            choices.append(choice)
        progress(done, len(families))
    return ours, choices


def _name(of: Sequence[Variant] | Choice) -> str:
    """Of the codec."""
    return (of.variant if isinstance(of, Choice) else of[0]).codec.name


def _attempts(work: Callable[[Of], Made | None], of: Collection[Of], left_out: dict[str, str]
              ) -> Iterator[Made | None]:
    """What is made of each, on all cores; None where a codec raises, and ``left_out`` gets why."""
    def attempt(each: Of) -> Made | None:
        try:
            return work(each)
        except Exception as error:  # no exit: in this process that is a signal to end
            left_out[_name(each)] = reason(error)
            return None

    return side_by_side(attempt, of)


def picture_bytes(turns: Sequence[Turn], choice: Choice) -> Row:
    """What the session's pictures take with a classical codec, turn by turn.

    Returns:
        Bytes of each turn, by the names of `WAYS`; see the module.
    """
    sizes: dict[int, int] = {}

    def size(picture: Image.Image) -> int:
        if id(picture) not in sizes:  # the pictures live as long as the turns
            sizes[id(picture)] = choice.variant.encode(picture, choice.setting).bare_bytes
        return sizes[id(picture)]

    changes, keeps, nothing = [], [], []
    for number, turn in enumerate(turns):
        sent, made, changed = (size(picture) if picture else 0
                               for picture in (turn.sent, turn.made, turn.changed))
        new = sent if number == 0 else 0
        changes.append(new + changed)
        keeps.append(new + made)
        nothing.append(sent + made)
    return {"codec": choice.variant.name, "setting": choice.setting,
            **dict(zip(WAYS, (changes, keeps, nothing), strict=True))}


# ── drift ─────────────────────────────────────────────────────────────────────────────────────


def left_half(photo: Image.Image, pitch: int, metric: Metric) -> Box:
    """The part that nobody edits: a box of whole columns of tokens.

    Raises:
        InvalidInput: it is too small to be judged.
    """
    width, least = photo.width // 2 // pitch * pitch, SMALLEST.get(metric.name, LOWEST)
    if min(width, photo.height) < least:
        raise InvalidInput(
            "photo", f"{photo.width}×{photo.height} pixels are too narrow or too low to be judged",
            f"use one of at least {2 * pitch * -(-least // pitch)}×{least} pixels")
    return 0, 0, width, photo.height


def drift(address: str, models: Models, photo: Image.Image, quality: int,
          choices: Sequence[Choice], metric: Metric, edits: int, seed: int,
          left_out: dict[str, str], progress: Progress) -> list[Row]:
    """Quality of the left half after 1, 5, 20, 50 turns of editing the right half.

    ``left_out`` gets codecs that fail on the way, and why.

    Returns:
        Rows with ``codec``, ``setting`` (but of ours), ``turns``, ``psnr``, ``metric`` by its name,
        and of ours ``changed_tokens`` (in the left half, since the first turn; anything but 0 is an
        error of ours).
    """
    pitch = models.coder.space.pitch(quality)
    kept = left_half(photo, pitch, metric)
    half = kept[2] // pitch  # columns of tokens
    judge = Judge(photo.crop(kept), [each.name for each in drift_metrics(metric)])
    pixels = dict.fromkeys(choices, photo)
    rows: list[Row] = []

    with Client(address, models=models) as cloud:
        picture = cloud.share(photo, quality=quality)
        first = picture.grid.codes[:, :half]
        for turn in range(1, edits + 1):
            box = _box(photo.size, kept[2], turn)
            picture = cloud.inpaint(picture, box, "", seed=seed + turn)
            edit = partial(_edited, pixels, picture.image.crop(box), box)
            found = _attempts(edit, pixels, left_out)
            pixels = {choice: after for choice, after in zip(pixels, found, strict=True) if after}
            if turn in (*CHECKPOINTS, edits):
                codes = picture.grid.codes[:, :half]
                shown = models.images.decode(TokenGrid(codes, kept[2], kept[3], pitch))
                rows.append({"codec": OURS, "turns": turn, **judge(shown),
                             "changed_tokens": int(np.count_nonzero(codes != first))})
                rows += [{"codec": choice.variant.name, "setting": choice.setting, "turns": turn,
                          **judge(coded.crop(kept))} for choice, coded in pixels.items()]
            progress(turn, edits)
    return rows


def _edited(pictures: Mapping[Choice, Image.Image], new: Image.Image, box: Box, choice: Choice
            ) -> Image.Image:
    """One of the pictures with something new in a box, coded anew."""
    edited = pictures[choice].copy()
    edited.paste(new, box[:2])
    data = choice.variant.encode(edited, choice.setting).data
    return choice.variant.decode(data, edited.size)


def drift_metrics(metric: Metric) -> list[Metric]:
    """``metric`` and PSNR."""
    return [METRICS[name] for name in dict.fromkeys((metric.name, "psnr"))]


def _box(size: tuple[int, int], left: int, turn: int) -> Box:
    """A box in the right half that wanders down with the turns."""
    width, height = size
    room, tall = width - left, max(1, height // 4)
    top = (turn - 1) % 4 * (height - tall) // 3
    return left + room // 4, top, max(left + room // 4 + 1, width - room // 4), top + tall


# ── all of a photo ────────────────────────────────────────────────────────────────────────────


def measure(address: str, models: Models, photo: Image.Image, settings: Settings,
            progress: Callable[[str], AbstractContextManager[Progress]]) -> Row:
    """Session and drift.

    Returns:
        ``turns`` (ours), ``bytes`` (of both ways together), ``value`` (our photo's by the metric),
        ``others`` (see `picture_bytes`), ``drift`` (see `drift`), and ``left_out``: codecs, and
        why.

    Raises:
        InvalidInput: the photo is too small to be judged.
        ServiceError: the service cannot be reached.
    """
    quality, metric, seed = settings.quality, settings.metric, settings.seed
    left_half(photo, models.coder.space.pitch(quality), metric)
    with Client(address, models=models):
        pass  # behind the relay an error would tell of the relay
    left_out: dict[str, str] = {}
    with progress("session") as show:
        turns = converse(address, models, photo, quality, seed, show)
    with progress("other codecs") as show:
        decoded = models.images.decode(
            models.images.encode(photo, models.coder.space.pitch(quality)))
        value, choices = match(settings.families, photo, decoded, metric, left_out, show)
        found = _attempts(partial(picture_bytes, turns), choices, left_out)
        others = {choice: row for choice, row in zip(choices, found, strict=True) if row}
    with progress("drift") as show:
        drifted = drift(address, models, photo, quality, [*others], metric, settings.edits, seed,
                        left_out, show)
    return {
        "turns": [turn.row for turn in turns],
        "bytes": sum(turn.row["up_bytes"] + turn.row["down_bytes"] for turn in turns),
        "value": value,
        "others": [*others.values()],
        "drift": drifted,
        "left_out": dict(sorted(left_out.items())),
    }
