"""PEM files of an encrypted connection, checked before gRPC has them: it would only say that it
cannot connect, or listen, or nothing at all."""

from __future__ import annotations

import ssl
from os import PathLike
from pathlib import Path

from unimic.codec.errors import InvalidInput

File = str | PathLike[str]


def read_authority(field: str, path: File) -> bytes:
    """The certificates of an authority; ``field`` is what errors call them.

    Raises:
        InvalidInput: the file cannot be read, or holds no certificate.
    """
    data = _read(field, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(field, f"{path}: {error}",
                           "give the PEM certificate of an authority") from error
    return data


def read_pair(field: str, cert: File, key_field: str, key: File) -> tuple[bytes, bytes]:
    """A certificate chain and its private key, and what errors call them.

    Raises:
        InvalidInput: a file cannot be read or is no PEM file of its kind, or they do not belong
            together.
    """
    pair = _read(field, cert), _read(key_field, key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(field, f"{cert} and {key}: {error}",
                           "give a PEM certificate and its own key, not encrypted") from error
    return pair


def _read(field: str, path: File) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(field, f"{path}: {reason}", "give a readable PEM file") from error
