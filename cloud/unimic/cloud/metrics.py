"""What a server counts, and where Prometheus fetches it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

from unimic.codec.errors import InvalidInput

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
REQUESTS = (1, 2, 4, 8, 16, 32, 64)
SILENT_SECONDS = 10
"""For so long a connection may say nothing."""


class Metrics:
    """Counted on the event loop; docs/service.md has the names.

    Attributes:
        registry: of all of them, and of what the process takes.
        sessions: that are open.
        refused: sessions.
        pending: requests that are being worked on.
        seconds: of requests that were answered, by task.
        failures: of requests, and messages that could not be understood, by code; requests that
            nobody waits for any more are cancelled.
        message_bytes: by direction, ``up`` or ``down``; without HTTP/2 and gRPC.
        batch_requests: of the batches that the backend got, by its method.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.sessions = Gauge("unimic_sessions", "Sessions that are open.",
                              registry=self.registry)
        self.refused = Counter("unimic_sessions_refused", "Sessions over the most that are served.",
                               registry=self.registry)
        self.pending = Gauge("unimic_requests_pending", "Requests that are being worked on.",
                             registry=self.registry)
        self.seconds = Histogram(
            "unimic_request_seconds", "Requests that were answered, from their start.",
            ["task"], buckets=SECONDS, registry=self.registry)
        self.failures = Counter("unimic_request_failures", "Requests that failed.", ["code"],
                                registry=self.registry)
        self.message_bytes = Counter(
            "unimic_message_bytes", "Messages of sessions, without HTTP/2 and gRPC.",
            ["direction"], registry=self.registry)
        self.batch_requests = Histogram(
            "unimic_batch_requests", "Requests in a batch for the backend.", ["method"],
            buckets=REQUESTS, registry=self.registry)

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[None]:
        """Answer HTTP at ``/metrics`` for as long as this lasts.

        Raises:
            InvalidInput: the address cannot be listened on.
        """
        try:
            server, thread = start_http_server(port, host, self.registry)
        except (OSError, UnicodeError) as error:  # the latter of impossible names
            raise InvalidInput(
                "--host, --metrics-port", f"cannot listen on {host}, port {port} ({error})",
                "use an IP address or name of this machine, and a free port") from error
        # Those who connect and say nothing do not stay, and those who leave at once are no errors.
        server.RequestHandlerClass = type(
            "Handler", (server.RequestHandlerClass,), {"timeout": SILENT_SECONDS})  # type: ignore[arg-type]
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
