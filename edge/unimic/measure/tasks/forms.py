"""A picture on its way to the service: as it is, as fewer and fewer tokens, and squeezed.

The service works on tokens only: pictures that were squeezed are tokenized after decoding, and what
it says about an uncompressed picture is what it says about all its tokens, for these arrive without
loss. So these two forms are one picture of the session, and need be asked about once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from unimic.edge.client import Client
from unimic.edge.results import Picture
from unimic.measure.choose import side_by_side, within
from unimic.measure.codecs import OURS, Variant, reason
from unimic.measure.html import Column
from unimic.measure.tasks.findings import Row

SHARES = (1.0, 0.75, 0.5)  # of the bytes that all tokens of a picture take
UNCOMPRESSED = "uncompressed"
COLUMNS = (Column("codec", "codec"), Column("share", "of all tokens' bytes", 2),
           Column("bytes", "bytes a picture", 0), Column("bpp", "bits per pixel", 4),
           Column("over_budget", "over budget, % of pictures", 0), Column("images", "pictures"))
"""Of `Totals.rows`."""
ABOUT = (
    "The service answers from tokens. Uncompressed: all tokens of the picture, which it would also "
    "find by itself in the pixels. The others were squeezed to the bytes of our packet, or of a "
    "share of it, decoded, and then tokenized. Over budget: pictures that the codec could not make "
    "so small; their bytes are what it took at least.")


@dataclass(frozen=True)
class Form:
    """A picture that the service holds.

    Attributes:
        codec: what brought it into this form.
        share: of the bytes of all its tokens that were allowed; None where none were set.
        size: in bytes.
        picture: of the session.
        over_budget: whether the size is more than allowed.
    """

    codec: str
    share: float | None
    size: int
    picture: Picture
    over_budget: bool = False


class Forms:
    """Brings pictures into all forms: uncompressed, ours, and of each family of variants.

    Args:
        cloud: the service.
        families: the variants of each classical codec.

    Attributes:
        failed: codecs that raised, and what; they are left out from there on.
    """

    def __init__(self, cloud: Client, families: Sequence[Sequence[Variant]]) -> None:
        self.failed: dict[str, str] = {}
        self._cloud, self._families = cloud, families

    def __call__(self, image: Image.Image) -> Iterator[Form]:
        """All forms of a picture."""
        whole = self._cloud.share(image)
        full = whole.stats.up.wire_bytes
        yield Form(UNCOMPRESSED, None, image.width * image.height * 3, whole)
        budgets = [int(full * share) for share in SHARES]
        for share, budget in zip(SHARES, budgets, strict=True):
            shared = whole if share == 1 else self._cloud.share(image, budget=budget)
            yield Form(OURS, share, shared.stats.up.wire_bytes, shared)
        found = side_by_side(lambda variants: self._squeeze(variants, image, budgets),
                             self._families)
        for variants, squeezed in zip(self._families, found, strict=True):
            for share, budget, (size, decoded) in zip(SHARES, budgets, squeezed, strict=False):
                yield Form(variants[0].codec.name, share, size, self._cloud.share(decoded),
                           size > budget)

    def _squeeze(self, variants: Sequence[Variant], image: Image.Image, budgets: Sequence[int]
                 ) -> list[tuple[int, Image.Image]]:
        """Bytes, and the picture of them, by budget; nothing of a codec that fails."""
        codec = variants[0].codec.name
        if codec in self.failed:
            return []
        try:
            return [(choice.encoded.bare_bytes, choice.decoded)
                    for choice in within(variants, image, budgets)]
        except (Exception, SystemExit) as error:  # a codec may raise anything, and want to exit
            self.failed[codec] = reason(error)
            return []


class Totals:
    """Sums by codec and share."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, float | None], dict[str, float]] = defaultdict(
            lambda: defaultdict(float))

    def add(self, form: Form, **figures: float) -> None:
        """Count a picture, and what else is summed over pictures."""
        sums = self._sums[form.codec, form.share]
        size = {"images": 1, "bytes": form.size, "over": form.over_budget,
                "pixels": form.picture.width * form.picture.height}
        for name, value in (size | figures).items():
            sums[name] += value

    def rows(self, failed: Container[str]) -> Iterator[tuple[Row, dict[str, float]]]:
        """For each codec and share the row of `COLUMNS`, and all sums.

        Not of codecs that ``failed``: their means would be of fewer pictures.
        """
        for (codec, share), sums in self._sums.items():
            if codec in failed:
                continue
            yield {"codec": codec, "share": share, "images": int(sums["images"]),
                   "bytes": sums["bytes"] / sums["images"],
                   "bpp": 8 * sums["bytes"] / sums["pixels"],
                   "over_budget": 100 * sums["over"] / sums["images"]}, sums
