"""Right answers against bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from unimic.codec.progress import Progress
from unimic.edge.client import Client
from unimic.edge.results import Picture
from unimic.measure.codecs import Variant
from unimic.measure.html import Column
from unimic.measure.tasks.findings import Findings, Row
from unimic.measure.tasks.forms import ABOUT, COLUMNS, Forms, Totals
from unimic.measure.tasks.grounds import Subject, pictures

TOGETHER = 8  # questions
BLIND = "the usual answer, without a look"


def measure(title: str, cloud: Client, subjects: Sequence[Subject],
            families: Sequence[Sequence[Variant]], progress: Progress,
            usual: Callable[[str], str] | None = None) -> Findings:
    """Ask everything about every form of every picture.

    Args:
        title: of the test set.
        cloud: the service.
        subjects: what is asked.
        families: the variants of each classical codec.
        progress: called as ``progress(done, all)`` after each picture.
        usual: answers a question without the picture; gets a row of its own.

    Returns:
        Means by codec and share, in percent: ``accuracy``, the share of answers that equal the
        published one, see `same`, and ``confidence``, how sure of them the service says it is.
    """
    forms, totals, failed = Forms(cloud, families), Totals(), list[Row]()
    asked = guessed = 0
    with ThreadPoolExecutor(TOGETHER) as pool:  # so that the service looks at a picture once
        for subject, image in pictures(subjects, failed, progress):
            @cache
            def asked_about(picture: Picture,
                            pairs: tuple[tuple[str, str], ...] = subject.questions
                            ) -> dict[str, float]:
                given = list(pool.map(lambda pair: cloud.ask(picture, pair[0]), pairs))
                return {"questions": len(pairs), "sure": sum(told.confidence for told in given),
                        "right": sum(same(told.text, answer)
                                     for told, (_, answer) in zip(given, pairs, strict=True))}

            for form in forms(image):
                totals.add(form, **asked_about(form.picture))
            asked += len(subject.questions)
            if usual:
                guessed += sum(same(usual(question), answer)
                               for question, answer in subject.questions)
    rows = [{**row, "questions": int(sums["questions"]),
             "accuracy": 100 * sums["right"] / sums["questions"],
             "confidence": 100 * sums["sure"] / sums["questions"]}
            for row, sums in totals.rows(forms.failed)]
    if usual and asked:
        rows.append({"codec": BLIND, "accuracy": 100 * guessed / asked, "questions": asked})
    return Findings(title, ABOUT, (*COLUMNS, Column("questions", "questions"),
                                   Column("accuracy", "right, %", 1),
                                   Column("confidence", "confidence, %", 1)),
                    rows, failed, "accuracy", forms.failed)


def same(given: str, right: str) -> bool:
    """Whether two answers are equal, but for case, spaces and underscores."""
    return given.replace("_", " ").lower().split() == right.replace("_", " ").lower().split()
