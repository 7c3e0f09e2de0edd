"""Captions against bits: BLEU-4 and CIDEr.

BLEU (Papineni et al., ACL 2002) is of the corpus, CIDEr (arXiv 1411.5726) a mean over pictures;
both as ``pycocoevalcap`` computes them. Words are lower-cased runs of letters, digits and
apostrophes: no stemming, no Penn Treebank rules.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress, ignore
from unimic.edge.client import Client
from unimic.measure.codecs import Variant
from unimic.measure.html import Column
from unimic.measure.tasks.findings import Findings, Row
from unimic.measure.tasks.forms import ABOUT, COLUMNS, Forms, Totals
from unimic.measure.tasks.grounds import Subject, pictures

NEAREST = "caption of the nearest training photo"
THUMB = 16  # pixels a side, in which photos are compared


def measure(cloud: Client, subjects: Sequence[Subject], known: Sequence[Subject], count: int,
            families: Sequence[Sequence[Variant]], progress: Progress) -> Findings:
    """Have every form of the first ``count`` photos described.

    Args:
        cloud: the service.
        subjects: all test photos, with the captions of people.
        known: training photos, with theirs.
        count: of test photos that are described.
        families: the variants of each classical codec.
        progress: called as ``progress(done, all)`` after each photo.

    Returns:
        BLEU-4, CIDEr and words by codec and share, and the same of `nearest`.
    """
    nearest = Nearest(known)
    forms, totals, failed = Forms(cloud, families), Totals(), list[Row]()
    said: dict[tuple[str, float | None], dict[str, str]] = defaultdict(dict)
    for subject, image in pictures(subjects[:count], failed, progress):
        caption = cache(lambda picture: cloud.caption(picture).text)
        for form in forms(image):
            totals.add(form)
            said[form.codec, form.share][subject.name] = caption(form.picture)
        said[NEAREST, None][subject.name] = nearest(image)
    references = {subject.name: subject.captions for subject in subjects}
    rows = [{**row, **score(said[row["codec"], row["share"]], references)}
            for row, _ in totals.rows(forms.failed)]
    if NEAREST in {codec for codec, _ in said}:
        captions = said[NEAREST, None]
        rows.append({"codec": NEAREST, "images": len(captions), **score(captions, references)})
    return Findings(
        "Captions, Flickr8k test", f"{ABOUT} The nearest of {len(known):,} training photos is the "
        f"one of least squared difference at {THUMB}×{THUMB} pixels; its first caption counts.",
        (*COLUMNS, Column("bleu_4", "BLEU-4", 3), Column("cider", "CIDEr", 3),
         Column("different", "different captions")), rows, failed, "cider", forms.failed)


class Nearest:
    """Describes a photo by what was said about the known photo that looks most like it."""

    def __init__(self, known: Sequence[Subject]) -> None:
        found = [(subject.captions[0], _thumb(image))
                 for subject, image in pictures(known, [], ignore)]
        self._captions = [caption for caption, _ in found]
        self._thumbs = np.stack([thumb for _, thumb in found])

    def __call__(self, image: Image.Image) -> str:
        """The first caption of the nearest."""
        distances = np.square(self._thumbs - _thumb(image)).sum(1)
        return self._captions[int(distances.argmin())]


def _thumb(image: Image.Image) -> NDArray[np.float32]:
    small = image.resize((THUMB, THUMB), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel()


def score(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Row:
    """``bleu_4``, ``cider`` and ``different`` of captions by picture.

    CIDEr's document frequencies are of all ``references``, so that it does not depend on which
    pictures were described.

    Raises:
        InvalidInput: ``pycocoevalcap`` is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise InvalidInput("pycocoevalcap", "is not installed, and it scores captions",
                           "pip install pycocoevalcap") from error
    truth = {name: [words(text) for text in texts] for name, texts in references.items()}
    said = {name: [words(captions.get(name, ""))] for name in truth}
    _, each = Cider().compute_score(truth, said)
    (*_, bleu_4), _ = Bleu(4).compute_score({name: truth[name] for name in captions},
                                            {name: said[name] for name in captions}, verbose=0)
    return {"bleu_4": float(bleu_4), "different": len({*captions.values()}), "cider": float(
        np.mean([value for name, value in zip(truth, each, strict=True) if name in captions]))}


def words(text: str) -> str:
    """The words of a sentence, separated by spaces."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))
