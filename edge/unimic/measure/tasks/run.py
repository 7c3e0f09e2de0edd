"""All parts, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress
from unimic.edge.client import Client
from unimic.edge.contact_sheet import Tile, contact_sheet
from unimic.edge.models import Models
from unimic.measure.codecs import Variant
from unimic.measure.metrics import METRICS, Metric
from unimic.measure.tasks import answers, captions, drawings, grounds, inpainting, photos
from unimic.measure.tasks.findings import Findings

TASKS = ("answers", "captions", "inpainting", "drawings", "photos")
Part = Callable[[Client, Progress], Findings]


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        tasks: of `TASKS`.
        daquar: folder of the test set; without it, it is left out.
        flickr8k: likewise.
        count: pictures of each test set.
        seeds: drawings of each prompt.
        families: the variants of each classical codec.
    """

    tasks: Sequence[str]
    daquar: Path | None
    flickr8k: Path | None
    count: int
    seeds: int
    families: Sequence[Sequence[Variant]]


Samples = dict[str, list[Tile]]
"""Some of the pictures that were made, by part."""


def plan(models: Models, options: Options, samples: Samples) -> dict[str, Part]:
    """What measures each part, by its name; the test sets are looked for now.

    Args:
        models: of the token space.
        options: what is measured.
        samples: filled when the parts are measured.

    Raises:
        InvalidInput: a folder lacks what it should have, or none of the tasks has one.
    """
    tasks, count, families = options.tasks, options.count, options.families
    parts: dict[str, Part] = {}
    if {"answers", "drawings"} & {*tasks}:
        shapes = grounds.easy_vqa(count)
    if options.flickr8k:
        scenes = grounds.flickr8k(options.flickr8k, "test")
    if "answers" in tasks:
        parts["easy-VQA"] = lambda cloud, show: answers.measure(
            "Answers, easy-VQA test", cloud, shapes, families, show)
    if "answers" in tasks and options.daquar:
        rooms = grounds.daquar(options.daquar, count)
        usual = grounds.usual_answers(options.daquar)
        parts["DAQUAR"] = lambda cloud, show: answers.measure(
            "Answers, DAQUAR eval", cloud, rooms, families, show, usual)
    if "captions" in tasks and options.flickr8k:
        known = grounds.flickr8k(options.flickr8k, "train")
        parts["captions"] = lambda cloud, show: captions.measure(
            cloud, scenes, known, count, families, show)
    if "inpainting" in tasks and options.flickr8k:
        parts["inpainting"] = lambda cloud, show: inpainting.measure(
            cloud, models, scenes[:count], samples.setdefault("inpainting", []), show)
    if "drawings" in tasks:
        parts["drawings"] = lambda cloud, show: drawings.measure(
            cloud, models, shapes, options.seeds, samples.setdefault("drawings", []), show)
    if "photos" in tasks and options.flickr8k:
        parts["photos"] = lambda cloud, show: photos.measure(
            cloud, models, scenes[:count], samples.setdefault("photos", []), show)
    if not parts:
        raise InvalidInput("--tasks", "have no test set", "name its folder")
    return parts


def judges(parts: Iterable[str]) -> list[Metric]:
    """What parts of a `plan` judge pictures by."""
    of_parts = {"inpainting": inpainting.JUDGES, "photos": (photos.JUDGE,)}
    return [METRICS[name] for part in parts for name in of_parts.get(part, ())]


def sheet(samples: Samples) -> Image.Image | None:
    """A contact sheet of pictures that were made, the parts below each other; None if none was."""
    rows = [contact_sheet(tiles) for tiles in samples.values() if tiles]
    if not rows:
        return None
    whole = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole
