"""Photos by caption: how far they are from real ones.

Every test photo's first caption becomes a picture of the photo's size. The set of them is compared
with the set of the photos by the kernel Inception distance, which unlike FID is meaningful for few
pictures. Beside it stands that of the photos' own tokens, decoded: nothing made of tokens can be
expected to come nearer; and that of plain pictures in the photos' mean colours, which anything
should beat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from unimic.codec.errors import InvalidInput
from unimic.codec.progress import Progress
from unimic.edge.client import Client
from unimic.edge.contact_sheet import Tile
from unimic.edge.models import Models
from unimic.measure import metrics
from unimic.measure.codecs import OURS
from unimic.measure.html import Column
from unimic.measure.tasks.findings import Findings, Row
from unimic.measure.tasks.grounds import Subject, pictures

JUDGE = "kid"
REAL, FLOOR, PLAIN = "photos", "photos, re-encoded", "mean colours"
SEED = 0
SAMPLES = 6


def measure(cloud: Client, models: Models, subjects: Sequence[Subject], samples: list[Tile],
            progress: Progress) -> Findings:
    """Make a picture of every first caption.

    Args:
        cloud: the service.
        models: of the token space.
        subjects: photos with captions; those too small to be judged are left out.
        samples: gets the first `SAMPLES` pictures.
        progress: called as ``progress(done, all)`` after each photo.

    Raises:
        InvalidInput: the network that judges is not installed.
    """
    _, missing = metrics.find([JUDGE])
    if missing:
        raise InvalidInput(JUDGE, "is what photos are judged by, and it is not installed",
                           *missing.values())
    features: dict[str, list[metrics.Features]] = defaultdict(list)
    failed: list[Row] = []
    for subject, photo in pictures(subjects, failed, progress):
        if min(photo.size) < (least := metrics.SMALLEST[JUDGE]):
            failed.append({"picture": subject.name, "error": f"is under {least} pixels a side"})
            continue
        made = cloud.generate(subject.captions[0], *photo.size, seed=SEED)
        colour = np.rint(np.asarray(photo).mean((0, 1))).astype(int).tolist()
        for name, picture in (
                (REAL, photo), (OURS, made.image),
                (PLAIN, Image.new("RGB", photo.size, tuple(colour))),
                (FLOOR, models.images.decode(models.images.encode(photo)))):
            features[name].append(metrics.crop_features(picture))
        if len(samples) < SAMPLES:
            samples.append(Tile(made.image, "drawn", f"“{subject.captions[0]}”",
                                f"{made.stats.down.wire_bytes:,} bytes down"))
    rows = [{"pictures": name, "kid": metrics.kid(features[REAL], features[name]),
             "count": len(features[name])} for name in (OURS, PLAIN, FLOOR)]
    return Findings(TITLE, ABOUT, COLUMNS, rows, failed, losses=LOSSES)


TITLE = "Photos by caption, Flickr8k test"
ABOUT = (
    "Each photo's first caption becomes a picture; the set of them is compared with the photos by "
    "the kernel Inception distance × 1000. Re-encoded: the photos' own tokens, decoded; nothing "
    "made of tokens can be expected to be nearer. Mean colours: plain pictures.")
LOSSES = (
    "† a distance on the first blocks of the judging network was a training loss of the image "
    "tokenizer.")
COLUMNS = (Column("pictures", "pictures"), Column("kid", "KID × 1000 †", 1),
           Column("count", "count"))
