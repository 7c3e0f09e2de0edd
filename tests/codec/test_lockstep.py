"""Grids coded together: every one gets the bytes it would get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unimic.codec.coder import Coder
from unimic.codec.errors import CorruptData
from unimic.codec.lockstep import DecodeJob, EncodeJob, Job, advance, complete
from unimic.codec.networks import OnnxImageNetwork
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Distances

SHAPES = [(3, 5), (16, 16), (1, 1), (18, 40)]


@pytest.fixture(scope="module")
def network(store: ModelStore) -> OnnxImageNetwork:
    return OnnxImageNetwork(store)


def watch(done: int, total: int) -> None:
    assert 0 <= done <= total


def cases() -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Codes, and the other arguments."""
    rng = np.random.default_rng(5)
    out = []
    for i, shape in enumerate(SHAPES):
        codes = rng.integers(0, 8192, shape).astype(np.int32)
        mask, hole = (rng.random(shape) < 0.6 if i % 2 else None), None
        if i == 0:
            hole = rng.random(shape) < 0.3
            mask, codes = ~hole, np.where(hole, 0, codes).astype(np.int32)
        prompt = rng.integers(1, 4096, 5).astype(np.int32) if i == 1 else None
        out.append((codes, {"mask": mask, "hole": hole, "prompt": prompt,
                            "skip": 128 if i == 3 else 0}))
    return out


def run(network: OnnxImageNetwork, jobs: list[Job]) -> None:
    """The second half of the jobs comes one wave later than the first."""
    advance(network, jobs[:len(jobs) // 2])
    complete(network, jobs)


def test_together_as_alone(network: OnnxImageNetwork, store: ModelStore) -> None:
    coder = Coder(store.space(), (b"-", network), None)
    alone = [coder.encode_image(codes, **others) for codes, others in cases()]
    jobs = [EncodeJob(network.layout, codes, watch=watch, **others) for codes, others in cases()]
    run(network, jobs)
    for job, expected in zip(jobs, alone, strict=True):
        job.check()
        assert job.encoder.finish() == expected.payload
        np.testing.assert_array_equal(job.codes, expected.codes)
        np.testing.assert_array_equal(job.bits, expected.token_bits)

    readers = []
    for (codes, others), expected in zip(cases(), alone, strict=True):
        mask = others["mask"]
        known = np.zeros_like(codes) if mask is None else np.where(mask, 0, codes)
        readers.append(DecodeJob(expected.payload, known, watch=watch, **others))
    run(network, readers)
    for reader, expected in zip(readers, alone, strict=True):
        finish(reader)
        np.testing.assert_array_equal(reader.codes, expected.codes)


def test_a_price_buys_cheaper_tokens(network: OnnxImageNetwork, store: ModelStore) -> None:
    coder, layout = Coder(store.space(), (b"-", network), None), network.layout
    rng, shape = np.random.default_rng(6), (9, 9)
    distances = Distances(rng.random((*shape, layout.upper)).astype(np.float32),
                          rng.random((*shape, layout.lower)).astype(np.float32))
    nearest = (distances.upper.argmin(-1) * layout.lower + distances.lower.argmin(-1))
    codes = nearest.astype(np.int32)
    plain = coder.encode_image(codes)
    coded = [coder.encode_image(codes, distances=distances, price=price)
             for price in (0.0, 1e-9, 0.01, 0.1)]
    assert coded[0].payload == coded[1].payload == plain.payload
    bits = [one.ideal_bits for one in coded]
    far = [sum(float(np.take_along_axis(part, of[..., None], -1).sum())
               for part, of in zip(distances, layout.split(one.codes), strict=True))
           for one in coded]
    assert bits[1] > bits[2] > bits[3]
    assert far[1] < far[2] < far[3]
    for one in coded:
        back = coder.decode_image(one.payload, np.zeros(shape, np.int32))
        np.testing.assert_array_equal(back, one.codes)


def finish(job: DecodeJob) -> None:
    job.check()
    job.decoder.finish()


def test_one_that_fails_does_not_touch_the_others(network: OnnxImageNetwork) -> None:
    codes = np.random.default_rng(0).integers(0, 8192, (6, 6)).astype(np.int32)
    good = EncodeJob(network.layout, codes, watch=watch)
    advance(network, [good])

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    payload = good.encoder.finish()
    reader = DecodeJob(payload, np.zeros_like(codes), watch=watch)
    stopped = DecodeJob(payload, np.zeros_like(codes), watch=stop)
    broken = DecodeJob(b"\xff" * 200, np.zeros_like(codes), watch=watch)
    run(network, [stopped, broken, reader])
    np.testing.assert_array_equal(reader.codes, codes)
    reader.check()
    with pytest.raises(Stop):
        stopped.check()
    with pytest.raises(CorruptData):
        finish(broken)
