"""What the client makes of a server that does not keep to the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from fake_backend import SPACE, FakeCoder, FakeText, fake_models
from PIL import Image

from unimic.codec.errors import CorruptData
from unimic.codec.packets import pack_image, pack_text
from unimic.codec.tokens import TokenGrid, grid_shape
from unimic.edge import AsyncClient, ServiceError
from unimic.v1 import service_pb2 as pb
from unimic.v1.service_pb2_grpc import (
    MultimodalServicer,
    add_MultimodalServicer_to_server,
)

CODER = FakeCoder()
PHOTO = Image.new("RGB", (64, 64))


def opened(**changes) -> pb.ServerMessage:
    limits = pb.Limits(max_message_bytes=1 << 20, max_tokens=65536, max_text_tokens=16384,
                       max_objects=64, max_pending_tasks=8, max_task_tokens=1024)
    return pb.ServerMessage(opened=pb.Opened(**{
        "version": "1", "space": SPACE.id, "models": CODER.models, "limits": limits, **changes}))


def picture(width: int, height: int, pitch: int = 16):
    codes = np.full(grid_shape(width, height, pitch), 7, np.int32)
    return pack_image(CODER, TokenGrid(codes, width, height, pitch)).packet


@asynccontextmanager
async def address_of(servicer: MultimodalServicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_MultimodalServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def client(*results: pb.Result | pb.ServerMessage, first: pb.ServerMessage | None = None
                 ) -> AsyncIterator[AsyncClient]:
    """Of a server that answers each request with the next of these."""

    class Server(MultimodalServicer):
        async def Session(self, messages, context):
            await context.read()
            await context.write(first or opened())
            for result in results:
                while (message := await context.read()).HasField("release"):
                    pass  # the client let go of a picture
                asked = message.share if message.HasField("share") else message.task
                if isinstance(result, pb.Result):
                    result.id = asked.id
                    result = pb.ServerMessage(result=result)
                else:
                    await context.write(result)
                    result = pb.ServerMessage(result=pb.Result(id=asked.id))
                await context.write(result)
            await context.read()

    async with address_of(Server()) as address, \
            AsyncClient(address, models=fake_models(), timeout=20) as cloud:
        yield cloud


@pytest.mark.parametrize("size", [(8, 8), (4096, 4096), (64, 63), (64, 64, 32)])
async def test_a_picture_of_another_size(size):
    async with client(pb.Result(packet=picture(*size)), pb.Result(packet=picture(64, 64))) as cloud:
        with pytest.raises(CorruptData, match="of another size than asked for"):
            await cloud.generate("", 64, 64)
        assert (await cloud.generate("", 64, 64)).image.size == (64, 64)


@pytest.mark.parametrize("told", [float("nan"), -5e30, 1.5])
async def test_a_confidence_that_is_none(told):
    answer = pack_text(CODER, FakeText().encode("a dog")).packet
    async with client(pb.Result(), pb.Result(packet=answer, confidence=told),
                      pb.Result(packet=answer, confidence=1)) as cloud:
        photo = await cloud.share(PHOTO)
        with pytest.raises(CorruptData, match="a confidence of"):
            await cloud.ask(photo, "what?")
        assert (await cloud.ask(photo, "what?")).confidence == 1


@pytest.mark.parametrize("message", [opened(), pb.ServerMessage()])
async def test_messages_out_of_turn_are_passed_over(message):
    async with client(message, pb.Result()) as cloud:
        for _ in range(2):
            await cloud.share(PHOTO)


async def test_a_server_of_another_space():
    with pytest.raises(ServiceError, match="works in another token space"):
        async with client(first=opened(space=b"otherone")):
            pass


@pytest.mark.parametrize(("status", "reason"), [
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: is full; try again later"),
    (grpc.StatusCode.OK, "OK: the server ended the session; connect again"),
])
async def test_a_server_that_ends_before_it_listens(monkeypatch, status, reason):
    """gRPC may tell who writes that there was an internal error, and not why the stream ended."""
    write = grpc.aio._call.StreamStreamCall.write

    async def late(stream, message):
        await write(stream, message)
        await stream.code()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(),
                                   grpc.aio.Metadata(), "Internal error from Core")

    class Server(MultimodalServicer):
        async def Session(self, messages, context):
            if status is not grpc.StatusCode.OK:
                await context.abort(status, "is full")

    monkeypatch.setattr(grpc.aio._call.StreamStreamCall, "write", late)
    async with address_of(Server()) as address:
        with pytest.raises(ServiceError, match=reason):
            await AsyncClient(address, models=fake_models()).connect()
