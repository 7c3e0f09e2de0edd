"""Answers about pictures against bits: tokens beside squeezed pictures.

Every picture goes to a service in several forms, and the same questions are asked about each: as it
is; as tokens that leave out more and more; and squeezed by each classical codec, with or without
scaling, to the bytes that our tokens take (whole packet against whole file). The service works on
tokens only: pictures that were squeezed are tokenized after decoding, and what it answers about an
uncompressed picture is what it answers about all its tokens, for these arrive without loss.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.edge.client import Client
from unimic.edge.images import load_image
from unimic.measure.choose import within
from unimic.measure.codecs import Variant
from unimic.measure.html import Column, Point, legend, page, paragraph, plot, section, table

Progress = Callable[[int, int], None]
Row = dict[str, Any]

EASY_VQA_SIDE = 224  # pixels to which its 64×64 drawings are enlarged
SHARES = (1.0, 0.75, 0.5)  # of the bytes that all tokens of a picture take
UNCOMPRESSED, OURS = "uncompressed", "unimic"


@dataclass(frozen=True)
class Subject:
    """A picture and what is asked about it.

    Attributes:
        image: RGB.
        questions: with their right answers.
    """

    image: Image.Image
    questions: tuple[tuple[str, str], ...]


def easy_vqa(count: int) -> list[Subject]:
    """The first ``count`` drawings of the easy-VQA test split, enlarged.

    Raises:
        InvalidInput: the package ``easy-vqa`` is not installed.
    """
    try:
        import easy_vqa as package
    except ImportError as error:
        raise InvalidInput("easy-vqa", "is not installed", "pip install easy-vqa") from error
    asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, number in zip(*package.get_test_questions(), strict=True):
        asked[number].append((question, answer))
    paths = package.get_test_image_paths()
    size = (EASY_VQA_SIDE, EASY_VQA_SIDE)
    return [Subject(load_image(paths[number]).resize(size, Image.Resampling.BICUBIC), tuple(pairs))
            for number, pairs in sorted(asked.items())[:count]]


def daquar(folder: Path, count: int) -> list[Subject]:
    """The first ``count`` pictures of DAQUAR's evaluation split.

    Args:
        folder: ``daquar-eval.csv`` with the columns image_id, question, answer; and the pictures
            beside it, any format, named by their image_id.
        count: of pictures.

    Raises:
        InvalidInput: the folder lacks them.
    """
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    try:
        with (folder / "daquar-eval.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                asked[row["image_id"]].append((row["question"].strip(), row["answer"].strip()))
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise InvalidInput(str(folder), f"daquar-eval.csv cannot be read ({error!r})",
                           "name the folder of DAQUAR") from error
    files = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix != ".csv"}
    known = [name for name in asked if name in files][:count]
    if not known:
        raise InvalidInput(str(folder), "has no picture that daquar-eval.csv names",
                           "unpack the pictures beside it")
    return [Subject(load_image(files[name]), tuple(asked[name])) for name in known]


@dataclass(frozen=True)
class Form:
    """A picture on its way to the service.

    Attributes:
        codec: what brought it into this form.
        share: of the bytes of all its tokens that were allowed; None where none were set.
        size: in bytes; None where the session tells.
        image: that the service tokenizes.
        budget: bytes for its tokens; None sends them all.
    """

    codec: str
    share: float | None
    size: int | None
    image: Image.Image
    budget: int | None = None


def forms(image: Image.Image, full: int, families: Sequence[Sequence[Variant]]) -> Iterator[Form]:
    """All forms of a picture whose tokens take ``full`` bytes, but for the uncompressed one."""
    for share in SHARES:
        budget = int(full * share)
        yield Form(OURS, share, None, image, None if share == 1 else budget)
        for variants in families:
            choice = within(variants, image, budget)
            yield Form(variants[0].codec.name, share, len(choice.data), choice.decoded)


def measure(cloud: Client, subjects: Sequence[Subject], families: Sequence[Sequence[Variant]],
            progress: Progress) -> list[Row]:
    """Ask everything about every form.

    Args:
        cloud: the service.
        subjects: what is asked.
        families: the variants of each classical codec.
        progress: called as ``progress(done, all)`` after each picture.

    Returns:
        Means by codec and share: ``bytes``, ``bpp``, ``accuracy`` in percent, ``over_budget``, the
        percentage of pictures that the codec could not make so small.
    """
    totals: dict[tuple[str, float | None], dict[str, float]] = defaultdict(
        lambda: defaultdict(float))
    for done, subject in enumerate(subjects):
        progress(done, len(subjects))
        image = subject.image
        shared = cloud.share(image)
        full = shared.stats.up.wire_bytes
        raw = image.width * image.height * 3
        for form in (Form(UNCOMPRESSED, None, raw, image), *forms(image, full, families)):
            picture = cloud.share(form.image, budget=form.budget)
            right = sum(_same(cloud.ask(picture, question).text, answer)
                        for question, answer in subject.questions)
            size = form.size or picture.stats.up.wire_bytes
            total = totals[form.codec, form.share]
            total["images"] += 1
            total["questions"] += len(subject.questions)
            total["right"] += right
            total["bytes"] += size
            total["pixels"] += image.width * image.height
            if form.share and form.size:  # ours keeps its budgets, by construction
                total["over"] += form.size > full * form.share
    progress(len(subjects), len(subjects))
    return [{
        "codec": codec, "share": share, "images": int(total["images"]),
        "questions": int(total["questions"]), "bytes": total["bytes"] / total["images"],
        "bpp": 8 * total["bytes"] / total["pixels"],
        "accuracy": 100 * total["right"] / total["questions"],
        "over_budget": 100 * total["over"] / total["images"],
    } for (codec, share), total in totals.items()]


def _same(given: str, right: str) -> bool:
    """Whether two answers are equal, but for case, spaces and underscores."""
    return (given.replace("_", " ").lower().split() == right.replace("_", " ").lower().split())


_COLUMNS = [Column("codec", "codec"), Column("share", "of all tokens' bytes", 2),
            Column("bytes", "bytes a picture", 0), Column("bpp", "bits per pixel", 4),
            Column("accuracy", "right, %", 1),
            Column("over_budget", "over budget, % of pictures", 0),
            Column("images", "pictures"), Column("questions", "questions")]


def text(facts: Mapping[str, Sequence[Row]]) -> list[str]:
    """The figures as lines for a terminal."""
    lines = []
    for ground, rows in facts.items():
        lines += [f"{ground}: {rows[0]['questions']:,} questions about {rows[0]['images']:,} "
                  "pictures",
                  f"  {'codec':<14}{'share':>7}{'bytes':>10}{'bpp':>9}{'right':>8}{'over':>7}"]
        lines += [f"  {row['codec']:<14}{row['share'] or '–':>7}{row['bytes']:>10,.0f}"
                  f"{row['bpp']:>9.4f}{row['accuracy']:>7.1f}%{row['over_budget']:>6.0f}%"
                  for row in rows]
    return lines


def html(facts: Mapping[str, Sequence[Row]], command: str, machine: str,
         versions: Mapping[str, str]) -> str:
    """The figures as a report."""
    names = list(dict.fromkeys(row["codec"] for rows in facts.values() for row in rows
                               if row["codec"] != UNCOMPRESSED))
    parts = [f"<p class=faint><code>{escape(command)}</code><br>{escape(machine)}</p>", paragraph(
        "The service answers from tokens. Uncompressed: all tokens of the picture, which it would "
        "also find by itself in the pixels. The others were squeezed to the bytes of our packet, "
        "or of a share of it, decoded, and then tokenized. Over budget: pictures that the codec "
        "could not make so small; their bytes are what it took at least.")]
    for ground, rows in facts.items():
        curves = {name: sorted((Point(row["bpp"], row["accuracy"],
                                      f"{name}: {row['bpp']:.4f} bpp, {row['accuracy']:.1f} %")
                                for row in rows if row["codec"] == name),
                               key=lambda point: point.x) for name in names}
        parts.append(section(
            ground, legend(names), "<div class=plots>",
            plot("right answers, %", "bits per pixel", curves, bold=OURS, log_x=True), "</div>",
            table(_COLUMNS, rows, OURS)))
    parts.append(section("Made with", table(
        [Column("name", "what"), Column("version", "version", left=True)],
        [{"name": name, "version": version} for name, version in versions.items()])))
    return page("UniMIC: answers against bits", parts, names)
