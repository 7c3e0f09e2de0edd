"""The edge SDK: photos and prompts become tokens, and a cloud service works on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimic.edge.aio import AsyncClient, DeadlineExceeded, Models
    from unimic.edge.client import Client
    from unimic.edge.connection import ServiceError, Tls
    from unimic.edge.results import Answer, Picture, Stats

__all__ = ["Answer", "AsyncClient", "Client", "DeadlineExceeded", "Models", "Picture",
           "ServiceError", "Stats", "Tls"]

_HOMES = {
    "Answer": "results", "AsyncClient": "aio", "Client": "client", "DeadlineExceeded": "aio",
    "Models": "aio", "Picture": "results", "ServiceError": "connection", "Stats": "results",
    "Tls": "connection",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a command that needs no network shall not wait for gRPC."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
