"""Everything that can happen to a connection and to a process. What must come "within a second" is
given five here, for machines that do other work too; the real times are printed (``-rP``)."""

from __future__ import annotations

import asyncio
import gc
import io
import math
import os
import pickle
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from fake_backend import (
    EchoBackend,
    FakeCoder,
    FakeImages,
    FakeText,
    draw,
    fake_models,
    fake_server,
    free_port,
    reply,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from peer import Peer, generate
from PIL import Image

from unimic.cloud.backends.base import GenerateRequest, Sampling
from unimic.cloud.batching import Batcher
from unimic.cloud.metrics import Metrics
from unimic.codec.errors import InvalidInput, LimitExceeded, UnimicError
from unimic.codec.limits import Limits
from unimic.codec.progress import ignore
from unimic.edge import AsyncClient, Client, DeadlineExceeded, ServiceError, Tls
from unimic.v1.service_pb2_grpc import MultimodalStub

SOON = 5.0
MULTIMODAL = "unimic.v1.Multimodal"
WITH_FAKES = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # for other processes


@contextmanager
def soon():
    began = time.perf_counter()
    yield
    taken = time.perf_counter() - began
    print(f"{taken:.3f} s")
    assert taken < SOON


async def until(condition) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    with soon():
        await asyncio.wait_for(wait(), 10 * SOON)


# ── servers that vanish ───────────────────────────────────────────────────────────────────────


async def test_a_killed_server_ends_every_call_at_once(server_process):
    with server_process("--step-seconds", "0.1") as (address, process):
        async with AsyncClient(address, models=fake_models()) as cloud:
            calls = [asyncio.create_task(cloud.generate(str(number), 32, 32, steps=1000))
                     for number in range(20)]  # some of them still wait for a place
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGKILL)
            with soon():
                for result in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(result, ServiceError)
                    assert result.status == grpc.StatusCode.UNAVAILABLE
                    assert "UNAVAILABLE" in str(result)
            with soon(), pytest.raises(ServiceError):
                await cloud.generate("again", 32, 32)


def test_a_killed_server_ends_a_synchronous_call(server_process):
    with server_process("--step-seconds", "0.1") as (address, process), Client(
            address, models=fake_models()) as cloud:
        killer = threading.Timer(0.5, process.kill)
        killer.start()
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            cloud.generate("a", 32, 32, steps=1000)
        with soon(), pytest.raises(ServiceError):
            cloud.generate("a", 32, 32)


def test_a_program_that_outlives_the_service_ends_in_silence(server_process):
    program = """
import sys, time
from fake_backend import fake_models
from unimic.edge import Client
client = Client(sys.argv[1], models=fake_models())
photo = client.generate("a", 32, 32)
print("made", flush=True)
sys.stdin.read()
time.sleep(0.5)  # it learns that the session has ended
"""
    with server_process() as (address, process), subprocess.Popen(
            [sys.executable, "-c", program, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": WITH_FAKES}) as client:
        assert client.stdout.readline() == "made\n"
        process.kill()
        process.wait()
        assert client.communicate(timeout=10 * SOON) == ("", "")
        assert client.returncode == 0


def test_a_program_that_lives_beside_forks_and_event_loops(server_process):
    """Children that use no session live; loops that have ended are told nothing any more."""
    program = """
import asyncio, os, sys, time
from fake_backend import fake_models
from unimic.edge import AsyncClient, Client

async def once():
    async with AsyncClient(sys.argv[1], models=fake_models()) as cloud:
        await cloud.generate("a", 32, 32)

for _ in range(10):
    asyncio.run(once())
with Client(sys.argv[1], models=fake_models()) as cloud:
    photo = cloud.generate("a", 32, 32)
    for _ in range(20):
        if not (child := os.fork()):
            time.sleep(0.05)
            os._exit(0)
        cloud.caption(photo)
        assert os.waitpid(child, 0)[1] == 0
"""
    with server_process() as (address, _):
        run = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, address],
            capture_output=True, text=True, timeout=60,
            env={**os.environ, "PYTHONPATH": WITH_FAKES})
    assert (run.returncode, run.stderr) == (0, "")


async def test_who_connects_several_times_at_once_has_one_session(serve):
    metrics = Metrics()
    async with serve(metrics=metrics) as address:
        cloud = AsyncClient(address, models=fake_models())
        await asyncio.gather(*(cloud.connect() for _ in range(10)))
        await cloud.generate("a", 32, 32)
        await until(lambda: metrics.registry.get_sample_value("unimic_sessions") == 1)
        await cloud.close()
        await until(lambda: metrics.registry.get_sample_value("unimic_sessions") == 0)


async def test_a_text_that_is_far_too_long_is_refused_at_once(serve):
    class Text(FakeText):
        def encode(self, text):
            assert len(text) < 10**6
            return super().encode(text)

    async with serve() as address, AsyncClient(
            address, models=replace(fake_models(), text=Text())) as cloud:
        photo = await cloud.share(Image.new("RGB", (32, 32)))
        with pytest.raises(LimitExceeded, match=r"question: 1,000,000 characters are over 16,384"):
            await cloud.ask(photo, "x" * 10**6)


async def test_answers_travel_between_processes(serve):
    async with serve() as address, AsyncClient(address, models=fake_models()) as cloud:
        answer = await cloud.ask(await cloud.share(Image.new("RGB", (32, 32))), "what?")
        again = pickle.loads(pickle.dumps(answer))
    assert (again.text, again.confidence) == (answer.text, answer.confidence)
    assert again.stats.as_dict() == answer.stats.as_dict()


async def test_nobody_listens():
    with soon(), pytest.raises(ServiceError, match="UNAVAILABLE"):
        await AsyncClient(f"localhost:{free_port()}", models=fake_models()).connect()
    with soon(), pytest.raises(ServiceError, match="UNAVAILABLE"):
        Client(f"localhost:{free_port()}", models=fake_models())


async def test_someone_else_listens():
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with soon(), pytest.raises(ServiceError):
        await AsyncClient(f"127.0.0.1:{port}", models=fake_models(), connect_timeout=0.5).connect()
    silent.close()


async def test_another_token_space(serve):
    from unimic.codec.tokens import TokenSpace
    other = FakeCoder()
    other.space = TokenSpace(b"other---")
    async with serve() as address:
        with pytest.raises(ServiceError, match="token space") as caught:
            await AsyncClient(address, models=fake_models(other)).connect()
        assert caught.value.status == grpc.StatusCode.FAILED_PRECONDITION


async def test_silence_is_noticed(serve, monkeypatch):
    """A network that swallows everything, so that no end of a connection is ever heard."""
    monkeypatch.setattr("unimic.codec.wire.KEEPALIVE_SECONDS", 1)
    monkeypatch.setattr("unimic.codec.wire.KEEPALIVE_TIMEOUT_SECONDS", 1)
    swallowing = False

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            if not swallowing:
                target.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = address.split(":")
        back_reader, back_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(forward(reader, back_writer), forward(back_reader, writer))

    backend = EchoBackend(0.05)
    async with serve(backend=backend) as address:
        relaying = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = relaying.sockets[0].getsockname()[1]
        async with AsyncClient(f"127.0.0.1:{port}", models=fake_models()) as cloud:
            call = asyncio.create_task(cloud.generate("a", 32, 32, steps=1000))
            await until(lambda: backend.steps)
            swallowing = True
            with soon(), pytest.raises(ServiceError, match="UNAVAILABLE"):
                await call
            await until(lambda: backend.cancelled)
        relaying.close()


# ── clients that vanish, give up, or are slow ─────────────────────────────────────────────────

CLIENT = """
import sys
from fake_backend import fake_models
from unimic.edge import Client
with Client(sys.argv[1], models=fake_models()) as cloud:
    cloud.generate("a", 32, 32, steps=1000, on_progress=lambda *step: print("step", flush=True))
"""


async def test_a_killed_client_stops_the_computation(serve):
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, AsyncClient(
            address, models=fake_models()) as other:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, address, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
        assert await client.stdout.readline() == b"step\n"
        client.kill()
        await until(lambda: backend.cancelled)
        done = backend.steps
        await asyncio.sleep(0.2)
        assert backend.steps == done < 1000
        await other.generate("b", 32, 32)
        await client.communicate()


async def test_closing_a_client_stops_the_computation_and_its_calls(serve):
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address:
        cloud = AsyncClient(address, models=fake_models())
        await cloud.connect()
        call = asyncio.create_task(cloud.generate("a", 32, 32, steps=1000))
        await until(lambda: backend.steps)
        await cloud.close()
        with pytest.raises(ServiceError, match="CANCELLED"):
            await call
        await until(lambda: backend.cancelled)


async def test_a_client_may_connect_again(server_process):
    with server_process() as (address, _):
        cloud = AsyncClient(address, models=fake_models())
        await cloud.connect()
        picture = await cloud.generate("a", 32, 32)
        await cloud.close()
        await cloud.close()
        with pytest.raises(ServiceError, match="CANCELLED"):
            await cloud.caption(picture)
        await cloud.connect()
        with pytest.raises(InvalidInput, match="another session"):
            await cloud.caption(picture)
        assert (await cloud.caption(await cloud.share(picture))).text
        await cloud.close()


def test_pictures_outlive_their_session(server_process):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    with server_process() as (address, process), Client(address, models=fake_models()) as cloud:
        edited = cloud.inpaint(cloud.share(photo, quality=200), (0, 0, 20, 20), "a", seed=3)
        wide = cloud.outpaint(edited, left=3)  # of part of a token
        process.kill()
        with pytest.raises(ServiceError):
            cloud.caption(wide)
    with server_process() as (address, _), Client(address, models=fake_models()) as cloud:
        shared = cloud.share(wide)
        assert (shared.grid.codes == wide.grid.codes).all()
        assert shared.grid.size == wide.grid.size
        assert (np.asarray(shared.image) == np.asarray(wide.image)).all()
        assert (np.asarray(shared.image)[20:, 3:] == np.asarray(photo)[20:]).all()
        assert cloud.caption(shared).text == reply("", wide.grid.codes)
        wider = cloud.outpaint(shared, right=5)
        assert (np.asarray(wider.image)[:, :73] == np.asarray(wide.image)).all()


async def test_a_timeout_stops_the_computation_and_the_session_goes_on(serve):
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, AsyncClient(
            address, models=fake_models(), timeout=30) as cloud:
        with soon(), pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
            await cloud.generate("a", 32, 32, steps=1000, timeout=0.3)
        await until(lambda: backend.cancelled)
        assert (await cloud.generate("b", 32, 32)).grid.codes.shape == (2, 2)


async def test_a_deadline_of_the_stream_stops_the_computation(serve):
    from unimic.v1 import service_pb2 as pb
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, grpc.aio.insecure_channel(address) as channel:
        peer = await Peer(channel, timeout=0.5).open()
        await peer.send(task=generate(1, sampling=pb.Sampling(steps=1000)))
        with soon():
            assert (await peer.status())[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: backend.cancelled)


async def test_cancelling_a_call_stops_the_computation(serve):
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        call = asyncio.create_task(cloud.generate("a", 32, 32, steps=1000))
        await until(lambda: backend.steps)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: backend.cancelled)
        await cloud.generate("b", 32, 32)


@pytest.mark.parametrize("kind", [Exception, TimeoutError, SystemExit, KeyboardInterrupt,
                                  asyncio.CancelledError, GeneratorExit])
async def test_a_callback_may_say_that_it_is_enough(serve, kind):
    class Enough(kind):
        pass

    def stop(step: int, steps: int) -> None:
        if step == 3:
            raise Enough

    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        with pytest.raises(Enough):
            await cloud.generate("a", 32, 32, steps=1000, on_progress=stop)
        await until(lambda: backend.cancelled)
        await cloud.generate("b", 32, 32)


@pytest.mark.parametrize("kind", [Exception, SystemExit, KeyboardInterrupt,
                                  asyncio.CancelledError, StopIteration])
def test_a_callback_of_the_synchronous_client_may_too(server_process, kind):
    class Enough(kind):
        pass

    def stop(step: int, steps: int) -> None:
        raise Enough

    with server_process("--step-seconds", "0.02") as (address, _), Client(
            address, models=fake_models(), timeout=30) as cloud:
        with pytest.raises(RuntimeError if kind is StopIteration else Enough) as caught:
            cloud.generate("a", 32, 32, steps=1000, on_progress=stop)
        assert isinstance(caught.value.__cause__ or caught.value, Enough)
        cloud.generate("b", 32, 32)


def test_a_callback_cannot_call_the_synchronous_client(server_process):
    with server_process() as (address, _), Client(
            address, models=fake_models(), timeout=30) as cloud:
        for call in (cloud.close, lambda: cloud.generate("b", 32, 32),
                     lambda: Client(address, models=fake_models())):
            with pytest.raises(InvalidInput, match="client: is called from on_progress"):
                cloud.generate("a", 32, 32, on_progress=lambda *step, call=call: call())
        cloud.generate("b", 32, 32)


def slow(kind: type, method: str):
    """A fake of which one method ends only when its watch ends it, or the test is over."""
    def work(self, *_, **__):
        self.begun.set()
        while not self.over.is_set():
            try:
                self.watch(0, 1)
            except BaseException:
                self.stopped.set()
                raise

    events = {name: threading.Event() for name in ("begun", "stopped", "over")}
    return type("Slow", (kind,), {method: work, "watch": staticmethod(ignore), **events})()


@pytest.mark.parametrize(("part", "kind", "method"), [
    ("images", FakeImages, "encode"), ("coder", FakeCoder, "encode_image"),
    ("coder", FakeCoder, "encode_text"), ("coder", FakeCoder, "decode_image"),
    ("coder", FakeCoder, "decode_text")])
async def test_giving_up_stops_the_work_on_the_device(serve, part, kind, method):
    """Else a program could end only when all of its large photo is coded."""
    async def use_everything() -> None:
        photo = await cloud.share(Image.new("RGB", (32, 32)))
        await cloud.inpaint(photo, (0, 0, 9, 9), "a")
        await cloud.ask(photo, "what? " * 50)  # short texts travel as they are

    working_on = slow(kind, method)
    async with serve() as address, AsyncClient(
            address, models=replace(fake_models(), **{part: working_on})) as cloud:
        call = asyncio.create_task(use_everything())
        assert await asyncio.to_thread(working_on.begun.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        stopped = await asyncio.to_thread(working_on.stopped.wait, SOON)
        working_on.over.set()
        assert stopped


async def test_cancelling_stops_entropy_coding(serve):
    seen = SimpleNamespace(done=0, stopped=0)

    class SlowCoder(FakeCoder):
        def decode_image(self, payload, codes, *, mask=None, hole=None, prompt=None, skip=0):
            try:
                while True:
                    time.sleep(0.02)
                    self.watch(seen.done, 1 << 30)
                    seen.done += 1
            except Exception:
                seen.stopped += 1
                raise

    async with serve(coder=SlowCoder()) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        with pytest.raises(DeadlineExceeded):
            await cloud.share(Image.new("RGB", (32, 32)), timeout=0.3)
        await until(lambda: seen.stopped)
        assert seen.done


async def test_who_asks_and_cancels_takes_no_more_threads_than_are_allowed(serve):
    seen = SimpleNamespace(working=0, most=0, begun=0)

    class Stubborn(FakeCoder):
        """Looks only now and then whether anybody waits."""

        def decode_image(self, payload, codes, *, mask=None, hole=None, prompt=None, skip=0):
            seen.working, seen.begun = seen.working + 1, seen.begun + 1
            seen.most = max(seen.most, seen.working)
            try:
                time.sleep(0.6)
                self.watch(0, 1)
                return super().decode_image(payload, codes, mask=mask, hole=hole, prompt=prompt)
            finally:
                seen.working -= 1

    async with serve(coder=Stubborn(), limits=Limits(max_pending_tasks=3)) as address:
        for _ in range(2):
            async with AsyncClient(address, models=fake_models()) as cloud:
                for _ in range(10):
                    with suppress(DeadlineExceeded):
                        await cloud.share(Image.new("RGB", (32, 32)), timeout=0.05)
        async with AsyncClient(address, models=fake_models()) as cloud:
            await cloud.share(Image.new("RGB", (32, 32)))
        assert seen.begun >= 4
        assert seen.most <= 2 * 3


async def busy(sampling: Sampling):
    """A backend, its batcher, and the call that it is at work for."""
    backend = EchoBackend(0.02)
    batcher = Batcher(backend, 1, Metrics())
    running = asyncio.create_task(batcher.run(batcher, GenerateRequest("a", 1, 1, sampling)))
    await until(lambda: backend.steps)
    return backend, batcher, running


async def test_nothing_is_kept_of_requests_that_were_given_up():
    sampling = Sampling(0, 20, 0.0, 0.0)
    backend, batcher, running = await busy(sampling)
    requests = [GenerateRequest("b", 1, 1 + number % 3, sampling) for number in range(50)]
    seen = [weakref.ref(request) for request in requests]
    waiting = [asyncio.create_task(batcher.run(batcher, requests.pop())) for _ in range(50)]
    await asyncio.sleep(0)
    for call in waiting:
        call.cancel()
    await asyncio.wait(waiting)
    await asyncio.sleep(0)
    del waiting, call
    gc.collect()
    assert not any(request() for request in seen)
    assert not batcher._waiting
    assert len(batcher._running) == 1
    assert (await running).shape == (1, 1)
    assert backend.batches == [1]
    batcher.close()


async def test_one_who_gives_up_does_not_stop_the_others_of_the_batch(serve):
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        first = asyncio.create_task(cloud.generate("first", 32, 32, steps=20))
        await until(lambda: backend.steps)
        calls = [asyncio.create_task(cloud.generate(str(number), 32, 32, steps=50))
                 for number in range(3)]
        await first
        await until(lambda: backend.batches == [1, 3])
        calls[0].cancel()
        for number, call in enumerate(calls[1:], start=1):
            assert ((await call).grid.codes == draw(str(number), 1, (2, 2))).all()
        assert backend.cancelled == 0


async def test_a_client_that_is_dropped_ends_its_session(serve):
    """Even where results are kept."""
    def use(address: str) -> list:
        cloud = Client(address, models=fake_models())
        picture = cloud.generate("a", 32, 32)
        return [picture, cloud.caption(picture)]

    async with serve(sessions=1) as address:
        results = await asyncio.to_thread(use, address)
        client = await connect_at_last(address)
        results += [await client.generate("a", 32, 32)]
        del client
        await (await connect_at_last(address)).close()
        assert len({result.stats.down.wire_bytes for result in results}) == 2


async def connect_at_last(address: str) -> AsyncClient:
    """A client, as soon as the server has a place for its session."""
    client = AsyncClient(address, models=fake_models())
    with soon():
        for _ in range(1000):
            with suppress(ServiceError):
                await client.connect()
                return client
            await asyncio.sleep(0.01)
    raise AssertionError("the server has no place")


def test_another_event_loop(server_process):
    def run(work):
        return asyncio.run(asyncio.wait_for(work, 30))

    async def there() -> None:
        await cloud.connect()
        with pytest.raises(InvalidInput, match="another event loop"):
            await asyncio.to_thread(run, cloud.generate("a", 32, 32))
        with pytest.raises(InvalidInput, match="another event loop"):
            await asyncio.to_thread(run, cloud.close())
        await cloud.generate("a", 32, 32)

    async def again() -> None:
        await cloud.connect()
        await cloud.generate("a", 32, 32)
        await cloud.close()

    with server_process() as (address, _):
        cloud = AsyncClient(address, models=fake_models())
        run(there())
        with pytest.raises(InvalidInput, match="another event loop"):
            run(cloud.generate("a", 32, 32))
        run(cloud.close())  # its loop is closed, and so is the session
        run(again())


FORKED = """
import os, sys
from fake_backend import fake_models
from unimic.codec.errors import InvalidInput
from unimic.edge import Client
cloud = Client(sys.argv[1], models=fake_models())
picture = cloud.generate("a", 32, 32)
if os.fork() == 0:
    for use in (lambda: cloud.caption(picture), cloud.close,
                lambda: Client(sys.argv[1], models=fake_models())):
        try:
            use()
        except InvalidInput as error:
            print(error, flush=True)
    os._exit(0)
os.wait()
print(cloud.caption(picture))
cloud.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_process_is_told_so(server_process):
    with server_process() as (address, _):
        printed = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKED, address], capture_output=True, text=True,
            check=True, timeout=60,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0",  # it kills the child now and then
                 "PYTHONPATH": WITH_FAKES}
        ).stdout.splitlines()
    assert len(printed) == 4
    assert all(line.startswith("client: ") and "fork" in line for line in printed[:3])
    assert printed[3].startswith("a picture →")


# ── arguments of the wrong type ───────────────────────────────────────────────────────────────


async def test_wrong_arguments_are_told_as_such(serve):
    async with serve() as address, AsyncClient(address, models=fake_models()) as cloud:
        picture = await cloud.share(Image.new("RGB", (32, 32)))
        box = (0, 0, 9, 9)
        for field, call in (
                ("seed", lambda: cloud.generate("a", seed=1.0)),
                ("seed", lambda: cloud.inpaint(picture, box, seed="1")),
                ("steps", lambda: cloud.generate("a", steps=1.5)),
                ("temperature", lambda: cloud.generate("a", temperature="1")),
                ("guidance", lambda: cloud.generate("a", guidance=math.nan)),
                ("width", lambda: cloud.generate("a", width=16.0)),
                ("height", lambda: cloud.generate("a", height=None)),
                ("width", lambda: cloud.generate("a", width=10**10)),
                ("prompt", lambda: cloud.generate(5)),
                ("prompt", lambda: cloud.inpaint(picture, box, b"a")),
                ("left", lambda: cloud.outpaint(picture, left=1.5)),
                ("left", lambda: cloud.outpaint(picture, left=math.nan)),
                ("width", lambda: cloud.outpaint(picture, left=2**40)),
                ("question", lambda: cloud.ask(picture, None)),
                ("photo", lambda: cloud.ask(None, "what?")),
                ("budget", lambda: cloud.share(picture.image, budget="100")),
                ("budget", lambda: cloud.share(picture.image, budget=math.nan)),
                ("picture", lambda: cloud.share(np.asarray(picture.image))),
                ("picture", lambda: cloud.share(None)),
                ("hole", lambda: cloud.share(picture.image, hole=(0, 0, 99, 1))),
                ("timeout", lambda: cloud.generate("a", timeout="1")),
                ("timeout", lambda: cloud.generate("a", timeout=math.nan))):
            with pytest.raises(UnimicError) as caught:
                await call()
            assert caught.value.field == field
        file = io.BytesIO()
        picture.image.save(file, "PNG")
        for source in (file.getvalue(), bytearray(file.getvalue()), file.getbuffer()):
            assert (await cloud.share(source)).image == picture.image
        await cloud.generate("a", np.int64(32), np.int32(32), seed=np.uint8(1), steps=np.int8(2),
                             temperature=1, guidance=np.float32(2), timeout=np.float64(30))
        with pytest.raises(InvalidInput, match="connect_timeout"):
            await AsyncClient(address, models=fake_models(), connect_timeout="1").connect()


# ── many at once ──────────────────────────────────────────────────────────────────────────────


async def test_many_sessions_share_batches_and_get_what_they_would_get_alone(serve):
    backend = EchoBackend(0.005)
    async with serve(backend=backend) as address:

        async def one(number: int) -> None:
            image = Image.fromarray(np.full((40, 40, 3), number, np.uint8))
            async with AsyncClient(address, models=fake_models()) as cloud:
                photo = await cloud.share(image)
                for turn in range(3):
                    prompt = f"{number}.{turn}"
                    photo = await cloud.inpaint(photo, (0, 0, 10, 10), prompt, seed=number + 1)
                    assert photo.grid.codes[0, 0] == draw(prompt, number + 1, (3, 3))[0, 0]
                    assert (photo.grid.codes[1:] == number).all()
                    fresh = await cloud.generate(prompt, 32, 48, seed=turn + 1)
                    assert (fresh.grid.codes == draw(prompt, turn + 1, (3, 2))).all()

        await asyncio.gather(*(one(number) for number in range(20)))
        assert max(backend.batches) > 1
        assert max(backend.batches) <= backend.max_batch
        assert sum(backend.batches) == 120


async def ended(backend: EchoBackend, first: list[str], then: list[str]) -> list[str]:
    """Requests, of an asker and a number of rows each, such as "one 3", as they end.

    Those of ``then`` come while the first is at work.
    """
    batcher = Batcher(backend, 1, Metrics())
    names = {request.split()[0] for request in first + then}
    askers = {name: type(name, (), {})() for name in names}
    order = []

    async def ask(request: str) -> None:
        name, rows = request.split()
        await batcher.run(askers[name], GenerateRequest(request, int(rows), 1,
                                                        Sampling(0, 2, 0.0, 0.0)))
        order.append(request)

    calls = [asyncio.create_task(ask(request)) for request in first]
    await until(lambda: backend.steps)
    calls += [asyncio.create_task(ask(request)) for request in then]
    await asyncio.gather(*calls)
    batcher.close()
    return order


async def test_nobody_waits_for_all_that_another_has_asked_for():
    backend = EchoBackend(0.02)
    assert await ended(
        backend, ["one 1", "one 2", "one 3", "one 4", "one 5"],
        ["other 11", "other 12", "third 5"],  # the last goes along, and sooner for both
    ) == ["one 1", "one 2", "one 5", "third 5", "other 11", "one 3", "other 12", "one 4"]
    assert backend.batches == [1, 1, 2, 1, 1, 1, 1]


async def test_who_goes_along_delays_nobody():
    assert await ended(
        EchoBackend(0.1), ["one 1", "one 2", "one 3", "one 4"], ["other 11", "other 12", "one 11"],
    ) == ["one 1", "one 2", "other 11", "one 11", "one 3", "other 12", "one 4"]


async def test_only_like_requests_are_taken_together():
    """Backends take the number of steps of the first of them."""
    backend, batcher, running = await busy(Sampling(0, 20, 0.0, 0.0))
    await asyncio.gather(running, *(
        batcher.run(batcher, GenerateRequest("a", 1, 1, Sampling(0, steps, 0.0, 0.0)))
        for steps in (2, 3, 2)))
    assert sorted(backend.batches) == [1, 1, 2]
    batcher.close()


async def test_large_images_are_not_taken_together():
    sampling = Sampling(0, 2, 0.0, 0.0)
    backend, batcher, running = await busy(sampling)
    await asyncio.gather(running, *(
        batcher.run(batcher, GenerateRequest("a", rows, 64, sampling))
        for rows in (128, 512) for _ in range(3)))
    assert sorted(backend.batches) == [1, 1, 1, 1, 1, 2]
    batcher.close()


async def test_one_bad_request_of_a_batch_fails_alone(serve):
    backend = EchoBackend(0.02)
    async with serve(backend=backend) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        first = asyncio.create_task(cloud.generate("first", 32, 32, steps=20))
        await until(lambda: backend.steps)
        results = await asyncio.gather(
            *(cloud.generate(prompt, 32, 32) for prompt in ("a", "refuse", "b", "boom", "c")),
            return_exceptions=True)
        await first
        assert backend.batches == [1, 5, 1, 1, 1, 1, 1]
        good = [result for result in results if not isinstance(result, Exception)]
        assert len(good) == 3
        assert isinstance(results[1], InvalidInput)
        assert type(results[3]) is UnimicError
        assert "operator" in str(results[3])


async def test_a_name_of_which_one_address_is_taken(monkeypatch):
    """gRPC would listen on the other, and clients of the name reach somebody else."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [
            (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))])
        with pytest.raises(InvalidInput, match=f"cannot listen on localhost:{port}"):
            await fake_server(host="localhost", port=port).start()


async def test_sessions_are_limited(serve):
    async with serve(sessions=2) as address, AsyncClient(address, models=fake_models()), \
            AsyncClient(address, models=fake_models()):
        with pytest.raises(ServiceError, match=r"RESOURCE_EXHAUSTED.*try later"):
            await AsyncClient(address, models=fake_models()).connect()
        async with grpc.aio.insecure_channel(address) as channel:  # nothing is wrong with it
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert (await check).status == health_pb2.HealthCheckResponse.SERVING


async def test_more_calls_than_the_server_takes_at_a_time(serve):
    async with serve(limits=Limits(max_pending_tasks=2)) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        pictures = await asyncio.gather(*(cloud.generate(str(n), 16, 16) for n in range(30)))
        for number, picture in enumerate(pictures):
            assert (picture.grid.codes == draw(str(number), 1, (1, 1))).all()


# ── the end of a server ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_finishes_what_it_has_begun(server_process, number):
    with server_process("--step-seconds", "0.1") as (address, process):
        async with AsyncClient(address, models=fake_models()) as cloud, AsyncClient(
                address, models=fake_models()) as idle, grpc.aio.insecure_channel(
                address) as channel:
            watching = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=MULTIMODAL))
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
            began = asyncio.Event()
            call = asyncio.create_task(cloud.generate(
                "a", 32, 32, steps=10, on_progress=lambda *step: began.set()))
            await began.wait()
            process.send_signal(number)
            with soon():
                assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            picture = await call
            assert (picture.grid.codes == draw("a", 1, (2, 2))).all()
            with pytest.raises(ServiceError, match="shutting down"):
                await idle.generate("a", 32, 32)
            assert await asyncio.to_thread(process.wait, 30) == 0
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            await AsyncClient(address, models=fake_models()).connect()


@pytest.mark.parametrize(("grace", "signals"), [("0.3", 1), ("60", 2)])
async def test_grace_ends(server_process, capfd, grace, signals):
    """After the given time, or at once when asked twice; nor is it an error to watch the health."""
    with server_process("--step-seconds", "0.1", "--grace", grace) as (address, process):
        async with AsyncClient(address, models=fake_models()) as cloud, grpc.aio.insecure_channel(
                address) as channel:
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
            call = asyncio.create_task(cloud.generate("a", 32, 32, steps=1000))
            await asyncio.sleep(0.3)
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.2)
            with soon(), pytest.raises(ServiceError) as caught:
                await call
            assert caught.value.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            assert await asyncio.to_thread(process.wait, 30) == 0
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "1 sessions are cut off" in told


@pytest.mark.parametrize("give_up", ["cancel", "timeout"])
async def test_an_ending_server_hears_that_nobody_waits(server_process, give_up):
    with server_process("--step-seconds", "0.1", "--grace", "60") as (address, process):
        async with AsyncClient(address, models=fake_models()) as cloud:
            began = asyncio.Event()
            call = asyncio.create_task(cloud.generate(
                "a", 32, 32, steps=1000, on_progress=lambda *step: began.set(),
                timeout=2 if give_up == "timeout" else None))
            await began.wait()
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            with soon(), pytest.raises(ServiceError, match="shutting down") as caught:
                await cloud.generate("b", 32, 32)
            assert caught.value.status == grpc.StatusCode.UNAVAILABLE
            assert not call.done()
            if give_up == "cancel":
                call.cancel()
            with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
                await call
            assert await asyncio.to_thread(process.wait, 10) == 0


async def test_nobody_there_to_be_told():
    addresses = []

    def fail(address):
        addresses.append(address)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await fake_server().run_until_signal(fail)
    with pytest.raises(ServiceError, match="UNAVAILABLE"):
        await AsyncClient(*addresses, models=fake_models()).connect()


async def test_the_log_tells_who_asks_for_what(serve, caplog):
    caplog.set_level("INFO")
    async with serve(sessions=1) as address, AsyncClient(address, models=fake_models()) as cloud:
        await cloud.generate("a secret", 32, 32)
        with pytest.raises(UnimicError):
            await cloud.generate("refuse", 32, 32)
        for _ in range(2):
            with pytest.raises(ServiceError):
                await AsyncClient(address, models=fake_models()).connect()
    assert [record.levelname for record in caplog.records
            if "refused" in record.message] == ["WARNING", "INFO"]
    told = "\n".join(caplog.messages)
    for line in (r"#1: session begins", r"#1: request 1 done, generate, 0\.\d{3} s",
                 r"#1: request 2 failed: CODE_INVALID_ARGUMENT of prompt",
                 r"#2: refused, 1 sessions are open", r"#1: session ends"):
        assert re.search(line, told), told
    assert "secret" not in told


# ── standard services ─────────────────────────────────────────────────────────────────────────


async def test_garbage_outside_of_sessions_is_not_logged(serve, caplog):
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        for method in (f"/{MULTIMODAL}/GetCapabilities", "/grpc.health.v1.Health/Check"):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(method)(b"\xff\xff\xff")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_health(serve):
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", MULTIMODAL):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection(serve):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
    async with serve() as address, grpc.aio.insecure_channel(address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        names = {service.name for service in (await call.read()).list_services_response.service}
        assert {MULTIMODAL, "grpc.health.v1.Health"} <= names
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=MULTIMODAL))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        call.cancel()


async def test_a_port_in_use_is_an_error(serve):
    async with serve() as address:
        with pytest.raises(InvalidInput, match="--port"):
            async with serve(port=int(address.rpartition(":")[2])):
                pass


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """An authority, and a server's and a client's certificate signed by it."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        try:
            subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs the openssl command")

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl("req", "-x509", *curve, "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=o")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-copy_extensions", "copy", "-out", f"{name}.pem")
    return folder


def test_tls(server_process, certificates):
    with server_process("--tls", str(certificates)) as (address, _):
        with Client(address, models=fake_models(), tls=Tls(ca=certificates / "ca.pem")) as cloud:
            cloud.generate("a", 32, 32)
        with soon(), pytest.raises(ServiceError, match="UNAVAILABLE"):  # not of that authority
            Client(address, models=fake_models(), tls=Tls(ca=certificates / "other.pem"))
        with soon(), pytest.raises(ServiceError, match="UNAVAILABLE"):  # plain text
            Client(address, models=fake_models())


def test_mutual_tls(server_process, certificates):
    with server_process("--tls", str(certificates), "--mutual") as (address, _):
        ca = certificates / "ca.pem"
        known = Tls(ca=ca, cert=certificates / "client.pem", key=certificates / "client.key")
        with Client(address, models=fake_models(), tls=known) as cloud:
            cloud.generate("a", 32, 32)
        unknown = Tls(ca=ca, cert=certificates / "other.pem", key=certificates / "other.key")
        for tls in (Tls(ca=ca), unknown):
            with soon(), pytest.raises(ServiceError, match="UNAVAILABLE"):
                Client(address, models=fake_models(), tls=tls)


def test_renewed_certificates_need_no_new_start(server_process, certificates, tmp_path):
    shutil.copytree(certificates, tmp_path, dirs_exist_ok=True)

    def renew(*names: str) -> None:
        for name in names:
            shutil.copy(certificates / f"client.{name}", tmp_path / f"server.{name}")

    def is_served(certificate: str) -> bool:
        host, port = address.rsplit(":", 1)
        served = ssl.get_server_certificate((host, int(port)))
        return served.split() == (certificates / certificate).read_text().split()

    with server_process("--tls", str(tmp_path)) as (address, _):
        tls = Tls(ca=certificates / "ca.pem")
        with Client(address, models=fake_models(), tls=tls) as old:
            assert is_served("server.pem")
            renew("pem")  # its key is not there yet
            assert is_served("server.pem")
            renew("key")
            assert is_served("client.pem")
            with Client(address, models=fake_models(), tls=tls) as new:
                new.generate("a", 32, 32)
            (tmp_path / "server.key").unlink()
            assert is_served("client.pem")
            old.generate("a", 32, 32)


@pytest.mark.parametrize("tls", [Tls(ca="nowhere.pem"), Tls(cert="client.pem")])
def test_wrong_tls_files(tls):
    with pytest.raises(InvalidInput, match="tls"):
        Client("localhost:1", models=fake_models(), tls=tls)


# ── small matters ─────────────────────────────────────────────────────────────────────────────


async def test_the_capabilities_call_needs_no_session(serve):
    from unimic.v1 import service_pb2 as pb
    async with serve(sessions=1) as address, AsyncClient(address, models=fake_models()), \
            grpc.aio.insecure_channel(address) as channel:
        await MultimodalStub(channel).GetCapabilities(pb.GetCapabilitiesRequest())


async def test_what_waits_for_a_coder_holds_up_nobody(serve):
    """More images than there used to be threads for; each waits in its own."""
    free, coder = threading.Event(), FakeCoder()
    encode = coder.encode_image

    def slow(codes, **known):
        assert codes.size == 1 or free.wait(30)
        return encode(codes, **known)

    coder.encode_image = slow
    async with serve(coder=coder) as address, AsyncExitStack() as stack:
        many = [await stack.enter_async_context(AsyncClient(address, models=fake_models()))
                for _ in range(40)]
        calls = [asyncio.create_task(cloud.generate(str(n), 32, 32))
                 for cloud in many for n in range(7)]
        async with AsyncClient(address, models=fake_models()) as cloud:
            await asyncio.wait_for(cloud.generate("small", 16, 16), 30)
        free.set()
        assert len(await asyncio.gather(*calls)) == 280


async def test_who_watches_the_health_leaves_room_for_others(serve):
    async with serve(sessions=1) as address, grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(90)]
        for watch in watching:
            await watch.read()
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with AsyncClient(address, models=fake_models()) as cloud:
            await cloud.generate("a", 16, 16)


async def test_a_new_client_comes_in_as_soon_as_the_service_is_back():
    port = free_port()
    for _ in range(20):
        with pytest.raises(ServiceError):
            await AsyncClient(f"localhost:{port}", models=fake_models()).connect()
    server = fake_server(port=port)
    await server.start()
    try:
        async with AsyncClient(f"localhost:{port}", models=fake_models()):
            pass
    finally:
        await server.stop(grace=0)
