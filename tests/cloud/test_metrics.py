"""What a server counts."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request

import pytest
from fake_backend import EchoBackend, fake_models
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from unimic.cloud.metrics import Metrics
from unimic.codec.errors import InvalidInput, UnimicError
from unimic.edge import AsyncClient
from unimic.edge.connection import ServiceError


def scrape(port: int) -> dict[str, float]:
    """Samples by name and the value of their label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    return {" ".join((sample.name, *sample.labels.values())): sample.value
            for family in families for sample in family.samples}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


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
    assert after["unimic_message_bytes_total up"] > 100
    assert after["unimic_message_bytes_total down"] > 50
    assert after["process_open_fds"] > 0
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInput, match=r"--metrics-port: cannot listen on 127\.0\.0\.1"), \
                Metrics().served("127.0.0.1", taken.getsockname()[1]):
            pytest.fail("it listens")
