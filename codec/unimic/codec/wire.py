"""What both ends of a connection must agree on, besides the messages themselves."""

from __future__ import annotations

from unimic.codec.errors import (
    CorruptData,
    InvalidInput,
    LimitExceeded,
    UnimicError,
    UnknownModel,
)
from unimic.v1 import service_pb2 as pb

KEEPALIVE_SECONDS = 20
"""A silent peer is asked for a sign of life this often; both sides allow it that often."""
KEEPALIVE_TIMEOUT_SECONDS = 5
LONGEST = 1000
"""Characters of each part of an error that go to the other side."""


class UnknownObject(UnimicError):
    """A request names an object that the session does not hold."""


class Leaving(UnimicError):
    """The server is shutting down and takes no more requests."""


_CODES: dict[type[UnimicError], pb.Failure.Code] = {
    InvalidInput: pb.Failure.CODE_INVALID_ARGUMENT,
    UnknownObject: pb.Failure.CODE_NOT_FOUND,
    CorruptData: pb.Failure.CODE_CORRUPT_DATA,
    LimitExceeded: pb.Failure.CODE_RESOURCE_EXHAUSTED,
    UnknownModel: pb.Failure.CODE_UNSUPPORTED,
    Leaving: pb.Failure.CODE_UNAVAILABLE,
}


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """gRPC options of either side."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A turn is a few hundred bytes: probing the bandwidth would cost some 35 each way.
        ("grpc.http2.bdp_probe", 0),
        # A connection begins with room for 64 KiB each way. As long as that is more than this, gRPC
        # does not announce with every message that there is room again, which takes 13 bytes.
        # Only messages of more than this need another round trip.
        ("grpc.http2.lookahead_bytes", 1 << 15),
        # What is coded cannot be compressed; and else a few bytes could become a message over the
        # limit, and 15 go each way to say how one may.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Else a new client would wait out what gRPC holds against the address since an old one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 1000 * KEEPALIVE_SECONDS),
        ("grpc.keepalive_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
        # Without this gRPC waits a minute for the answer to a ping, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 500 * KEEPALIVE_SECONDS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 500 * KEEPALIVE_SECONDS),
    ]


def to_failure(request: int, error: UnimicError) -> pb.Failure:
    """The message that carries ``error`` to the other side."""
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)),
                pb.Failure.CODE_INTERNAL)
    field, message, remedy = map(_words, (error.field, error.message, error.remedy))
    return pb.Failure(id=request, code=code, field=field, message=f"{message}; {remedy}")


def _words(text: str) -> str:
    """As a message carries it: what a backend says may be long, or hold what is no text."""
    return text[:LONGEST].encode("utf-8", "replace").decode("utf-8")


def from_failure(failure: pb.Failure) -> UnimicError:
    """The error that a failure carries; `UnimicError` itself where no class fits better."""
    kind = next((kind for kind, code in _CODES.items() if code == failure.code), UnimicError)
    message, _, remedy = failure.message.rpartition("; ")
    return kind(failure.field, message, remedy)
