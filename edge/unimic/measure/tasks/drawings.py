"""Drawings by prompt: whether colour and shape are those that were asked for.

"a red circle", and so for all 8 colours and 3 shapes, in several seeds. Two judges look at every
drawing: the service, asked for colour and shape, and plain image analysis (`outlines`). How far
they can be trusted stands beside it: what both say about the test drawings of easy-VQA whose colour
and shape are known, sent as tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unimic.codec.progress import Progress
from unimic.edge.client import Client
from unimic.edge.contact_sheet import Tile
from unimic.edge.models import Models
from unimic.edge.results import Picture
from unimic.measure.html import Column
from unimic.measure.tasks.findings import Findings, Row
from unimic.measure.tasks.grounds import COLOURS, SHAPES, SIDE, Drawing, pictures
from unimic.measure.tasks.outlines import describe

ASKED = ("what color is the shape?", "what shape is in the image?")
ANALYSIS, SERVICE = "image analysis", "the service's answers"


Verdicts = dict[str, tuple[str, str]]
"""Colour and shape, by judge."""


def measure(cloud: Client, models: Models, subjects: Sequence[Drawing], seeds: int,
            samples: list[Tile], progress: Progress) -> Findings:
    """Draw every colour and shape, and judge.

    Args:
        cloud: the service.
        models: show what the service sees.
        subjects: test drawings; those whose colour and shape are known count.
        seeds: drawings of each prompt.
        samples: gets six of the drawings.
        progress: called as ``progress(done, all)`` after each drawing.

    Returns:
        Right colours, shapes, and both, in percent.
    """
    known = [subject for subject in subjects if subject.colour and subject.shape]
    wanted = [(colour, shape, seed)
              for seed in range(seeds) for colour in COLOURS for shape in SHAPES]
    failed: list[Row] = []

    def verdicts(picture: Picture) -> Verdicts:
        colour, shape = (cloud.ask(picture, question).text for question in ASKED)
        return {SERVICE: (colour, shape), ANALYSIS: describe(models.images.decode(picture.grid))}

    def show(done: int) -> None:
        progress(done, len(wanted) + len(known))

    drawn: list[tuple[tuple[str, str], Verdicts]] = []
    for number, (colour, shape, seed) in enumerate(wanted):
        picture = cloud.generate(f"a {colour} {shape}", SIDE, SIDE, seed=seed)
        drawn.append(((colour, shape), verdicts(picture)))
        if number % 4 == 0 and seed == 0:
            samples.append(Tile(picture.image, "drawn", f"“a {colour} {shape}”",
                                f"{picture.stats.down.wire_bytes:,} bytes down"))
        show(len(drawn))
    real = [((str(subject.colour), str(subject.shape)), verdicts(cloud.share(image)))
            for subject, image in pictures(known, failed, lambda done, _: show(len(wanted) + done))]
    return Findings(TITLE, ABOUT, COLUMNS, [*_rows("drawn by prompt", drawn),
                                            *_rows("test drawings, as tokens", real)], failed)


TITLE = "Drawings by prompt, easy-VQA"
ABOUT = (
    "“a red circle” and so on for 8 colours and 3 shapes, judged by the service's answers about "
    "its own drawings and by plain image analysis: what stands out from the ground, its nearest "
    "named colour, the outline that covers it best. Below, what both judges say about real "
    "drawings of known colour and shape that went through the tokenizer: how far they can be "
    "trusted.")
COLUMNS = (Column("pictures", "pictures"), Column("judge", "judge", left=True),
           Column("colour", "colour right, %", 1), Column("shape", "shape right, %", 1),
           Column("both", "both right, %", 1), Column("count", "count"))


def _rows(name: str, judged: Sequence[tuple[tuple[str, str], Verdicts]]) -> Iterator[Row]:
    for judge in (SERVICE, ANALYSIS) if judged else ():
        right = [[a == b for a, b in zip(truth, verdicts[judge], strict=True)]
                 for truth, verdicts in judged]
        yield {"pictures": name, "judge": judge, "count": len(judged),
               "colour": 100 * sum(colour for colour, _ in right) / len(right),
               "shape": 100 * sum(shape for _, shape in right) / len(right),
               "both": 100 * sum(map(all, right)) / len(right)}
