"""One session: the images that both sides hold, and the requests that make them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from unimic.cloud.backends.base import (
    MAX_STEPS,
    Answer,
    AnswerRequest,
    Backend,
    FillRequest,
    GenerateRequest,
    Sampling,
)
from unimic.cloud.batching import Batcher
from unimic.cloud.metrics import Metrics
from unimic.codec.canvas import Margins, enlarge
from unimic.codec.coder import Coder
from unimic.codec.errors import InvalidInput, LimitExceeded, UnimicError, UnknownModel
from unimic.codec.limits import Limits
from unimic.codec.packets import (
    for_session,
    from_session,
    named,
    pack_image,
    pack_text,
    packet_size,
    unpack_image,
    unpack_mask,
    unpack_text,
)
from unimic.codec.progress import run_to_end
from unimic.codec.text import TextTokenizer
from unimic.codec.tokens import Codes, Mask, TokenGrid, TokenSpace, check_size, grid_shape
from unimic.codec.version import __version__
from unimic.codec.wire import Leaving, UnknownObject, to_failure
from unimic.v1 import packet_pb2
from unimic.v1 import service_pb2 as pb

log = logging.getLogger(__name__)
T = TypeVar("T")
Read = Callable[[], Awaitable[Any]]
Write = Callable[[pb.ServerMessage], Awaitable[None]]

OPEN_SECONDS = 10
"""A client that has not said open by then has gone astray."""
MOST_THREADS = 512
"""For what is to be coded, of all sessions. Few of them compute: those of images mostly wait."""
MOST_ANSWER = Limits().max_text_tokens
"""Text tokens of an answer: a client takes no more, unless it was told to."""
QUESTIONS = (pb.TASK_KIND_ANSWER, pb.TASK_KIND_CAPTION)
FILLS = (pb.TASK_KIND_INPAINT, pb.TASK_KIND_OUTPAINT)
TASKS = (pb.TASK_KIND_GENERATE, *FILLS, *QUESTIONS)


@dataclass(frozen=True)
class Engine:
    """What all sessions of a server share.

    Attributes:
        draining: set when the server wants to end; sessions finish what they have begun.
        threads: those that may be started for what is to be coded.
    """

    backend: Backend
    coder: Coder
    text: TextTokenizer
    limits: Limits
    batcher: Batcher
    metrics: Metrics
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    threads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_THREADS))

    def __post_init__(self) -> None:
        if self.coder.space != self.backend.space:
            raise UnknownModel(
                "backend", f"{self.backend.name} works in the token space "
                f"{_described(self.backend.space)}, the entropy models in "
                f"{_described(self.coder.space)}", "take models of the backend's space")

    def wire_limits(self) -> pb.Limits:
        """The limits as a client is told them."""
        return pb.Limits(
            max_message_bytes=self.limits.max_message_bytes, max_tokens=self.limits.max_tokens,
            max_text_tokens=self.limits.max_text_tokens, max_objects=self.limits.max_objects,
            max_pending_tasks=self.limits.max_pending_tasks,
            max_task_tokens=self.max_task_tokens)

    @property
    def max_task_tokens(self) -> int:
        """Image tokens of the largest image that a task works on, and whose result may be sent."""
        return min(self.backend.max_tokens, self.limits.max_tokens)


@dataclass(frozen=True)
class Held:
    """An image of a session.

    Attributes:
        grid: its tokens.
        hole: those that were not sent, if any: nobody may take them for what is there.
    """

    grid: TokenGrid
    hole: Mask | None = None

    def known(self, but: Mask | None = None) -> TokenGrid:
        """The tokens, where all of them are known, but for what is to be made anew.

        Raises:
            InvalidInput: some are not.
        """
        if self.hole is not None and (self.hole if but is None else self.hole & ~but).any():
            raise InvalidInput("task.object" if but is None else "task.mask",
                               "a part of the image was not sent, and is not to be made anew",
                               "inpaint all of that part first")
        return self.grid


class Rejected(Exception):
    """The client breaks the protocol: the session ends with a status."""

    def __init__(self, status: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Session:
    """Serves one stream; see ``service.proto`` for the messages.

    Requests run side by side and may name objects whose making has not ended: they wait for it.
    The next message is read when there is room for another request, so a client that sends too
    much is slowed down by gRPC's flow control, and one that reads too slowly holds up only its own
    requests. Clients that keep to ``max_pending_tasks`` are always heard, also when they cancel, at
    the latest when what they cancelled before has come to its next step.

    Args:
        engine: that all sessions share.
        name: of this one, in the log.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name
        self._models: set[bytes] = set()
        self._objects: dict[int, asyncio.Task[Held | None]] = {}
        self._pending: set[asyncio.Task[Held | None]] = set()
        self._questions: set[asyncio.Task[Held | None]] = set()  # pending, make no image
        self._released: set[asyncio.Task[Held | None]] = set()  # pending, will not be held
        self._room = asyncio.Semaphore(engine.limits.max_pending_tasks)
        self._outbox: asyncio.Queue[pb.ServerMessage | None] = asyncio.Queue(
            2 * engine.limits.max_pending_tasks)

    async def serve(self, read: Read, write: Write) -> None:
        """Serve until the client has said everything and been answered, or the server drains.

        Raises:
            Rejected: the client broke the protocol, or the server drains.
        """
        reading = asyncio.create_task(self._read(read))
        writing = asyncio.create_task(self._write(write))
        draining = asyncio.create_task(self._engine.draining.wait())
        for talk in (reading, writing):  # nobody asks for their errors if the client has vanished
            talk.add_done_callback(lambda talk: talk.cancelled() or talk.exception())
        try:
            while not (reading.done() or writing.done()
                       or (draining.done() and not self._pending)):
                # Who waits for the last results is still heard: it may have enough of them.
                left = self._pending if draining.done() else {draining}
                await asyncio.wait((reading, writing, *left),
                                   return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            else:
                reading.cancel()
            if not writing.done():
                await asyncio.gather(*self._pending, return_exceptions=True)
                await self._outbox.put(None)
            await writing
            if draining.done():
                raise Rejected(grpc.StatusCode.UNAVAILABLE,
                               "the server is shutting down; connect again")
        finally:
            for task in (reading, writing, draining, *self._pending):
                task.cancel()
            if self._pending:  # what they have threads for is part of the session
                await asyncio.wait(self._pending)

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    async def _read(self, read: Read) -> None:
        await self._open(read)
        while True:
            try:
                message = await read()
            except DecodeError:
                message = pb.ClientMessage()  # as good as an empty one; the next may be whole
            if not isinstance(message, pb.ClientMessage):  # the end
                return
            self._engine.metrics.message_bytes.labels("up").inc(message.ByteSize())
            kind = message.WhichOneof("message")
            if kind == "share":
                await self._start(message.share)
            elif kind == "task":
                await self._start(message.task)
            elif kind == "cancel":
                if task := self._objects.pop(message.cancel.id, None):
                    task.cancel()
                    log.info("%s: request %d cancelled", self._name, message.cancel.id)
                    await self._outbox.put(pb.ServerMessage(failure=pb.Failure(
                        id=message.cancel.id, code=pb.Failure.CODE_CANCELLED,
                        field="cancel", message="the client cancelled the request")))
            elif kind == "release":
                task = self._objects.get(message.release.id)
                if task in self._pending:
                    self._released.add(task)
                elif task:
                    del self._objects[message.release.id]
            elif kind == "open":
                raise Rejected(grpc.StatusCode.FAILED_PRECONDITION, "the session is already open")
            else:
                await self._fail(0, InvalidInput(
                    "message", "is damaged, empty or of an unknown kind",
                    "send share, task, cancel or release"))

    async def _open(self, read: Read) -> None:
        try:
            first = await asyncio.wait_for(read(), OPEN_SECONDS)
        except DecodeError:
            first = None
        except asyncio.TimeoutError:
            raise Rejected(grpc.StatusCode.DEADLINE_EXCEEDED,
                           f"no open message within {OPEN_SECONDS} s") from None
        if not isinstance(first, pb.ClientMessage) or not first.HasField("open"):
            raise Rejected(grpc.StatusCode.FAILED_PRECONDITION,
                           "the first message of a session must be open")
        self._engine.metrics.message_bytes.labels("up").inc(first.ByteSize())
        coder = self._engine.coder
        if first.open.space != coder.space.id:
            raise Rejected(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"open.space: the client's token space {named(first.open.space) or '(none)'} is "
                f"not {coder.space.id.hex()}, which the server works in; use the same tokenizers")
        self._models = set(first.open.models) & set(coder.models)
        await self._outbox.put(pb.ServerMessage(opened=pb.Opened(
            version=__version__, space=coder.space.id,
            models=[model for model in coder.models if model in self._models],
            limits=self._engine.wire_limits())))

    async def _write(self, write: Write) -> None:
        while (message := await self._outbox.get()) is not None:
            await write(message)
            self._engine.metrics.message_bytes.labels("down").inc(message.ByteSize())

    async def _fail(self, request: int, error: UnimicError) -> None:
        failure = to_failure(request, error)
        code = pb.Failure.Code.Name(failure.code)
        log.info("%s: request %d failed: %s of %s", self._name, request, code, failure.field)
        await self._outbox.put(pb.ServerMessage(failure=failure))
        self._engine.metrics.failures.labels(code).inc()  # unless it is cancelled at the last

    def _report(self, request: int, step: int, steps: int) -> None:
        """Progress is dropped where it would crowd out results."""
        if self._outbox.qsize() < self._outbox.maxsize // 2:
            self._outbox.put_nowait(pb.ServerMessage(
                progress=pb.Progress(id=request, step=step, steps=steps)))

    # ── requests ──────────────────────────────────────────────────────────────────────────────

    async def _start(self, request: pb.Share | pb.Task) -> None:
        if self._engine.draining.is_set():
            await self._fail(request.id, Leaving("server", "is shutting down", "connect again"))
            return
        asks = isinstance(request, pb.Task) and request.kind in QUESTIONS
        limit = self._engine.limits.max_objects
        images = sum(task not in self._questions for task in self._objects.values())
        if not request.id or request.id in self._objects:
            await self._fail(request.id, InvalidInput(
                "id", f"{request.id} is 0 or in use", "number requests from 1, each once"))
            return
        if images >= limit and not asks:
            await self._fail(request.id, LimitExceeded(
                "session", f"it holds {limit} images", "release some, by letting go of pictures"))
            return
        await self._room.acquire()
        source = self._objects.get(request.object) if isinstance(request, pb.Task) else None
        if source in self._released:
            source = None
        task = asyncio.create_task(self._answer(request, source))
        self._objects[request.id] = task
        if asks:
            self._questions.add(task)
        self._pending.add(task)
        self._engine.metrics.pending.inc()
        task.add_done_callback(partial(self._settle, request.id))

    def _settle(self, request: int, task: asyncio.Task[Held | None]) -> None:
        self._room.release()
        self._pending.discard(task)
        self._questions.discard(task)
        self._engine.metrics.pending.dec()
        if task.cancelled():
            self._engine.metrics.failures.labels("CODE_CANCELLED").inc()
        held = (not task.cancelled() and task.result() is not None
                and task not in self._released)
        self._released.discard(task)
        if not held and self._objects.get(request) is task:
            del self._objects[request]

    async def _answer(self, request: pb.Share | pb.Task,
                      source: asyncio.Task[Held | None] | None) -> Held | None:
        """Do a request, send its result or failure, and return the image that it made, if any."""
        began = time.perf_counter()
        try:
            made: Held | None
            if isinstance(request, pb.Share):
                made, result = await self._share(request)
            else:
                made, result = await self._perform(request, source)
        except UnimicError as error:
            await self._fail(request.id, error)
            return None
        except Exception:
            log.exception("%s: request %d failed", self._name, request.id)
            await self._fail(request.id, UnimicError(
                "server", "an internal error", "ask its operator to look at its log"))
            return None
        result.id = request.id
        seconds = time.perf_counter() - began
        result.milliseconds = round(1000 * seconds)
        message, most = pb.ServerMessage(result=result), self._engine.limits.max_message_bytes
        if message.ByteSize() > most:  # gRPC would end the session
            await self._fail(request.id, LimitExceeded(
                "result", f"{message.ByteSize()} bytes are over {most}", "ask for a smaller image"))
            return None
        kind = _kind(request)
        log.info("%s: request %d done, %s, %.3f s", self._name, request.id, kind, seconds)
        await self._outbox.put(message)
        self._engine.metrics.seconds.labels(kind).observe(seconds)
        return made

    # ── work, in the order in which its data flows ────────────────────────────────────────────

    async def _share(self, share: pb.Share) -> tuple[Held, pb.Result]:
        return await self._code(partial(self._unpack_shared, share)), pb.Result()

    def _unpack_shared(self, share: pb.Share, coder: Coder) -> Held:
        hole, packet = None, from_session(share.packet, packet_pb2.KIND_IMAGE)
        if share.HasField("hole"):
            hole = self._unpack_mask("share.hole", share.hole, packet_size(packet), coder)
        with _inside("share.packet"):
            return Held(unpack_image(coder, packet, limits=self._engine.limits, hole=hole), hole)

    async def _perform(self, task: pb.Task, source: asyncio.Task[Held | None] | None
                       ) -> tuple[Held | None, pb.Result]:
        if task.kind not in TASKS:
            raise InvalidInput("task.kind", f"{task.kind} is unknown", "see TaskKind")
        prompt, text = np.zeros(0, np.int32), ""
        if task.HasField("text"):
            prompt, text = await self._code(partial(self._unpack_prompt, task.text))
        progress = partial(self._report, task.id) if task.progress else None
        run, backend = partial(self._engine.batcher.run, self), self._engine.backend
        wanted = task.sampling
        sampling = _sampling(wanted, backend.fill_defaults(text, wanted.seed)
                             if task.kind in FILLS else backend.defaults)

        if task.kind == pb.TASK_KIND_GENERATE:
            if not task.width or not task.height:
                raise InvalidInput("task.width", f"{task.width}×{task.height} pixels is empty",
                                   "ask for at least 1×1")
            pitch = self._engine.coder.space.patch
            rows, columns = grid_shape(task.width, task.height, pitch)
            self._check_size(rows * columns)
            codes = await run(GenerateRequest(text, rows, columns, sampling), progress)
            return await self._pack(TokenGrid(codes, task.width, task.height, pitch), None, prompt)

        held = await self._image(task.object, source)
        if task.kind in QUESTIONS:
            base = held.known()
            self._check_size(base.codes.size)
            question = text if task.kind == pb.TASK_KIND_ANSWER else ""
            answer: Answer = await run(AnswerRequest(base.codes, question, sampling), progress)
            packet = await self._code(partial(self._pack_answer, answer.text))
            return None, pb.Result(packet=packet, confidence=answer.confidence)

        if task.kind == pb.TASK_KIND_INPAINT:
            if not task.HasField("mask"):
                raise InvalidInput("task.mask", "is missing", "say what to make anew")
            mask = await self._code(
                partial(self._unpack_mask, "task.mask", task.mask, held.grid.size))
            if not mask.any():
                raise InvalidInput("task.mask", "covers nothing", "set at least one token")
            base = held.known(but=mask)
        else:
            base, mask = self._enlarge(held.known(), task.margins)
        self._check_size(base.codes.size)
        codes = await run(FillRequest(base.codes, mask, text, sampling), progress)
        # What the client holds stays as it is, whatever the backend made of it.
        grid = replace(base, codes=np.where(mask, codes, base.codes))
        return await self._pack(grid, mask, prompt)

    def _unpack_prompt(self, packet: packet_pb2.Packet, coder: Coder) -> tuple[Codes, str]:
        with _inside("task.text"):
            ids = unpack_text(coder, from_session(packet, packet_pb2.KIND_TEXT),
                              limits=self._engine.limits)
        try:
            return ids, self._engine.text.decode(ids)
        except InvalidInput as error:
            raise InvalidInput("task.text", error.message, error.remedy) from error

    def _pack_answer(self, answer: str, coder: Coder) -> packet_pb2.Packet:
        ids = self._engine.text.encode(answer)
        if len(ids) > MOST_ANSWER:
            raise RuntimeError(f"the answer has {len(ids)} text tokens, over {MOST_ANSWER}")
        return for_session(pack_text(coder, ids, raw=self._raw(coder.text_model)).packet)

    async def _image(self, name: int, source: asyncio.Task[Held | None] | None) -> Held:
        if source is not None:
            await asyncio.wait((source,))
            if not source.cancelled() and (held := source.result()) is not None:
                return held
        raise UnknownObject("task.object", f"the session holds no image {name}",
                            "share it first, and do not release it")

    def _unpack_mask(self, field: str, packet: packet_pb2.Packet,
                     size: tuple[int, int, int], coder: Coder) -> Mask:
        packet = from_session(packet, packet_pb2.KIND_MASK, size)
        if packet_size(packet) != size:
            named, of_image = ("{}×{} pixels at {} a token".format(*each)
                               for each in (packet_size(packet), size))
            raise InvalidInput(field, f"is for {named}, the image has {of_image}",
                               "make one for the image")
        with _inside(field):
            return unpack_mask(packet, limits=self._engine.limits, space=coder.space)

    def _enlarge(self, base: TokenGrid, margins: pb.Margins) -> tuple[TokenGrid, Mask]:
        size = (base.width + margins.left + margins.right,
                base.height + margins.top + margins.bottom, base.pitch)
        self._check_size(math.prod(grid_shape(*size)))
        with _inside("task"):
            check_size(*size, self._engine.limits.max_tokens)
            return enlarge(base, Margins(margins.left, margins.top, margins.right, margins.bottom))

    def _check_size(self, tokens: int) -> None:
        most = self._engine.max_task_tokens
        if tokens > most:
            raise LimitExceeded("task", f"an image of {tokens} tokens is over the {most} that this "
                                "service works on", "use a smaller image")

    async def _pack(self, grid: TokenGrid, mask: Mask | None, prompt: Codes
                    ) -> tuple[Held, pb.Result]:
        """An empty prompt is no context: both sides take it as none."""
        packed = await self._code(lambda coder: pack_image(
            coder, grid, mask=mask, prompt=prompt if prompt.size else None,
            raw=self._raw(coder.image_model)))
        return Held(grid), pb.Result(packet=for_session(packed.packet))

    def _raw(self, model: bytes | None) -> bool:
        return model not in self._models

    async def _code(self, work: Callable[[Coder], T]) -> T:
        """Do it with a coder that stops at its next wave when nobody waits any more."""
        async with self._engine.threads:
            return await run_to_end(lambda watch: work(self._engine.coder.watched(watch)))


def _kind(request: pb.Share | pb.Task) -> str:
    """What is asked for, in a word."""
    return ("share" if isinstance(request, pb.Share)
            else pb.TaskKind.Name(request.kind).removeprefix("TASK_KIND_").lower())


@contextmanager
def _inside(packet: str) -> Iterator[None]:
    """Errors name the packet, too: a task may have several."""
    try:
        yield
    except UnimicError as error:
        raise error.inside(f"{packet}.") from error


def _described(space: TokenSpace) -> str:
    return (f"{space.id.hex()} ({space.image_codes} image codes, {space.text_codes} text codes, "
            f"{space.patch} pixels a token)")


def _sampling(wanted: pb.Sampling, defaults: Sampling) -> Sampling:
    """What the client asks for, checked, and ``defaults`` for the rest."""
    temperature = wanted.temperature if wanted.HasField("temperature") else defaults.temperature
    guidance = wanted.guidance if wanted.HasField("guidance") else defaults.guidance
    for name, value in (("temperature", temperature), ("guidance", guidance)):
        if wanted.HasField(name) and not 0 <= value < 1000:  # NaN fails too
            raise InvalidInput(f"task.sampling.{name}", f"{value} is out of range",
                               "use 0 or more, below 1000")
    if wanted.steps > MAX_STEPS:
        raise InvalidInput("task.sampling.steps", f"{wanted.steps} is out of range",
                           f"use at most {MAX_STEPS}")
    return Sampling(wanted.seed or defaults.seed, wanted.steps or defaults.steps,
                    temperature, guidance)
