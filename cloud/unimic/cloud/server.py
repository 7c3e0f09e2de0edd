"""The server process: sockets, TLS, health, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from unimic.cloud.backends.base import Backend
from unimic.cloud.batching import Batcher
from unimic.cloud.metrics import Metrics
from unimic.cloud.service import Service
from unimic.cloud.session import Engine
from unimic.codec.coder import Coder
from unimic.codec.errors import InvalidInput
from unimic.codec.limits import Limits
from unimic.codec.pem import read_authority, read_pair
from unimic.codec.text import TextTokenizer
from unimic.codec.wire import channel_options
from unimic.v1 import service_pb2, service_pb2_grpc

log = logging.getLogger(__name__)

LAST_SECONDS = 0.1  # for streams that end by themselves
SERVICE = service_pb2.DESCRIPTOR.services_by_name["Multimodal"].full_name


@dataclass(frozen=True)
class ServerTls:
    """PEM files. With ``client_ca``, only clients with a certificate signed by it may come in.

    When a file has changed, all are read again before the next handshake, so that renewed
    certificates need no new start.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files.

        Raises:
            InvalidInput: one cannot be read, is no PEM file of its kind, or key and certificate do
                not belong together.
        """
        seen = self._versions()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen
            now = self._versions()
            if now == seen:
                return None
            seen = now
            try:
                return self._read()
            except InvalidInput as error:  # perhaps one file is written and the other not yet
                log.warning("%s; those before stay in use", error)
                return None

        return grpc.dynamic_ssl_server_credentials(
            self._read(), renewed, require_client_authentication=self.client_ca is not None)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        cert, key = read_pair("--tls-cert", self.cert, "--tls-key", self.key)
        ca = read_authority("--tls-client-ca", self.client_ca) if self.client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

    def _versions(self) -> list[tuple[int, int] | None]:
        """What tells whether a file is the one that it was; None of one that is not there."""
        versions: list[tuple[int, int] | None] = []
        for path in filter(None, (self.cert, self.key, self.client_ca)):
            try:
                found = path.stat()
                versions.append((found.st_ino, found.st_mtime_ns))
            except OSError:
                versions.append(None)
        return versions


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens and ends.

    Attributes:
        port: 0 takes a free one.
        workers: batches that the backend computes at a time.
        sessions: streams served at a time; more are refused with RESOURCE_EXHAUSTED.
        grace: seconds that running work gets when the server is asked to end.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    tls: ServerTls | None = None
    workers: int = 1
    sessions: int = 1000
    grace: float = 30.0


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # has no types
    """Lets go of who watches when `ended` is set: gRPC logs an error of each that it cuts off."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """As the standard has it, until the server ends."""
        watching = asyncio.create_task(super().Watch(request, context))
        ended = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait((watching, ended), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            for task in (watching, ended):
                task.cancel()
            await asyncio.wait((watching, ended))


def _tells_of_more_than_garbage(record: logging.LogRecord) -> bool:
    """Else whoever sends bytes that are no message would fill the log with tracebacks."""
    return not (record.exc_info and isinstance(record.exc_info[1], DecodeError))


def _check_free(host: str, port: int) -> None:
    """Raise `OSError` where one of a name's addresses is taken: gRPC is content with the others,
    and clients would reach whoever has that one."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:  # others are of what the machine has not, such as IPv6
            if error.errno == errno.EADDRINUSE:
                raise


class Server:
    """A server on the running event loop: ``start``, then ``stop`` or ``run_until_signal``."""

    def __init__(self, backend: Backend, coder: Coder, text: TextTokenizer,
                 limits: Limits, options: ServerOptions, metrics: Metrics | None = None) -> None:
        logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_of_more_than_garbage)
        self._options = options
        metrics = metrics or Metrics()
        self._engine = Engine(backend, coder, text, limits,
                              Batcher(backend, options.workers, metrics), metrics)
        self._health = _Health()
        # No bound on calls: sessions have one, and whoever asks for the health shall be answered.
        self._server = grpc.aio.server(
            # Two servers on one port would share its clients at random.
            options=[*channel_options(limits.max_message_bytes), ("grpc.so_reuseport", 0)])
        self._service = Service(self._engine, options.sessions)
        service_pb2_grpc.add_MultimodalServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> str:
        """Begin to serve; the address with the real port.

        Raises:
            InvalidInput: the address cannot be listened on, or a TLS file is wrong.
        """
        host, tls = self._options.host, self._options.tls
        address = f"[{host}]" if ":" in host else host
        wanted = f"{address}:{self._options.port}"
        try:
            _check_free(host, self._options.port)
            port = (self._server.add_secure_port(wanted, tls.credentials()) if tls
                    else self._server.add_insecure_port(wanted))
        except (OSError, UnicodeError, RuntimeError):
            port = 0
        if not port:
            raise InvalidInput("--host, --port", f"cannot listen on {wanted}",
                               "use an IP address or name of this machine, and a free port")
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return f"{address}:{port}"

    async def stop(self, grace: float, hurry: asyncio.Task[Any] | None = None) -> None:
        """Finish what has begun, take nothing new, and end.

        Args:
            grace: seconds until what still runs is cancelled.
            hurry: when it is done, grace is over too.
        """
        await self._health.enter_graceful_shutdown()
        self._engine.draining.set()
        # Only sessions are waited for: those who watch the health would stay for all the grace.
        working = asyncio.gather(*self._service.sessions, return_exceptions=True)
        await asyncio.wait([working, hurry] if hurry else [working], timeout=grace,
                           return_when=asyncio.FIRST_COMPLETED)
        if left := len(self._service.sessions):
            log.warning("%d sessions are cut off", left)
        self._health.ended.set()
        await self._server.stop(LAST_SECONDS)
        self._engine.batcher.close()

    async def run_until_signal(self, ready: Callable[[str], None]) -> None:
        """Start, tell ``ready`` the address, serve until SIGTERM or SIGINT, and stop.

        A second signal ends the grace at once.
        """
        loop = asyncio.get_running_loop()
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        address = await self.start()
        grace, second = 0.0, None
        try:
            ready(address)
            log.info("%s: finishing what has begun", (await signals.get()).name)
            grace, second = self._options.grace, asyncio.create_task(signals.get())
        finally:  # nobody may be there to be told
            await self.stop(grace, second)
        second.cancel()
