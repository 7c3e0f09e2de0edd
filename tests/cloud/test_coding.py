"""Entropy coding of many sessions in one thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from unimic.cloud import coding
from unimic.cloud.backends.base import Cancelled
from unimic.cloud.coding import MOST_TOGETHER, Together, _Call, _turn
from unimic.cloud.networks import (
    MANY,
    ByNumber,
    TorchImageNetwork,
    executors,
    load_device_coder,
    load_image_network,
)
from unimic.codec.coder import Coder, drive_alone, load_coder
from unimic.codec.lockstep import DecodeJob, EncodeJob, Job, advance, complete
from unimic.codec.networks import IMAGE_ENTROPY, OnnxImageNetwork
from unimic.codec.store import ModelStore


class Counting(OnnxImageNetwork):
    """Remembers the largest batch and how often it was asked."""

    largest = asked = 0

    def ask(self, rows, memory):  # type: ignore[no-untyped-def]
        self.largest, self.asked = max(self.largest, len(rows)), self.asked + 1
        return super().ask(rows, memory)


@pytest.fixture(scope="module")
def network(store: ModelStore) -> Counting:
    return Counting(store)


def test_sessions_share_batches_and_get_their_own(network: Counting, store: ModelStore) -> None:
    together = Coder(store.space(), (b"-", network), None, Together())
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, 8192, (9, 4 + i)).astype(np.int32) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        payloads = [c.payload for c in threads.map(together.encode_image, grids)]
        back = list(threads.map(together.decode_image, payloads, map(np.zeros_like, grids)))
    alone = load_coder(store)
    for grid, payload, decoded in zip(grids, payloads, back, strict=True):
        assert payload == alone.encode_image(grid).payload
        np.testing.assert_array_equal(decoded, grid)
    assert network.largest > 1


def test_few_windows_are_coded_elsewhere_than_many(network: Counting, store: ModelStore) -> None:
    mixed = ByNumber(network, load_image_network(store, "cpu"))
    rng = np.random.default_rng(0)
    # The first wave has a window of each; later ones have the tall grids' alone.
    grids = [rng.integers(0, 8192, (5 + 16 * (i // 3), 4)).astype(np.int32) for i in range(MANY)]
    jobs = [EncodeJob(mixed.layout, g) for g in grids]
    asked = []
    while live := [job for job in jobs if not job.done]:
        before = network.asked
        advance(mixed, live)
        asked.append(network.asked - before)
    assert asked[:2] == [0, 1]
    alone = load_coder(store)
    back = [DecodeJob(job.encoder.finish(), np.zeros_like(g))
            for job, g in zip(jobs, grids, strict=True)]
    complete(mixed, back)
    for job, decoded, grid in zip(jobs, back, grids, strict=True):
        decoded.check()
        assert job.encoder.finish() == alone.encode_image(grid).payload
        np.testing.assert_array_equal(decoded.codes, grid)


@pytest.mark.usefixtures("network")
def test_the_coder_of_a_service_with_a_gpu(store: ModelStore, monkeypatch: pytest.MonkeyPatch,
                                           ) -> None:
    asked = []

    class Device(TorchImageNetwork):
        def ask(self, rows, memory):  # type: ignore[no-untyped-def]
            asked.append(rows.shape[1])
            return super().ask(rows, memory)

    def load(store: ModelStore, device: str) -> Device:
        assert device == "cuda"
        return Device(load_image_network(store, "cpu").network)

    monkeypatch.setattr("unimic.cloud.networks.load_image_network", load)
    coder, alone = load_device_coder(store, "cuda", drive_alone), load_coder(store)
    assert asked == [1] * 15, "its golden vectors"
    small, large = (np.random.default_rng(0).integers(0, 8192, shape).astype(np.int32)
                    for shape in ((5, 4), (100, 100)))
    for grid in (small, large):
        assert coder.encode_image(grid).payload == alone.encode_image(grid).payload
    assert asked[15:] == [MANY] * 4, "the widest waves of the large one"
    text = small[0] % 4096
    assert coder.encode_text(text).payload == alone.encode_text(text).payload


@pytest.mark.usefixtures("network")
def test_what_serves_on_a_gpu_is_verified_and_timed(store: ModelStore,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_image_network(store, "cpu")
    monkeypatch.setattr("unimic.cloud.networks.check_device", lambda name: None)
    monkeypatch.setattr("unimic.cloud.networks.load_image_network", lambda *_: loaded)
    found = executors(store, IMAGE_ENTROPY, "cuda")
    assert [executor.name for executor in found] == [
        *(f"PyTorch on cuda, batch {batch}" for batch in (1, 7, 64)),
        "a service with cuda, batch 1", "a service with cuda, batch 64"]
    for executor in found[3:]:
        assert isinstance(executor.network, ByNumber)
        assert executor.network.many is loaded
    assert len(executors(store, IMAGE_ENTROPY, "cpu")) == 3


def test_a_stopped_job_leaves_the_batch(network: Counting, store: ModelStore) -> None:
    def stop(done: int, total: int) -> None:
        raise Cancelled

    together = Coder(store.space(), (b"-", network), None, Together())
    with pytest.raises(Cancelled):
        together.watched(stop).encode_image(np.zeros((40, 40), np.int32))
    assert together.encode_image(np.full((2, 2), 4321, np.int32)).payload


def test_a_batch_has_so_many_windows(network: Counting) -> None:
    def call(rows: int, columns: int, width: int) -> _Call:
        """Just before a wave of so many windows."""
        job = DecodeJob(b"", np.zeros((rows, columns), np.int32))
        while job.width < width:
            job.plans(network.layout)
        return _Call(network, job, threading.Event())

    small, tall, large = call(16, 16, 1), call(64, 16, 1), call(256, 256, 8)
    assert [one.job.width for one in (small, tall, large)] == [1, 1, 8]
    assert _turn([large, small]) == [large, small]
    live = [small, *(call(256, 256, 8) for _ in range(10)), tall]
    assert _turn(live) == [*live[:8], tall], "57 windows, then the next that fits"
    live = [call(256, 256, 1) for _ in range(70)]
    assert _turn(live) == live[:64], "of the first wave of each, which is one window"


def test_who_comes_is_first(network: Counting, store: ModelStore) -> None:
    """A small picture is done in one of the next batches, however many large ones there are."""
    together = Together()
    coder = Coder(store.space(), (b"-", network), None, together)
    large = np.random.default_rng(0).integers(0, 8192, (200, 40)).astype(np.int32)
    begun = network.asked
    with ThreadPoolExecutor(9) as threads:
        calls = [threads.submit(coder.encode_image, large) for _ in range(8)]
        while network.asked == begun:
            time.sleep(0.001)
        before = network.asked
        coder.encode_image(large[:2, :2])
        assert network.asked < before + 8, "of some 28 waves of each"
        for one in calls:
            assert one.result().payload == calls[0].result().payload


def test_every_job_has_its_own_network(network: Counting, store: ModelStore) -> None:
    together, other = Together(), Counting(store)
    coders = [Coder(store.space(), (b"-", n), None, together) for n in (network, other)]
    grid = np.random.default_rng(0).integers(0, 8192, (40, 20)).astype(np.int32)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda coder: coder.encode_image(grid), coders)
    assert first.payload == second.payload
    assert other.asked == 6, "its own waves, whenever the other's were done"


def test_a_network_that_fails_fails_its_callers_not_the_thread(network: Counting,
                                                               store: ModelStore) -> None:
    class Broken(Counting):
        def read(self, rows, memory):  # type: ignore[no-untyped-def]
            raise MemoryError

    together = Together()
    with pytest.raises(MemoryError):
        Coder(store.space(), (b"-", Broken(store)), None, together).encode_image(
            np.zeros((2, 2), np.int32))
    coder = Coder(store.space(), (b"-", network), None, together)
    assert coder.encode_image(np.zeros((2, 2), np.int32)).codes.shape == (2, 2)


class Wide(Job):
    """As many windows as go together, in each of some waves."""

    width = MOST_TOGETHER

    def __init__(self, name: str, waves: int) -> None:
        super().__init__(np.zeros((1, 1), np.int32))
        self.name, self.waves = name, waves


@pytest.mark.parametrize(("coming", "turns"), [
    ({0: 3}, "old old new old new new"),  # in turn
    (dict.fromkeys(range(20), 1), "old old new new new old"),  # one with every turn
])
def test_large_jobs_take_turns(monkeypatch: pytest.MonkeyPatch, coming: dict[int, int],
                               turns: str) -> None:
    seen: list[str] = []

    def advance(network: object, jobs: list[Wide]) -> None:
        if waves := coming.get(len(seen)):
            together._arrivals.put(_Call(network, Wide("new", waves), threading.Event()))
        (job,) = jobs
        seen.append(job.name)
        job.waves -= 1
        job.done = not job.waves

    monkeypatch.setattr(coding, "advance", advance)
    together = Together()
    together(None, Wide("old", 3))
    ends = time.monotonic() + 30
    while len(seen) < 6 and time.monotonic() < ends:
        time.sleep(0.001)
    assert seen[:6] == turns.split()
