"""One session's stream: requests go out, each gets its own answer or error."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # or gRPC tells of every service that has ended
# Sessions do not survive a fork anyway, and where they are to, children that use none may abort.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from unimic.codec.errors import CorruptData, InvalidInput, LimitExceeded, UnimicError
from unimic.codec.pem import read_authority, read_pair
from unimic.codec.progress import Progress
from unimic.codec.version import __version__
from unimic.codec.wire import Leaving, channel_options, from_failure
from unimic.v1 import service_pb2 as pb
from unimic.v1 import service_pb2_grpc

CONNECT_SECONDS = 10.0  # for opening a session, unless the caller says otherwise
LAST_SECONDS = 0.02  # for what gRPC still has to say to an event loop that may end next


class Interrupted(Exception):
    """What ``on_progress`` raised, in a shape that tasks carry: a `SystemExit` would end the event
    loop, a `StopIteration` cannot be awaited.

    Attributes:
        reason: what it raised.
    """

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class ServiceError(UnimicError):
    """The service cannot be reached, or ended the session.

    Attributes:
        status: the gRPC status of the session.
        details: of it.
    """

    def __init__(self, address: str, status: grpc.StatusCode, details: str) -> None:
        super().__init__(address, f"{status.name}: {details or 'no details'}",
                         _REMEDIES.get(status, "connect again"))
        self.status, self.details = status, details


_ENDED = "the server ended the session"
_REMEDIES = {
    grpc.StatusCode.UNAVAILABLE: "check that the service runs there, its TLS, and whether it "
                                 "asks for a client's certificate, and connect again",
    grpc.StatusCode.FAILED_PRECONDITION: "use the same version on both sides",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "try again later",
    grpc.StatusCode.UNIMPLEMENTED: "check that the address is that of a unimic service",
}


@dataclass(frozen=True)
class Tls:
    """PEM files for an encrypted connection.

    Attributes:
        ca: of the authority that signed the server's certificate; the usual ones by default.
        cert: the client's own certificate chain, for servers that ask for one.
        key: its private key.
    """

    ca: str | PathLike[str] | None = None
    cert: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files; `InvalidInput` if one is not usable."""
        if (self.cert is None) != (self.key is None):
            raise InvalidInput("tls", "a certificate needs its key and the other way round",
                               "give both")
        ca = None if self.ca is None else read_authority("tls", self.ca)
        cert, key = ((None, None) if self.cert is None or self.key is None else
                     read_pair("tls", self.cert, "tls", self.key))
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True)
class Reply:
    """What a request brought.

    Attributes:
        up_bytes: size of the request on the wire, without gRPC's own framing.
        down_bytes: of its result.
        progress_bytes: of the progress messages that came before.
        seconds: from handing it to gRPC to its result.
    """

    result: pb.Result
    up_bytes: int
    down_bytes: int
    progress_bytes: int
    seconds: float


@dataclass(eq=False)
class _Pending:
    message: pb.ClientMessage
    on_progress: Progress | None
    answer: asyncio.Future[Reply]
    began: float = field(default_factory=time.perf_counter)
    progress_bytes: int = 0


@cache
def _first_process() -> int:
    return os.getpid()


def check_process() -> None:
    """Raise `InvalidInput` in a fork of the process that first called this.

    gRPC's threads are not there any more, so whatever waits for them would wait for ever.
    """
    if _first_process() != os.getpid():
        raise InvalidInput("client", "gRPC was at work when this process was forked, and cannot go "
                           "on in it", "connect only after the fork, or start processes with "
                           "multiprocessing's spawn")


class Connection:
    """A channel with one session on it, on the running event loop; of use after `open`.

    Attributes:
        opened: the server's answer to open.
    """

    opened: pb.Opened

    def __init__(self, address: str, tls: Tls | None, max_message_bytes: int) -> None:
        check_process()
        self.address = address
        self._max_message_bytes = max_message_bytes
        options = channel_options(max_message_bytes)
        self._channel = (
            grpc.aio.secure_channel(address, tls.credentials(), options) if tls
            else grpc.aio.insecure_channel(address, options))
        self._stream: Any = service_pb2_grpc.MultimodalStub(self._channel).Session()
        self._ended: tuple[grpc.StatusCode, str] | None = None
        self._stream.add_done_callback(self._end)
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        # Bounded by max_pending_tasks: a request keeps its place until the server has answered it.
        self._outbox: asyncio.Queue[pb.ClientMessage] = asyncio.Queue()
        self._lost: ServiceError | None = None
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    async def open(self, space: bytes, models: tuple[bytes, ...], timeout: float | None) -> None:
        """Open the session.

        Raises:
            ServiceError: nobody listens there, the server refuses, or does not answer in time.
        """
        try:
            self.opened = await asyncio.wait_for(self._open(space, models), timeout)
        except asyncio.TimeoutError:
            raise ServiceError(self.address, grpc.StatusCode.DEADLINE_EXCEEDED,
                               f"no answer within {timeout:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise self._loss(error) from None
        self._room = asyncio.Semaphore(max(1, self.opened.limits.max_pending_tasks))
        writing = asyncio.create_task(self._write())
        self._tasks = [asyncio.create_task(self._read(writing)), writing]

    async def _open(self, space: bytes, models: tuple[bytes, ...]) -> pb.Opened:
        await self._stream.write(pb.ClientMessage(
            open=pb.Open(version=__version__, space=space, models=models)))
        message = await self._stream.read()
        if not isinstance(message, pb.ServerMessage) or not message.HasField("opened"):
            raise ServiceError(self.address, grpc.StatusCode.INTERNAL,
                               "the server did not answer open with opened")
        if message.opened.space != space:
            raise ServiceError(self.address, grpc.StatusCode.FAILED_PRECONDITION,
                               "the server works in another token space")
        return message.opened

    async def request(self, message: pb.ClientMessage, on_progress: Progress | None = None
                      ) -> Reply:
        """Send a share or a task and wait for its result; cancel the call to cancel the request.

        Raises:
            UnimicError: as the server reports it.
            ServiceError: the session has ended.
            Interrupted: ``on_progress`` raised something; the request is cancelled.
        """
        request = message.task if message.HasField("task") else message.share
        request.id = next(self._ids)
        most = min(self._max_message_bytes, self.opened.limits.max_message_bytes)
        if message.ByteSize() > most:
            raise LimitExceeded("message", f"{message.ByteSize()} bytes are over {most}",
                                "send less at once")
        await self._room.acquire()
        if self._lost:
            self._room.release()  # wakes the next one, who learns it too
            raise self._lost
        pending = _Pending(message, on_progress, asyncio.get_running_loop().create_future())
        self._pending[request.id] = pending
        self._outbox.put_nowait(message)
        try:
            return await pending.answer
        except asyncio.CancelledError:
            self._outbox.put_nowait(pb.ClientMessage(cancel=pb.Cancel(id=request.id)))
            raise

    def release(self, name: int) -> None:
        """Let the server forget an object."""
        if not self._lost:
            self._outbox.put_nowait(pb.ClientMessage(release=pb.Release(id=name)))

    def release_soon(self, name: int) -> None:
        """`release` for any thread, at any time."""
        self._soon(self.release, name)

    def close_soon(self) -> None:
        """`close` for any thread, at any time."""
        def close() -> None:
            self._closing = self._loop.create_task(self.close())

        self._soon(close)

    def _soon(self, act: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is the session
            self._loop.call_soon_threadsafe(act, *args)

    def check_loop(self) -> None:
        """Raise `InvalidInput` on another event loop than that of the session."""
        if asyncio.get_running_loop() is not self._loop:
            raise InvalidInput("client", "is connected on another event loop",
                               "connect one on each event loop")

    async def close(self) -> None:
        """End the session; requests that wait fail."""
        if self._loop.is_closed():  # so is the session
            return
        self.check_loop()
        self._lose(ServiceError(self.address, grpc.StatusCode.CANCELLED, "the client was closed"))
        for task in self._tasks:
            task.cancel()
        self._stream.cancel()
        await self._channel.close(None)
        await asyncio.sleep(LAST_SECONDS)

    # A write must not be cancelled: gRPC would cancel the whole stream. So requests only wait for
    # their answers, and these two tasks talk to the stream.

    async def _write(self) -> None:
        try:
            while True:
                await self._stream.write(await self._outbox.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader tells why the stream has ended

    async def _read(self, writing: asyncio.Task[None]) -> None:
        lost = ServiceError(self.address, grpc.StatusCode.CANCELLED, "the event loop has ended")
        try:
            while isinstance(message := await self._stream.read(), pb.ServerMessage):
                self._receive(message)
            lost = ServiceError(self.address, await self._stream.code(), _ENDED)
        except grpc.aio.AioRpcError as error:
            lost = self._loss(error)
        except Exception as error:
            lost = ServiceError(self.address, grpc.StatusCode.INTERNAL, repr(error))
        finally:  # whatever it is, nobody may wait for ever
            self._lose(lost)
            writing.cancel()

    def _end(self, stream: Any) -> None:
        """Keep the stream's status: a write that meets its end replaces it by INTERNAL
        (grpc/grpc#36066), and nobody could be told why the session has ended."""
        def now(told: Coroutine[Any, Any, Any]) -> Any:
            try:
                told.send(None)  # the status is there, so nothing is waited for
            except StopIteration as got:
                return got.value
            raise AssertionError("a stream that has ended has a status")

        self._ended = now(stream.code()), now(stream.details()) or ""

    def _loss(self, error: grpc.aio.AioRpcError) -> ServiceError:
        """Why the stream has ended; one without an error may end while something is written."""
        status, details = self._ended or (error.code(), error.details() or "")
        return ServiceError(self.address, status,
                            _ENDED if status is grpc.StatusCode.OK else details)

    def _receive(self, message: pb.ServerMessage) -> None:
        kind = message.WhichOneof("message")
        if kind not in ("progress", "result", "failure"):  # of a later version, or a second opened
            return
        pending = self._pending.get(getattr(message, kind).id)
        if pending is None:
            return
        waiting = not pending.answer.done()
        if kind == "progress":
            pending.progress_bytes += message.ByteSize()
            if waiting and pending.on_progress:
                try:
                    pending.on_progress(message.progress.step, message.progress.steps)
                except BaseException as error:  # the caller's own way to say that it is enough
                    pending.answer.set_exception(Interrupted(error))
                    self._outbox.put_nowait(pb.ClientMessage(
                        cancel=pb.Cancel(id=message.progress.id)))
            return
        del self._pending[getattr(message, kind).id]
        self._room.release()
        result = message.result
        if not waiting:
            return
        if kind == "failure":
            failed = from_failure(message.failure)
            pending.answer.set_exception(ServiceError(
                self.address, grpc.StatusCode.UNAVAILABLE, f"the {failed.field} {failed.message}")
                if isinstance(failed, Leaving) else failed)
        elif not 0 <= result.confidence <= 1:  # nor NaN
            pending.answer.set_exception(CorruptData(
                "result", f"a confidence of {result.confidence}",
                "tell the operator of the service"))
        else:
            pending.answer.set_result(Reply(
                result, pending.message.ByteSize(), message.ByteSize(), pending.progress_bytes,
                time.perf_counter() - pending.began))

    def _lose(self, error: ServiceError) -> None:
        self._lost = self._lost or error
        while self._pending:
            _, pending = self._pending.popitem()
            self._room.release()
            if not pending.answer.done():
                pending.answer.set_exception(self._lost)
