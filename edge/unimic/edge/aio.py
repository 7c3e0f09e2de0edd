"""The asynchronous client: photos and prompts in, pictures and answers out."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import numpy as np

from unimic.codec.canvas import Margins, enlarge
from unimic.codec.errors import CorruptData, InvalidInput, UnimicError
from unimic.codec.limits import Limits
from unimic.codec.packets import (
    Packed,
    PackedImage,
    Sizes,
    for_session,
    from_session,
    pack_image,
    pack_mask,
    pack_text,
    packet_size,
    unpack_image,
    unpack_text,
)
from unimic.codec.progress import Progress, run_watched
from unimic.codec.tokens import Codes, Mask, TokenGrid, check_size, check_tokens
from unimic.edge.arguments import (
    USUAL_QUALITY,
    check_address,
    check_for_tokens,
    check_kind,
    check_progress,
    check_text,
    number,
    whole,
)
from unimic.edge.connection import CONNECT_SECONDS, Connection, Interrupted, Reply, Tls
from unimic.edge.images import ImageSource, load_image
from unimic.edge.models import Models, check_models
from unimic.edge.rate import pack_photo_within
from unimic.edge.regions import MaskSource, View, find_region, grow
from unimic.edge.results import Answer, Canvas, Edit, Picture, Stats
from unimic.v1 import packet_pb2
from unimic.v1 import service_pb2 as pb

P = ParamSpec("P")
T = TypeVar("T")
Shareable = ImageSource | Picture | TokenGrid


class DeadlineExceeded(UnimicError, TimeoutError):
    """A call took longer than its ``timeout``; the server has been told to stop."""


class AsyncClient:
    """A session with the cloud service, for one event loop.

    ::

        async with AsyncClient("localhost:50051") as cloud:
            photo = await cloud.share("kitchen.jpg")
            answer = await cloud.ask(photo, "what is on the table?")

    Calls may run side by side (``asyncio.gather``); the server batches them. To cancel one, cancel
    its task, or raise in its ``on_progress``: the server stops computing at its next step.
    Pictures belong to their session, and the server forgets each when nobody here refers to it any
    more. All calls raise `UnimicError`: `InvalidInput` and `LimitExceeded` for arguments,
    `DeadlineExceeded` after ``timeout``, `ServiceError` when the session has ended.

    Args:
        address: ``host:port``.
        tls: encrypt; see `Tls`.
        models: those that the package ships, unless given; load them once for many clients.
        timeout: seconds for a call that does not say its own; None waits for ever.
        connect_timeout: seconds for opening the session.
        limits: of what the server may send; raise them for one whose own are raised.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, models: Models | None = None,
                 timeout: float | None = None, connect_timeout: float | None = CONNECT_SECONDS,
                 limits: Limits | None = None) -> None:
        check_address(address)
        check_kind("tls", tls, Tls | None, "Tls", "use Tls(…)")
        check_kind("limits", limits, Limits | None, "Limits", "use Limits(…)")
        self._address = address
        self._tls = tls
        self._models = Models.load() if models is None else models
        check_models(self._models)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._limits = limits or Limits()
        self._connection: Connection | None = None
        self._dropped: weakref.finalize[..., AsyncClient] | None = None

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    async def connect(self) -> None:
        """Open the session, in place of the one before; ``async with`` does it.

        Of several calls at a time the first one that succeeds opens it for all.

        Raises:
            ServiceError: the service cannot be reached or works in another token space.
        """
        timeout = self._connect_timeout
        if timeout is not None:
            timeout = number("connect_timeout", timeout, 0, math.inf)
        await self.close()
        before = self._connection
        connection = Connection(self._address, self._tls, self._limits.max_message_bytes)
        coder = self._models.coder
        try:
            await connection.open(coder.space.id, coder.models, timeout)
        except BaseException:
            await connection.close()
            raise
        if self._connection is not before:  # another call was sooner
            await connection.close()
            return
        self._connection = connection
        # The session's own tasks would keep it open when nobody refers to the client any more.
        self._dropped = weakref.finalize(self, connection.close_soon)
        self._dropped.atexit = False

    async def close(self) -> None:
        """End the session; calls that still run fail."""
        if self._connection:
            await self._connection.close()
        if self._dropped:
            self._dropped.detach()

    # ── calls ─────────────────────────────────────────────────────────────────────────────────

    async def share(self, image: Shareable, *, hole: MaskSource | None = None,
                    quality: int = USUAL_QUALITY, budget: int | None = None,
                    timeout: float | None = None, on_progress: Progress | None = None) -> Picture:
        """Send a photo up, once, as tokens; or tokens that there are already, as they are.

        Args:
            image: a path, the bytes of a file, an open binary file, or a Pillow image. Or a
                `Picture`, also of a session that has ended, or a `TokenGrid` such as
                `Decoded.grid`, of this client's token space: their very tokens are sent, without
                ``hole``, ``quality`` and ``budget``.
            hole: what is not sent, named as the mask of `inpaint` and widened to whole tokens as
                there: what will be made anew anyway, or what is nobody's business.
            quality: 25 to 200. At 100 a token stands for 16×16 pixels, at 200 for 8×8, which takes
                some three and a half times the bytes and is more faithful, at 50 for 32×32.
            budget: the image's packet takes at most so many bytes, whatever ``quality`` says: it is
                as faithful as they and the server's tasks allow. Needs the entropy model on both
                sides.
            on_progress: called as ``on_progress(done, all)`` with the parts of the photo that are
                tokenized, then with the tokens that are coded, from the thread that does it.
        """
        quality = whole("quality", quality)
        if budget is not None:
            budget = whole("budget", budget)
        if isinstance(image, Picture | TokenGrid):
            check_for_tokens(quality, budget, hole)
        check_progress(on_progress)
        return await self._within(timeout, self._share, image, hole, quality, budget, on_progress)

    async def ask(self, photo: Picture, question: str, *, timeout: float | None = None,
                  on_progress: Progress | None = None) -> Answer:
        """An answer to a question about a picture.

        Args:
            photo: a picture of this session.
            question: any text that is not blank; for none see `caption`.
            on_progress: called as ``on_progress(step, steps)``.
        """
        check_text("question", question)
        if not question.strip():
            raise InvalidInput("question", "is empty", "ask something, or use caption")
        task = pb.Task(kind=pb.TASK_KIND_ANSWER)
        return await self._within(timeout, self._answer, task, photo, question, on_progress)

    async def caption(self, photo: Picture, *, timeout: float | None = None,
                      on_progress: Progress | None = None) -> Answer:
        """What a picture shows."""
        task = pb.Task(kind=pb.TASK_KIND_CAPTION)
        return await self._within(timeout, self._answer, task, photo, "", on_progress)

    async def inpaint(self, photo: Picture, mask: MaskSource, prompt: str = "", *,
                      seed: int | None = None, steps: int | None = None,
                      temperature: float | None = None, guidance: float | None = None,
                      timeout: float | None = None, on_progress: Progress | None = None) -> Picture:
        """Make part of a picture anew; everything else keeps its very pixels.

        Args:
            photo: a picture of this session.
            mask: what to make anew: a bool array in pixels or tokens, a Pillow image, or a box of
                pixels (left, top, right, bottom); widened to whole tokens for the model.
            prompt: what shall be there; may be empty. Without a prompt, a seed and a temperature,
                the compact backend puts there what can be expected, the same each time.
            seed: the same one gives the same picture. None here and in the next three leaves it to
                the server, and so does seed 0.
            steps: of the sampler, 1 to 1000.
            temperature: from 0, which takes the likeliest.
            guidance: from 0; how closely to follow the prompt.
            on_progress: called as ``on_progress(step, steps)``.
        """
        task = pb.Task(kind=pb.TASK_KIND_INPAINT,
                       sampling=_sampling(seed, steps, temperature, guidance))
        return await self._within(timeout, self._inpaint, task, photo, mask, prompt, on_progress)

    async def outpaint(self, photo: Picture, *, left: int = 0, top: int = 0, right: int = 0,
                       bottom: int = 0, prompt: str = "", seed: int | None = None,
                       steps: int | None = None, temperature: float | None = None,
                       guidance: float | None = None, timeout: float | None = None,
                       on_progress: Progress | None = None) -> Picture:
        """Extend a picture by any number of pixels on each side; it keeps its very pixels.

        Tokens cannot move by part of a token, so ``left`` and ``top`` are rounded up to whole
        tokens for the model, and the result shows the part that was asked for. The other arguments
        are those of `inpaint`.
        """
        task = pb.Task(kind=pb.TASK_KIND_OUTPAINT,
                       sampling=_sampling(seed, steps, temperature, guidance))
        wanted = Margins(whole("left", left), whole("top", top), whole("right", right),
                         whole("bottom", bottom))
        return await self._within(timeout, self._outpaint, task, photo, wanted, prompt,
                                  on_progress)

    async def generate(self, prompt: str, width: int = 256, height: int = 256, *,
                       seed: int | None = None, steps: int | None = None,
                       temperature: float | None = None, guidance: float | None = None,
                       timeout: float | None = None, on_progress: Progress | None = None
                       ) -> Picture:
        """A new picture of ``width`` × ``height`` pixels; the other arguments as in `inpaint`."""
        width, height = whole("width", width), whole("height", height)
        if width < 1 or height < 1:
            raise InvalidInput("size", f"{width}×{height} pixels is empty", "use at least 1×1")
        theirs = self._session.opened.limits
        check_tokens(width, height, self._models.coder.space.patch,
                     min(theirs.max_task_tokens, self._limits.max_tokens))
        task = pb.Task(kind=pb.TASK_KIND_GENERATE, width=width, height=height,
                       sampling=_sampling(seed, steps, temperature, guidance))
        view = View(0, 0, width, height)
        return await self._within(timeout, self._image, task, prompt, view, _Fill(),
                                  on_progress)

    async def _within(self, timeout: float | None, call: Callable[P, Coroutine[Any, Any, T]],
                      *args: P.args, **kwargs: P.kwargs) -> T:
        seconds = self._timeout if timeout is None else timeout
        if seconds is not None:
            seconds = number("timeout", seconds, 0, math.inf)
        self._session.check_loop()
        task = asyncio.create_task(call(*args, **kwargs))
        try:
            done, _ = await asyncio.wait((task,), timeout=seconds)
        finally:  # the time is up, or whoever called has been cancelled
            task.cancel()
            await asyncio.wait((task,))
        if task.cancelled() and not done:
            raise DeadlineExceeded("timeout", f"no result within {seconds:g} s",
                                   "allow more time or ask for less")
        error = task.exception()
        if isinstance(error, Interrupted):
            raise error.reason
        return task.result()

    # ── how data flows: pixels, tokens, packets, the wire, and back ───────────────────────────

    async def _share(self, image: Shareable, hole: MaskSource | None, quality: int,
                     budget: int | None, on_progress: Progress | None) -> Picture:
        connection = self._session
        began = perf_counter()
        packed, packed_hole, canvas, view = await run_watched(
            self._encode, image, hole, quality, budget, on_progress)
        encode_seconds = perf_counter() - began
        share = pb.Share(packet=for_session(packed.packet, sized=True))
        if packed_hole:
            share.hole.CopyFrom(for_session(packed_hole.packet))
        reply = await connection.request(pb.ClientMessage(share=share))
        sent: list[Packed] = [packed, packed_hole] if packed_hole else [packed]
        stats = _stats(reply, sent, encode_seconds, 0.0, None)
        return self._hold(connection, reply, canvas, view, stats)

    async def _answer(self, task: pb.Task, photo: Picture, question: str,
                      on_progress: Progress | None) -> Answer:
        connection = self._session
        sent = await self._send(connection, task, self._own(photo), question, None, on_progress)
        began = perf_counter()
        ids, text = await run_watched(self._decode_text, sent.reply.result.packet)
        coder = self._models.coder
        stats = _stats(sent.reply, sent.packed, sent.encode_seconds, perf_counter() - began,
                       partial(pack_text, coder, ids, raw=self._raw(coder.text_model)))
        return Answer(text, sent.reply.result.confidence, stats)

    async def _inpaint(self, task: pb.Task, photo: Picture, mask: MaskSource, prompt: str,
                       on_progress: Progress | None) -> Picture:
        base = self._own(photo).grid
        region = find_region(mask, photo.view, base.size)
        fill = _Fill(photo, base, region.tokens, pack_mask(region.tokens, *base.size),
                     Edit(photo.canvas, 0, 0, region.pixels))
        return await self._image(task, prompt, photo.view, fill, on_progress)

    async def _outpaint(self, task: pb.Task, photo: Picture, wanted: Margins, prompt: str,
                        on_progress: Progress | None) -> Picture:
        margins, view = grow(self._own(photo).view, wanted, photo.grid.pitch)
        height = margins.top + photo.grid.height + margins.bottom
        width = margins.left + photo.grid.width + margins.right
        limits = self._session.opened.limits
        most = min(limits.max_tokens, self._limits.max_tokens)
        check_size(width, height, photo.grid.pitch, most)
        check_tokens(width, height, photo.grid.pitch, limits.max_task_tokens)
        task.margins.CopyFrom(pb.Margins(**vars(margins)))
        base, mask = enlarge(photo.grid, margins)
        region = np.ones((height, width), bool)
        region[margins.top : margins.top + photo.grid.height,
               margins.left : margins.left + photo.grid.width] = False
        fill = _Fill(photo, base, mask, None,
                     Edit(photo.canvas, margins.left, margins.top, region))
        return await self._image(task, prompt, view, fill, on_progress)

    async def _image(self, task: pb.Task, prompt: str, view: View, fill: _Fill,
                     on_progress: Progress | None) -> Picture:
        """Tasks that make a picture: what a fill changes comes down, or all of a new one."""
        connection, coder = self._session, self._models.coder
        sent = await self._send(connection, task, fill.photo, prompt, fill.packed_mask,
                                on_progress)
        began = perf_counter()
        try:
            wanted = None if fill.base else (task.width, task.height, coder.space.patch)
            packet = from_session(sent.reply.result.packet, packet_pb2.KIND_IMAGE, wanted)
            if wanted and packet_size(packet) != wanted:
                raise CorruptData("result.packet.width", "the picture is of another size than "
                                  "asked for", "tell the operator of the service")
            grid = await run_watched(lambda watch: unpack_image(
                coder.watched(watch), packet, limits=self._limits, base=fill.base,
                mask=fill.mask, prompt=sent.prompt))
        except BaseException:  # the server holds what is lost here
            connection.release(sent.reply.result.id)
            raise
        stats = _stats(sent.reply, sent.packed, sent.encode_seconds, perf_counter() - began,
                       partial(pack_image, coder, grid, mask=fill.mask, prompt=sent.prompt,
                               raw=self._raw(coder.image_model)))
        canvas = Canvas(grid, self._models, fill.edit)
        return self._hold(connection, sent.reply, canvas, view, stats)

    async def _send(self, connection: Connection, task: pb.Task, photo: Picture | None, text: str,
                    mask: Packed | None, on_progress: Progress | None) -> _Sent:
        began = perf_counter()
        packed = []
        if photo is not None:
            task.object = self._own(photo).id
        if mask:
            task.mask.CopyFrom(for_session(mask.packet))
            packed.append(mask)
        prompt, field = None, "question" if task.kind == pb.TASK_KIND_ANSWER else "prompt"
        check_text(field, text)
        check_progress(on_progress)
        if text:  # an empty prompt is no prompt: neither side takes it as context
            prompt, packed_text = await run_watched(self._encode_text, text, field)
            task.text.CopyFrom(for_session(packed_text.packet))
            packed.append(packed_text)
        task.progress = on_progress is not None
        encode_seconds = perf_counter() - began
        reply = await connection.request(pb.ClientMessage(task=task), on_progress)
        return _Sent(reply, prompt, packed, encode_seconds)

    def _encode(self, watch: Progress, image: Shareable, hole: MaskSource | None, quality: int,
                budget: int | None, on_progress: Progress | None
                ) -> tuple[PackedImage, Packed | None, Canvas, View]:
        """What is sent of a picture, and of its hole; and the picture here."""
        def show(done: int, total: int) -> None:
            watch(done, total)
            if on_progress:
                try:
                    on_progress(done, total)
                except BaseException as error:
                    raise Interrupted(error) from error

        models = self._models.watched(show)
        coder, images = models.coder, models.images
        raw, limits = self._raw(coder.image_model), self._session.opened.limits
        if isinstance(image, Picture | TokenGrid):
            canvas, view = self._tokens_of(image)
            grid = canvas.grid
            check_size(grid.width, grid.height, grid.pitch, limits.max_tokens)
            packed = pack_image(coder, grid, hole=canvas.hole, raw=raw)
            return packed, _packed_hole(canvas), canvas, view
        photo = load_image(image)
        view = View(0, 0, photo.width, photo.height)

        @cache
        def area(pitch: int) -> Mask | None:
            size = (photo.width, photo.height, pitch)
            return None if hole is None else find_region(hole, view, size, "hole").tokens

        if budget is None:
            pitch = coder.space.pitch(quality)
            check_size(photo.width, photo.height, pitch, limits.max_tokens)
            grid = images.encode(photo, pitch, area(pitch))
            packed = pack_image(coder, grid, hole=area(pitch), raw=raw)
        elif raw:
            raise InvalidInput("budget", "needs an entropy model that both sides hold",
                               "install the server's models, or leave it out")
        else:
            packed = pack_photo_within(
                coder, images, photo, budget, most_tokens=limits.max_tokens,
                most_task_tokens=limits.max_task_tokens, hole=area)
        canvas = Canvas(packed.grid, self._models, np.asarray(photo), area(packed.grid.pitch))
        return packed, _packed_hole(canvas), canvas, view

    def _tokens_of(self, image: Picture | TokenGrid) -> tuple[Canvas, View]:
        if isinstance(image, TokenGrid):
            image.check(self._models.coder.space)
            grid = TokenGrid(image.codes.astype(np.int32), *image.size)
            return Canvas(grid, self._models, None), View(0, 0, image.width, image.height)
        if image.canvas.models.coder.space.id != self._models.coder.space.id:
            raise InvalidInput("image", "its tokens are those of other models", "share its image")
        return image.canvas, image.view

    def _encode_text(self, watch: Progress, text: str, field: str) -> tuple[Codes, Packed]:
        most = min(self._limits.max_text_tokens, self._session.opened.limits.max_text_tokens)
        ids = self._models.text_ids(text, field, most)
        coder = self._models.coder.watched(watch)
        return ids, pack_text(coder, ids, raw=self._raw(coder.text_model))

    def _decode_text(self, watch: Progress, packet: packet_pb2.Packet) -> tuple[Codes, str]:
        ids = unpack_text(self._models.coder.watched(watch),
                          from_session(packet, packet_pb2.KIND_TEXT), limits=self._limits)
        return ids, self._models.text.decode(ids)

    def _raw(self, model: bytes | None) -> bool:
        """Fixed-length tokens where the two sides share no model."""
        return model not in self._session.opened.models

    @property
    def _session(self) -> Connection:
        if self._connection is None:
            raise InvalidInput("client", "is not connected", "use it in a with statement")
        return self._connection

    def _own(self, photo: Picture) -> Picture:
        if not isinstance(photo, Picture):
            raise InvalidInput("photo", f"is a {type(photo).__name__}", "share it first")
        if photo.session is not self._session:
            raise InvalidInput("photo", "belongs to another session",
                               "share it in this one, which sends its tokens as they are")
        return photo

    def _hold(self, connection: Connection, reply: Reply, canvas: Canvas, view: View, stats: Stats,
              ) -> Picture:
        """A picture whose end, here, is its end in the server too."""
        picture = Picture(connection, reply.result.id, canvas, view, stats)
        weakref.finalize(picture, connection.release_soon, picture.id).atexit = False
        return picture


@dataclass(frozen=True, eq=False)
class _Fill:
    """What a task changes: ``mask`` of ``base``, for ``edit``. Nothing where a picture is new."""

    photo: Picture | None = None
    base: TokenGrid | None = None
    mask: Mask | None = None
    packed_mask: Packed | None = None
    edit: Edit | None = None


@dataclass(frozen=True)
class _Sent:
    """A task that went up and came back."""

    reply: Reply
    prompt: Codes | None
    packed: list[Packed]
    encode_seconds: float


def _packed_hole(canvas: Canvas) -> Packed | None:
    return None if canvas.hole is None else pack_mask(canvas.hole, *canvas.grid.size)


def _stats(reply: Reply, packed: list[Packed], encode_seconds: float, decode_seconds: float,
           repack: Callable[[], Packed] | None) -> Stats:
    def down() -> Sizes:
        ideal_bits = repack().sizes.ideal_bits if repack else 0.0
        return Sizes(ideal_bits, len(reply.result.packet.payload), reply.down_bytes)

    up = Sizes(sum(part.sizes.ideal_bits for part in packed),
               sum(part.sizes.payload_bytes for part in packed), reply.up_bytes)
    return Stats(up, down, reply.progress_bytes, encode_seconds, reply.seconds,
                 reply.result.milliseconds / 1000, decode_seconds)


def _sampling(seed: int | None, steps: int | None, temperature: float | None,
              guidance: float | None) -> pb.Sampling | None:
    chosen = pb.Sampling()
    for name, value, check, least, most in (
            ("seed", seed, whole, 0, (1 << 64) - 1), ("steps", steps, whole, 1, 1000),
            ("temperature", temperature, number, 0, 999), ("guidance", guidance, number, 0, 999)):
        if value is not None:
            setattr(chosen, name, check(name, value, least, most))
    return chosen if chosen.ByteSize() else None  # nothing chosen, nothing sent
