"""The gRPC service: what ``service.proto`` promises, on top of sessions."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import Any

import grpc

from unimic.cloud.session import TASKS, Engine, Rejected, Session
from unimic.codec.version import __version__
from unimic.v1 import service_pb2 as pb
from unimic.v1 import service_pb2_grpc

log = logging.getLogger(__name__)

QUIET_SECONDS = 60
"""For so long after a warning that all sessions are taken there is no other."""


class Service(service_pb2_grpc.MultimodalServicer):
    """Serves sessions with one engine.

    Args:
        engine: that they share.
        most_sessions: more are refused.

    Attributes:
        sessions: that are being served.
    """

    def __init__(self, engine: Engine, most_sessions: int) -> None:
        self._engine, self._most_sessions = engine, most_sessions
        self.sessions: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count(1)
        self._quiet_until = 0.0

    async def GetCapabilities(self, request: pb.GetCapabilitiesRequest,
                              context: Any) -> pb.GetCapabilitiesResponse:
        """What the server can do; needs no session."""
        return pb.GetCapabilitiesResponse(
            version=__version__, backend=self._engine.backend.name, tasks=TASKS,
            space=self._engine.coder.space.id, models=self._engine.coder.models,
            limits=self._engine.wire_limits())

    async def Session(self, messages: Any, context: Any) -> None:
        """One session for each stream."""
        name, this = f"{context.peer()} #{next(self._numbers)}", asyncio.current_task()
        assert this is not None  # gRPC runs each call in a task
        if len(self.sessions) >= self._most_sessions:
            self._engine.metrics.refused.inc()
            # Who keeps coming shall not fill the log.
            now, level = time.monotonic(), logging.INFO
            if now >= self._quiet_until:
                self._quiet_until, level = now + QUIET_SECONDS, logging.WARNING
            log.log(level, "%s: refused, %d sessions are open", name, self._most_sessions)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED,
                                f"{self._most_sessions} sessions are open, which is all that this "
                                "server takes (--sessions); try later")
        self.sessions.add(this)
        self._engine.metrics.sessions.inc()
        log.info("%s: session begins", name)
        try:
            await Session(self._engine, name).serve(context.read, context.write)
        except Rejected as reason:
            log.info("%s: %s", name, reason)
            await context.abort(reason.status, str(reason))
        finally:
            self.sessions.discard(this)
            self._engine.metrics.sessions.dec()
            log.info("%s: session ends", name)
