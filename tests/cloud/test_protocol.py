"""What a peer may send, good and bad, message by message."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from fake_backend import SPACE, EchoBackend, FakeCoder, FakeText, draw, fake_models
from peer import CODER, GRID, OPEN, Peer, ask, generate, share
from PIL import Image

from unimic.codec.limits import Limits
from unimic.codec.packets import pack_image, pack_mask, pack_text
from unimic.codec.tokens import TokenGrid
from unimic.edge import AsyncClient
from unimic.measure.proxy import CountingProxy
from unimic.v1 import service_pb2 as pb
from unimic.v1.packet_pb2 import CODING_RAW
from unimic.v1.service_pb2_grpc import MultimodalStub


@pytest.fixture
def dial(serve):
    @asynccontextmanager
    async def dialled(**options):
        async with serve(**options) as address, grpc.aio.insecure_channel(address) as channel:
            yield channel

    return dialled


async def test_capabilities(dial):
    async with dial() as channel:
        able = await MultimodalStub(channel).GetCapabilities(pb.GetCapabilitiesRequest())
        assert (able.backend, able.space) == ("echo", SPACE.id)
        assert tuple(able.models) == CODER.models
        assert len(able.tasks) == 5
        assert able.limits.max_task_tokens == EchoBackend.max_tokens
        assert able.limits.max_message_bytes == Limits().max_message_bytes


async def test_only_shared_models_are_opened(dial):
    async with dial() as channel:
        peer = Peer(channel)
        await peer.send(open=pb.Open(space=SPACE.id, models=[b"unknown!", b"text----"]))
        assert list((await peer.read()).opened.models) == [b"text----"]


async def test_tokens_are_raw_for_who_has_no_models(dial):
    async with dial() as channel:
        peer = Peer(channel)
        await peer.send(open=pb.Open(space=SPACE.id))
        assert not (await peer.read()).opened.models
        await peer.send(task=generate(1))
        assert (await peer.read()).result.packet.coding == CODING_RAW
        await peer.send(task=ask(2, 1))
        assert (await peer.read()).result.packet.coding == CODING_RAW


async def test_no_task_works_on_more_than_the_backend_takes(dial):
    large = TokenGrid(draw("photo", 0, (26, 40)), 640, 416)
    mask = pack_mask(np.eye(26, 40, dtype=bool), 640, 416).packet
    async with dial() as channel:
        peer = await Peer(channel).open()
        await peer.send(share=share(1, large))
        assert (await peer.read()).result.id == 1
        for task in (ask(2, 1), pb.Task(id=2, object=1, kind=pb.TASK_KIND_INPAINT, mask=mask)):
            await peer.send(task=task)
            failure = await peer.failure()
            assert (failure.field, failure.code) == ("task", pb.Failure.CODE_RESOURCE_EXHAUSTED)


async def test_requests_may_name_objects_in_the_making(dial):
    async with dial() as channel:
        peer = await Peer(channel).open()
        await peer.send(share=share(1))
        await peer.send(task=ask(2, 1))
        await peer.send(release=pb.Release(id=1))
        results = [(await peer.read()).result.id, (await peer.read()).result.id]
        assert results == [1, 2]
        await peer.send(task=ask(3, 1))
        assert (await peer.failure()).code == pb.Failure.CODE_NOT_FOUND


async def test_the_session_ends_when_the_client_has_said_everything(dial):
    async with dial(backend=EchoBackend(0.05)) as channel:
        peer = await Peer(channel).open()
        await peer.send(task=generate(1))
        await peer.stream.done_writing()
        assert (await peer.read()).result.id == 1
        assert await peer.stream.read() is grpc.aio.EOF
        assert await peer.stream.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(("first", "status", "word"), [
    (pb.ClientMessage(share=share(1)), grpc.StatusCode.FAILED_PRECONDITION, "open"),
    (pb.ClientMessage(), grpc.StatusCode.FAILED_PRECONDITION, "open"),
    (pb.ClientMessage(open=pb.Open(space=b"other---")), grpc.StatusCode.FAILED_PRECONDITION,
     "6f746865722d2d2d"),
])
async def test_a_session_begins_with_open(dial, first, status, word):
    async with dial() as channel:
        peer = Peer(channel)
        await peer.stream.write(first)
        code, details = await peer.status()
        assert code == status
        assert word in details
        await (await Peer(channel).open()).is_well(1)


async def test_open_comes_once(dial):
    async with dial() as channel:
        peer = await Peer(channel).open()
        await peer.stream.write(OPEN)
        assert (await peer.status())[0] == grpc.StatusCode.FAILED_PRECONDITION


async def test_open_must_come_soon(dial, monkeypatch):
    monkeypatch.setattr("unimic.cloud.session.OPEN_SECONDS", 0.1)
    async with dial() as channel:
        peer = Peer(channel)
        assert (await peer.status())[0] == grpc.StatusCode.DEADLINE_EXCEEDED


def damaged_share(**fields) -> pb.ClientMessage:
    message = pb.ClientMessage(share=share(9))
    for name, value in fields.items():
        setattr(message.share.packet, name, value)
    return message


BAD = {
    "empty message": (pb.ClientMessage(), 0, "message"),
    "no id": (pb.ClientMessage(share=share(0)), 0, "id"),
    "id in use": (pb.ClientMessage(share=share(1)), 1, "id"),
    "no packet": (pb.ClientMessage(share=pb.Share(id=9)), 9, "share.packet.width"),
    "a text": (pb.ClientMessage(share=pb.Share(
        id=9, packet=pack_text(CODER, FakeText().encode("a")).packet)), 9, "share.packet.kind"),
    "a masked image": (pb.ClientMessage(share=pb.Share(id=9, packet=pack_image(
        CODER, GRID, mask=np.eye(4, 5, dtype=bool)).packet)), 9, "share.packet.scenario"),
    "a partial image without its hole": (pb.ClientMessage(share=pb.Share(id=9, packet=pack_image(
        CODER, GRID, hole=np.eye(4, 5, dtype=bool)).packet)), 9, "share.packet.scenario"),
    "a hole of another size": (pb.ClientMessage(share=pb.Share(
        id=9, packet=pack_image(CODER, GRID, hole=np.eye(4, 5, dtype=bool)).packet,
        hole=pack_mask(np.ones((4, 4), bool), 64, 50).packet)), 9, "share.hole"),
    "crc": (damaged_share(crc=1), 9, "share.packet.crc"),
    "cut payload": (damaged_share(payload=share(9).packet.payload[:-3]), 9, "share.packet.payload"),
    "no payload": (damaged_share(payload=b""), 9, "share.packet.payload"),
    "huge": (damaged_share(width=1 << 31, height=1 << 31), 9, "share.packet.width"),
    "too many tokens": (damaged_share(width=16 * 257, height=16 * 256), 9, "share.packet.width"),
    "other size": (damaged_share(width=71), 9, "share.packet.crc"),
    "unknown coding": (damaged_share(coding=7), 9, "share.packet.coding"),
    "unknown task": (pb.ClientMessage(task=pb.Task(id=9, object=1)), 9, "task.kind"),
    "future task": (pb.ClientMessage(task=pb.Task(id=9, kind=99)), 9, "task.kind"),
    "no object": (pb.ClientMessage(task=ask(9, 7)), 9, "task.object"),
    "own object": (pb.ClientMessage(task=ask(9, 9)), 9, "task.object"),
    "no size": (pb.ClientMessage(task=generate(9, width=0)), 9, "task.width"),
    "large picture": (pb.ClientMessage(task=generate(9, width=1 << 31, height=1 << 31)), 9, "task"),
    "steps": (pb.ClientMessage(task=generate(9, sampling=pb.Sampling(steps=1 << 31))), 9,
              "task.sampling.steps"),
    "temperature": (pb.ClientMessage(task=generate(
        9, sampling=pb.Sampling(temperature=float("nan")))), 9,
        "task.sampling.temperature"),
    "guidance": (pb.ClientMessage(task=generate(9, sampling=pb.Sampling(guidance=-1))), 9,
                 "task.sampling.guidance"),
    "no mask": (pb.ClientMessage(task=pb.Task(id=9, object=1, kind=pb.TASK_KIND_INPAINT)), 9,
                "task.mask"),
    "empty mask": (pb.ClientMessage(task=pb.Task(
        id=9, object=1, kind=pb.TASK_KIND_INPAINT,
        mask=pack_mask(np.zeros((4, 5), bool), 70, 50).packet)), 9, "task.mask"),
    "mask of another image": (pb.ClientMessage(task=pb.Task(
        id=9, object=1, kind=pb.TASK_KIND_INPAINT,
        mask=pack_mask(np.ones((4, 4), bool), 64, 50).packet)), 9, "task.mask"),
    "mask of another pitch": (pb.ClientMessage(task=pb.Task(
        id=9, object=1, kind=pb.TASK_KIND_INPAINT,
        mask=pack_mask(np.ones((2, 3), bool), 70, 50, 32).packet)), 9, "task.mask"),
    "no margins": (pb.ClientMessage(task=pb.Task(id=9, object=1, kind=pb.TASK_KIND_OUTPAINT)), 9,
                   "task.margins"),
    "margins of part of a token": (pb.ClientMessage(task=pb.Task(
        id=9, object=1, kind=pb.TASK_KIND_OUTPAINT, margins=pb.Margins(left=5))), 9,
        "task.margins.left"),
    "a top margin of part of a token": (pb.ClientMessage(task=pb.Task(
        id=9, object=1, kind=pb.TASK_KIND_OUTPAINT, margins=pb.Margins(top=5))), 9,
        "task.margins.top"),
    "huge margins": (pb.ClientMessage(task=pb.Task(
        id=9, object=1, kind=pb.TASK_KIND_OUTPAINT,
        margins=pb.Margins(right=(1 << 32) - 1, bottom=(1 << 32) - 1))), 9, "task"),
}


async def test_coarse_tokens_count_as_those_that_they_replace(dial):
    """Else outpainting would make a picture that nobody may share, and still larger ones."""
    async with dial(limits=Limits(max_tokens=72)) as channel:
        peer = await Peer(channel).open()
        await peer.send(share=share(1, TokenGrid(draw("photo", 0, (2, 2)), 128, 128, 64)))
        assert (await peer.read()).result.id == 1
        for right, field in (16, "task.width"), (0, ""):
            await peer.send(task=pb.Task(id=2, object=1, kind=pb.TASK_KIND_OUTPAINT,
                                         margins=pb.Margins(right=right, bottom=8)))
            message = await peer.read()
            assert message.failure.field == field
        assert message.result.id == 2


async def test_who_releases_what_is_not_made_yet_will_not_hold_it(dial):
    async with dial(backend=EchoBackend(0.2)) as channel:
        peer = await Peer(channel).open()
        await peer.send(task=generate(1))
        await peer.send(release=pb.Release(id=1))
        await peer.send(task=ask(2, 1))
        await peer.send(share=share(1))
        assert {(await peer.failure()).field for _ in range(2)} == {"task.object", "id"}
        assert (await peer.read()).result.id == 1
        await peer.is_well(1)


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_message_gets_a_failure_and_the_session_goes_on(dial, name):
    message, number, field = BAD[name]
    async with dial() as channel:
        peer = await Peer(channel).open()
        await peer.send(share=share(1))
        assert (await peer.read()).result.id == 1
        await peer.stream.write(message)
        failure = await peer.failure()
        assert (failure.id, failure.field) == (number, field)
        assert failure.code not in (pb.Failure.CODE_INTERNAL, pb.Failure.CODE_UNSPECIFIED)
        await peer.is_well(20)


async def test_any_damaged_byte_of_a_request_is_survived(dial):
    """Damage may make another valid message of it (an id, a size); nothing may break."""
    dice = random.Random(0)
    good = pb.ClientMessage(share=share(1000)).SerializeToString()
    async with dial(limits=Limits(max_objects=1000)) as channel:
        call = channel.stream_stream(  # bytes as they are
            "/unimic.v1.Multimodal/Session", response_deserializer=pb.ServerMessage.FromString)
        for _ in range(20):
            stream = call()
            await stream.write(OPEN.SerializeToString())
            await stream.read()
            for _ in range(8):
                bad = bytearray(good)
                bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
                try:
                    await stream.write(bytes(bad))
                    await asyncio.wait_for(stream.read(), 5)
                except asyncio.TimeoutError:  # it became a cancel or a release
                    break
                except grpc.aio.AioRpcError as error:  # it became a second open
                    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION  # noqa: PT017
                    break
            stream.cancel()
        await (await Peer(channel).open()).is_well(1)


async def test_what_is_no_message_is_survived_too(dial):
    async with dial() as channel:
        call = channel.stream_stream(
            "/unimic.v1.Multimodal/Session", response_deserializer=pb.ServerMessage.FromString)
        stream = call()
        await stream.write(OPEN.SerializeToString())
        await stream.read()
        await stream.write(b"\xff" * 100)
        assert (await stream.read()).failure.field == "message"
        await stream.write(pb.ClientMessage(share=share(1)).SerializeToString())
        assert (await stream.read()).result.id == 1
        bad = call()
        await bad.write(b"\xff" * 100)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(bad.read(), 10)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(("prompt", "code"), [
    ("boom", pb.Failure.CODE_INTERNAL), ("stop", pb.Failure.CODE_INTERNAL),
    ("exit", pb.Failure.CODE_INTERNAL), ("cancel", pb.Failure.CODE_INTERNAL),
    ("interrupt", pb.Failure.CODE_INTERNAL), ("give up", pb.Failure.CODE_INTERNAL),
    ("close", pb.Failure.CODE_INTERNAL),
    ("wrong", pb.Failure.CODE_INTERNAL),
    ("refuse", pb.Failure.CODE_INVALID_ARGUMENT)])
async def test_a_failing_backend_fails_one_request(dial, prompt, code):
    async with dial() as channel:
        peer = await Peer(channel).open()
        text = pack_text(CODER, FakeText().encode(prompt)).packet
        await peer.send(task=generate(1, text=text))
        failure = await peer.failure()
        assert (failure.id, failure.code) == (1, code)
        assert "boom" not in failure.message  # what went wrong inside is not for the outside
        await peer.is_well(1)


async def test_objects_are_limited(dial):
    async with dial(limits=Limits(max_objects=2)) as channel:
        peer = await Peer(channel).open()
        for number in (1, 2):
            await peer.send(share=share(number))
            assert (await peer.read()).result.id == number
        await peer.send(share=share(3))
        assert (await peer.failure()).code == pb.Failure.CODE_RESOURCE_EXHAUSTED
        await peer.send(release=pb.Release(id=1))
        await peer.send(share=share(3))
        assert (await peer.read()).result.id == 3


async def test_a_full_session_still_answers(dial):
    async with dial(limits=Limits(max_objects=1)) as channel:
        peer = await Peer(channel).open()
        await peer.send(share=share(1))
        assert (await peer.read()).result.id == 1
        await peer.send(task=pb.Task(id=2, kind=pb.TASK_KIND_CAPTION, object=1))
        assert (await peer.read()).result.id == 2
        await peer.send(share=share(3))
        assert (await peer.failure()).field == "session"


async def test_a_result_over_the_limits_fails_its_request_alone(dial):
    async with dial(limits=Limits(max_message_bytes=500, max_tokens=400)) as channel:
        peer = await Peer(channel).open()
        await peer.send(task=pb.Task(id=1, kind=pb.TASK_KIND_GENERATE, width=320, height=320))
        failure = await peer.failure()
        assert (failure.field, failure.code) == ("result", pb.Failure.CODE_RESOURCE_EXHAUSTED)
        await peer.send(task=pb.Task(id=1, kind=pb.TASK_KIND_GENERATE, width=320, height=336))
        failure = await peer.failure()
        assert (failure.field, failure.code) == ("task", pb.Failure.CODE_RESOURCE_EXHAUSTED)
        await peer.is_well(1)


async def test_messages_are_limited(dial):
    async with dial(limits=Limits(max_message_bytes=10_000)) as channel:
        well = await Peer(channel).open()
        peer = await Peer(channel).open()
        packet = damaged_share(payload=bytes(20_000)).share.packet
        await peer.send(share=pb.Share(id=1, packet=packet))
        assert (await peer.status())[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        await well.is_well(1)


async def test_messages_are_not_compressed(dial):
    """A few bytes could else become a message over the limit."""
    async with dial() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="gzip") as caught:
            await MultimodalStub(channel).GetCapabilities(
                pb.GetCapabilitiesRequest(), compression=grpc.Compression.Gzip)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_turn_takes_little_more_than_its_messages(serve):
    """Frames of HTTP/2 and gRPC are 14 bytes, an announcement of room in the stream 13."""
    async with serve() as address:
        with CountingProxy(address) as proxy:
            async with AsyncClient(proxy.address, models=fake_models()) as cloud:
                shared = await cloud.share(Image.new("RGB", (70, 50)))
                for _ in range(3):
                    before = proxy.up, proxy.down
                    stats = (await cloud.ask(shared, "what?")).stats
                    assert proxy.up - before[0] <= stats.up.wire_bytes + 27
                    assert proxy.down - before[1] <= stats.down.wire_bytes + 27


async def test_a_flood_of_requests_is_worked_off(dial):
    """More requests than fit, from a peer that does not read: both queues are full, all is done."""
    backend = EchoBackend()
    async with dial(backend=backend, limits=Limits(max_pending_tasks=2)) as channel:
        peer = await Peer(channel).open()
        numbers = range(1, 51)

        async def flood():
            for number in numbers:
                await peer.send(task=generate(number, progress=True))

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.3)
        done = []
        while len(done) < len(numbers):
            message = await peer.read()
            if message.WhichOneof("message") == "result":
                done.append(message.result.id)
        await flooding
        assert sorted(done) == list(numbers)


async def test_cancel(dial):
    backend = EchoBackend(0.05)
    async with dial(backend=backend) as channel:
        peer = await Peer(channel).open()
        await peer.send(task=generate(1, sampling=pb.Sampling(steps=100)))
        await asyncio.sleep(0.2)
        await peer.send(cancel=pb.Cancel(id=1))
        failure = await peer.failure()
        assert (failure.id, failure.code) == (1, pb.Failure.CODE_CANCELLED)
        await asyncio.sleep(0.2)
        assert backend.cancelled == 1
        await peer.send(cancel=pb.Cancel(id=1))  # too late: nothing happens
        await peer.is_well(1)


async def test_coding_never_blocks_the_event_loop(serve):
    coder = FakeCoder()
    async with serve(coder=coder) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        await cloud.generate("dogs", 32, 32)
    assert coder.threads
    assert all(name.startswith("unimic-work") for name in coder.threads)
