"""A client of the protocol that says whatever a test wants it to."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from fake_backend import SPACE, FakeCoder, FakeText, draw, reply

from unimic.codec.limits import Limits
from unimic.codec.packets import from_session, pack_image, pack_text, unpack_text
from unimic.codec.tokens import TokenGrid
from unimic.v1 import service_pb2 as pb
from unimic.v1.packet_pb2 import KIND_TEXT
from unimic.v1.service_pb2_grpc import MultimodalStub

CODER = FakeCoder()
GRID = TokenGrid(draw("photo", 0, (4, 5)), 70, 50)
OPEN = pb.ClientMessage(open=pb.Open(space=SPACE.id, models=CODER.models))


class Peer:
    """One stream, spoken by hand."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float | None = None) -> None:
        self.stream = MultimodalStub(channel).Session(timeout=timeout)

    async def send(self, **message) -> None:
        await self.stream.write(pb.ClientMessage(**message))

    async def read(self) -> pb.ServerMessage:
        message = await asyncio.wait_for(self.stream.read(), 10)
        assert message is not grpc.aio.EOF
        return message

    async def open(self) -> Peer:
        await self.stream.write(OPEN)
        self.opened = (await self.read()).opened
        return self

    async def failure(self) -> pb.Failure:
        message = await self.read()
        assert message.WhichOneof("message") == "failure", message
        return message.failure

    async def status(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(self.stream.read(), 10)
        return caught.value.code(), caught.value.details()

    async def is_well(self, number: int) -> None:
        """The session still works."""
        await self.send(share=share(number))
        assert (await self.read()).result.id == number
        await self.send(task=ask(number + 1, number))
        packet = from_session((await self.read()).result.packet, KIND_TEXT)
        answer = unpack_text(CODER, packet, limits=Limits())
        assert FakeText().decode(answer) == reply("what?", GRID.codes)


def share(number: int, grid: TokenGrid = GRID) -> pb.Share:
    return pb.Share(id=number, packet=pack_image(CODER, grid).packet)


def ask(number: int, of: int) -> pb.Task:
    text = pack_text(CODER, FakeText().encode("what?")).packet
    return pb.Task(id=number, kind=pb.TASK_KIND_ANSWER, object=of, text=text)


def generate(number: int, **fields) -> pb.Task:
    return pb.Task(**{"id": number, "kind": pb.TASK_KIND_GENERATE, "width": 32, "height": 32,
                      **fields})
