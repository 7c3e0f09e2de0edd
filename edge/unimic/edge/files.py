"""Pictures and texts as the bytes of ``.umc`` files, and back. No service is needed.

::

    from unimic.edge import Models, decode, encode_image

    models = Models.load()  # once
    coded = encode_image("photo.jpg", models, budget=200)
    Path("photo.umc").write_bytes(coded.data)
    decode("photo.umc", models).image.save("photo.png")
"""

from __future__ import annotations

import io
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image

from unimic.codec import umc
from unimic.codec.errors import InvalidInput, LimitExceeded
from unimic.codec.frequencies import SKIP_ALL
from unimic.codec.packets import Packed, for_file, pack_image, pack_text
from unimic.codec.tokens import PITCHES, Codes, TokenGrid, check_size
from unimic.edge.arguments import USUAL_QUALITY, check_for_tokens, whole
from unimic.edge.cached import cached_property
from unimic.edge.images import FILE_LIMITS, FileSource, ImageSource, load_image, read_bytes
from unimic.edge.models import Models, check_models
from unimic.edge.rate import pack_photo_within
from unimic.v1 import packet_pb2 as pb


@dataclass(frozen=True)
class Encoded:
    """A ``.umc`` file.

    Attributes:
        data: its bytes.
        ideal_bits: information of its tokens under the models; of raw ones, their fixed lengths.
        payload_bytes: of the coded tokens; the rest are headers and the container.
    """

    data: bytes
    ideal_bits: float
    payload_bytes: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a ``.umc`` file holds.

    Attributes:
        packets: as they are in the file.
        contents: of each: the tokens of a picture, the ids of a text (int32 ``(n,)``), or a mask
            (bool ``(rows, columns)``).
        models: that turn tokens into pixels, and ids into text.
    """

    packets: Sequence[pb.Packet]
    contents: Sequence[umc.Content]
    models: Models

    @cached_property
    def image(self) -> Image.Image:
        """The last picture, RGB; made when first asked for.

        Raises:
            InvalidInput: there is none.
        """
        return self.models.images.decode(self.grid)

    @property
    def grid(self) -> TokenGrid:
        """The tokens of the last picture, to be shared with a service or written again.

        Raises:
            InvalidInput: there is none.
        """
        grid = self.last({pb.KIND_IMAGE})
        if grid is None:
            raise InvalidInput("file", "holds no picture", "see its contents")
        return cast(TokenGrid, grid)

    @cached_property
    def text(self) -> str:
        """The last text.

        Raises:
            InvalidInput: there is none, or it is not UTF-8.
        """
        ids = self.last({pb.KIND_TEXT})
        if ids is None:
            raise InvalidInput("file", "holds no text", "see its contents")
        return self.models.text.decode(cast(Codes, ids))

    def last(self, kinds: Container[int]) -> umc.Content | None:
        """The last content whose packet is of one of these ``pb.Kind``."""
        return next((content for packet, content in
                     zip(reversed(self.packets), reversed(self.contents), strict=True)
                     if packet.kind in kinds), None)


def encode_image(image: ImageSource | TokenGrid, models: Models, *, prompt: str | None = None,
                 quality: int = USUAL_QUALITY, budget: int | None = None, raw: bool = False
                 ) -> Encoded:
    """Code a picture.

    Args:
        image: a path, the bytes of a file, an open binary file, or a Pillow image; or tokens of
            these models, `Picture.grid` or `Decoded.grid`, without ``quality`` and ``budget``.
        models: see `Models.load`.
        prompt: a description, coded first and used to code the picture.
        quality: 25 to 200. At 100 a token stands for 16×16 pixels, at 200 for 8×8.
        budget: at most so many bytes, and as faithful as they allow, whatever ``quality`` says.
        raw: write fixed-length tokens instead of entropy coding.

    Raises:
        InvalidInput: not a picture, or an argument that is out of range.
        LimitExceeded: the picture is too large, or the budget too small.
        UnknownModel: there is no entropy model that is exact here; ``raw`` works without.
    """
    check_models(models)
    pitch = models.coder.space.pitch(whole("quality", quality))
    if budget is not None:
        budget = whole("budget", budget)
        if raw:
            raise InvalidInput("budget", "needs entropy coding", "leave out raw")
    parts, ids = [], None
    if prompt is not None:
        ids = models.text_ids(prompt, "prompt", FILE_LIMITS.max_text_tokens)
        parts.append(_text_part(ids, models, raw))
    if isinstance(image, TokenGrid):
        check_for_tokens(quality, budget)
        check_size(image.width, image.height, image.pitch, FILE_LIMITS.max_tokens)
        packed: Packed = pack_image(models.coder, image, prompt=ids, raw=raw)
    elif budget is None:
        photo = load_image(image)
        check_size(photo.width, photo.height, pitch, FILE_LIMITS.max_tokens)
        packed = pack_image(models.coder, models.images.encode(photo, pitch), prompt=ids, raw=raw)
    else:
        packed = _pack_within(load_image(image), ids, parts, budget, models)
    return _file([*parts, _image_part(packed, models)])


def encode_text(text: str, models: Models, *, raw: bool = False) -> Encoded:
    """Code a text; the arguments are those of `encode_image`.

    Raises:
        InvalidInput: it is no string, or no Unicode.
        LimitExceeded: it is too long.
        UnknownModel: as `encode_image`.
    """
    check_models(models)
    ids = models.text_ids(text, "text", FILE_LIMITS.max_text_tokens)
    return _file([_text_part(ids, models, raw)])


def decode(source: FileSource, models: Models) -> Decoded:
    """What a ``.umc`` file holds.

    Args:
        source: a path, the file's bytes, or an open binary file.
        models: see `Models.load`.

    Raises:
        InvalidInput: there is no such file.
        CorruptData: it is no ``.umc`` file, or damaged.
        LimitExceeded: it is too large, or holds too many or too large packets.
        UnknownModel: it was made with other models.
    """
    check_models(models)
    packets = umc.read(io.BytesIO(read_bytes(source)), FILE_LIMITS)
    return Decoded(packets, umc.decode(models.coder, packets, limits=FILE_LIMITS), models)


def _pack_within(photo: Image.Image, ids: Codes | None, parts: list[Packed], budget: int,
                 models: Models) -> Packed:
    """The picture, such that a file of ``parts`` and it has at most ``budget`` bytes."""
    check_size(photo.width, photo.height, PITCHES[-1], FILE_LIMITS.max_tokens)
    grid = models.images.encode(photo, PITCHES[-1])
    least: Packed = pack_image(models.coder, grid, prompt=ids, skip=SKIP_ALL)
    smallest = len(_file([*parts, _image_part(least, models)]).data)
    if smallest > budget:
        raise LimitExceeded("budget", f"{budget} bytes are too few",
                            f"this file takes at least {smallest}")
    room = budget - smallest - 2  # a longer packet may need two more bytes for its length
    if room <= 0:
        return least
    return pack_photo_within(models.coder, models.images, photo, least.sizes.wire_bytes + room,
                             most_tokens=FILE_LIMITS.max_tokens, prompt=ids)


def _image_part(packed: Packed, models: Models) -> Packed:
    conditioned = packed.packet.scenario == pb.SCENARIO_TEXT_CONDITIONED
    return Packed(for_file(packed.packet, models.coder, [0] if conditioned else []), packed.sizes)


def _text_part(ids: Codes, models: Models, raw: bool) -> Packed:
    packed = pack_text(models.coder, ids, raw=raw)
    return Packed(for_file(packed.packet, models.coder), packed.sizes)


def _file(parts: Sequence[Packed]) -> Encoded:
    file = io.BytesIO()
    umc.write(file, [part.packet for part in parts])
    return Encoded(file.getvalue(), sum(part.sizes.ideal_bits for part in parts),
                   sum(part.sizes.payload_bytes for part in parts))
