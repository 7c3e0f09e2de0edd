"""The edge SDK: photos and prompts become tokens, in files or for a cloud service to work on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimic.edge.aio import AsyncClient, DeadlineExceeded
    from unimic.edge.client import Client
    from unimic.edge.connection import ServiceError, Tls
    from unimic.edge.files import Decoded, Encoded, decode, encode_image, encode_text
    from unimic.edge.models import Models
    from unimic.edge.results import Answer, Picture, Stats

__all__ = ["Answer", "AsyncClient", "Client", "DeadlineExceeded", "Decoded", "Encoded", "Models",
           "Picture", "ServiceError", "Stats", "Tls", "decode", "encode_image", "encode_text"]

_HOMES = {
    "Answer": "results", "AsyncClient": "aio", "Client": "client", "DeadlineExceeded": "aio",
    "Decoded": "files", "Encoded": "files", "Models": "models", "Picture": "results",
    "ServiceError": "connection", "Stats": "results", "Tls": "connection", "decode": "files",
    "encode_image": "files", "encode_text": "files",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a command that needs no network shall not wait for gRPC."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What `help` shows."""
    return __all__
