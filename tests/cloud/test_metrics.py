"""What a server counts."""

from __future__ import annotations

import asyncio
import socket
import struct
import urllib.error
import urllib.request

import grpc
import pytest
from fake_backend import (
    SPACE,
    EchoBackend,
    FakeCoder,
    FakeText,
    draw,
    fake_models,
    free_port,
)
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from unimic.cloud.batching import Batcher
from unimic.cloud.metrics import Metrics
from unimic.cloud.session import Engine, Session
from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.limits import Limits
from unimic.codec.packets import pack_image
from unimic.codec.tokens import TokenGrid
from unimic.edge import AsyncClient
from unimic.edge.connection import ServiceError
from unimic.v1 import service_pb2 as pb


def scrape(port: int) -> dict[str, float]:
    """Samples by name and the value of their label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    return {" ".join((sample.name, *sample.labels.values())): sample.value
            for family in families for sample in family.samples}


async def test_sessions_and_requests_are_counted(serve):
    metrics, port = Metrics(), free_port()
    with metrics.served("127.0.0.1", port):
        async with serve(backend=EchoBackend(0.05), metrics=metrics, sessions=1) as address, \
                AsyncClient(address, models=fake_models()) as cloud:
            photo = await cloud.share(Image.new("RGB", (64, 48)))
            await asyncio.gather(*(cloud.ask(photo, "what?") for _ in range(3)))
            with pytest.raises(UnimicError, match="an internal error"):
                await cloud.generate("boom", 32, 32)
            slow = asyncio.create_task(cloud.generate("dogs", 32, 32, steps=200))
            await asyncio.sleep(0.3)
            during = await asyncio.to_thread(scrape, port)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            with pytest.raises(ServiceError, match="1 sessions are open"):
                await AsyncClient(address, models=fake_models()).connect()
        after = await asyncio.to_thread(scrape, port)
    assert (during["unimic_sessions"], during["unimic_requests_pending"]) == (1, 1)
    assert (after["unimic_sessions"], after["unimic_requests_pending"]) == (0, 0)
    assert after["unimic_sessions_refused_total"] == 1
    assert after["unimic_request_seconds_count share"] == 1
    assert after["unimic_request_seconds_count answer"] == 3
    assert 0.05 < after["unimic_request_seconds_sum answer"] < 10
    assert after["unimic_request_failures_total CODE_INTERNAL"] == 1
    assert after["unimic_request_failures_total CODE_CANCELLED"] == 1
    assert after["unimic_batch_requests_sum answer"] == 3
    assert after["unimic_batch_requests_count answer"] <= 3
    assert after["process_open_fds"] > 0
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def engine_of(metrics: Metrics, limits: Limits) -> Engine:
    backend = EchoBackend()
    return Engine(backend, FakeCoder(), FakeText(), limits, Batcher(backend, 1, metrics), metrics)


async def test_message_bytes_are_all_of_a_session():
    engine = engine_of(metrics := Metrics(), Limits())
    coder = engine.coder
    grid = TokenGrid(draw("photo", 0, (4, 5)), 70, 50)
    said = [pb.ClientMessage(open=pb.Open(space=SPACE.id, models=coder.models)),
            pb.ClientMessage(share=pb.Share(id=1, packet=pack_image(coder, grid).packet)),
            pb.ClientMessage(task=pb.Task(id=2, kind=pb.TASK_KIND_CAPTION, object=1)),
            pb.ClientMessage(task=pb.Task(id=2, kind=pb.TASK_KIND_CAPTION, object=1))]
    coming, heard = iter([*said, grpc.aio.EOF]), []

    async def read():
        return next(coming)

    async def write(message):
        heard.append(message)

    await Session(engine, "peer").serve(read, write)
    assert sorted(message.WhichOneof("message") for message in heard) == [
        "failure", "opened", "result", "result"]
    for direction, messages in ("up", said), ("down", heard):
        assert metrics.registry.get_sample_value(
            "unimic_message_bytes_total", {"direction": direction}) == sum(
                message.ByteSize() for message in messages)
    engine.batcher.close()


async def test_who_reads_no_answer_is_counted_once():
    """Outcomes are counted when they are on their way: those that never are, are cancelled."""
    engine = engine_of(metrics := Metrics(), Limits(max_pending_tasks=1))
    coming = iter([pb.ClientMessage(open=pb.Open(space=SPACE.id, models=engine.coder.models)),
                   *(pb.ClientMessage(task=pb.Task(id=i, kind=pb.TASK_KIND_CAPTION, object=99))
                     for i in range(1, 6))])

    async def read():
        return next(coming, None) or await asyncio.Event().wait()

    serving = asyncio.create_task(
        Session(engine, "peer").serve(read, lambda message: asyncio.Event().wait()))
    await asyncio.sleep(0.5)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    counted = {sample.labels["code"]: sample.value
               for family in metrics.failures.collect() for sample in family.samples
               if sample.name.endswith("_total")}
    # Two fit into the outbox, which holds twice as many as may be pending; one waits for room.
    assert counted == {"CODE_NOT_FOUND": 2, "CODE_CANCELLED": 1}
    engine.batcher.close()


def test_who_connects_and_asks_nothing_does_not_stay(monkeypatch, capfd):
    monkeypatch.setattr("unimic.cloud.metrics.SILENT_SECONDS", 0.2)
    with Metrics().served("127.0.0.1", port := free_port()):
        with socket.create_connection(("127.0.0.1", port)) as hasty:
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            assert silent.recv(1) == b""
        assert scrape(port)["unimic_sessions"] == 0
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInput, match=r"--metrics-port: cannot listen on 127\.0\.0\.1"), \
                Metrics().served("127.0.0.1", taken.getsockname()[1]):
            pytest.fail("it listens")
    with pytest.raises(InvalidInput, match=r"^--host, --metrics-port: cannot listen on a\.\.b"), \
            Metrics().served("a..b", 9464):
        pytest.fail("it listens")
