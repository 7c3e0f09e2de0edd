"""The client for ordinary programs: the asynchronous one, run by a thread in the background."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from unimic.codec.errors import InvalidInput
from unimic.codec.limits import Limits
from unimic.codec.progress import Progress
from unimic.edge.aio import AsyncClient, Shareable
from unimic.edge.arguments import USUAL_QUALITY
from unimic.edge.connection import CONNECT_SECONDS, Tls, check_process
from unimic.edge.models import Models
from unimic.edge.regions import MaskSource
from unimic.edge.results import Answer, Picture

T = TypeVar("T")
_loops: list[asyncio.AbstractEventLoop] = []  # one, once it is needed
_starting = threading.Lock()


def _background() -> asyncio.AbstractEventLoop:
    """The loop of all clients of the process, in its own thread.

    It is never closed: gRPC would complain of events that come late for a closed one.
    """
    with _starting:  # the first clients may be made by many threads at once
        if not _loops:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="unimic-client", daemon=True).start()
            _loops.append(loop)
        return _loops[0]


def _check_thread(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # no loop runs in this thread: the usual case
        if asyncio.get_running_loop() is loop:
            raise InvalidInput("client", "is called from on_progress, and would wait for itself",
                               "let on_progress return, and call then or from another thread")


async def _outcome(call: Coroutine[Any, Any, T]) -> Future[T]:
    """What a call comes to, never raised: a `SystemExit` would end the loop of all clients."""
    outcome: Future[T] = Future()
    try:
        outcome.set_result(await call)
    except BaseException as error:
        outcome.set_exception(error)
    return outcome


class Client:
    """A session with the cloud service.

    ::

        with Client("localhost:50051") as cloud:
            photo = cloud.share("kitchen.jpg")
            answer = cloud.ask(photo, "what is on the table?")
            edited = cloud.inpaint(photo, (64, 64, 160, 160), "a red vase")
            edited.image.save("edited.png")

    Connects when it is made. Arguments, calls and errors are those of `AsyncClient`. May be used
    from several threads, but not in a process that was forked after the first client was made. An
    interrupt (Ctrl-C), or an error raised in ``on_progress``, which is called from a thread in the
    background and cannot use the client itself, cancels a call: the server stops computing.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, models: Models | None = None,
                 timeout: float | None = None, connect_timeout: float | None = CONNECT_SECONDS,
                 limits: Limits | None = None) -> None:
        self._client = AsyncClient(address, tls=tls, models=models, timeout=timeout,
                                   connect_timeout=connect_timeout, limits=limits)
        self._run(self._client.connect())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the session; calls that still run, in other threads, fail."""
        self._run(self._client.close())

    def share(self, image: Shareable, *, hole: MaskSource | None = None,
              quality: int = USUAL_QUALITY, budget: int | None = None, timeout: float | None = None,
              on_progress: Progress | None = None) -> Picture:
        """See `AsyncClient.share`."""
        return self._run(self._client.share(image, hole=hole, quality=quality, budget=budget,
                                            timeout=timeout, on_progress=on_progress))

    def ask(self, photo: Picture, question: str, *, timeout: float | None = None,
            on_progress: Progress | None = None) -> Answer:
        """See `AsyncClient.ask`."""
        return self._run(self._client.ask(photo, question, timeout=timeout,
                                          on_progress=on_progress))

    def caption(self, photo: Picture, *, timeout: float | None = None,
                on_progress: Progress | None = None) -> Answer:
        """See `AsyncClient.caption`."""
        return self._run(self._client.caption(photo, timeout=timeout, on_progress=on_progress))

    def inpaint(self, photo: Picture, mask: MaskSource, prompt: str = "", *,
                seed: int | None = None, steps: int | None = None,
                temperature: float | None = None, guidance: float | None = None,
                timeout: float | None = None, on_progress: Progress | None = None) -> Picture:
        """See `AsyncClient.inpaint`."""
        return self._run(self._client.inpaint(
            photo, mask, prompt, seed=seed, steps=steps, temperature=temperature,
            guidance=guidance, timeout=timeout, on_progress=on_progress))

    def outpaint(self, photo: Picture, *, left: int = 0, top: int = 0, right: int = 0,
                 bottom: int = 0, prompt: str = "", seed: int | None = None,
                 steps: int | None = None, temperature: float | None = None,
                 guidance: float | None = None, timeout: float | None = None,
                 on_progress: Progress | None = None) -> Picture:
        """See `AsyncClient.outpaint`."""
        return self._run(self._client.outpaint(
            photo, left=left, top=top, right=right, bottom=bottom, prompt=prompt, seed=seed,
            steps=steps, temperature=temperature, guidance=guidance, timeout=timeout,
            on_progress=on_progress))

    def generate(self, prompt: str, width: int = 256, height: int = 256, *,
                 seed: int | None = None, steps: int | None = None,
                 temperature: float | None = None, guidance: float | None = None,
                 timeout: float | None = None, on_progress: Progress | None = None) -> Picture:
        """See `AsyncClient.generate`."""
        return self._run(self._client.generate(
            prompt, width, height, seed=seed, steps=steps, temperature=temperature,
            guidance=guidance, timeout=timeout, on_progress=on_progress))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            check_process()
            loop = _background()
            _check_thread(loop)
        except InvalidInput:
            call.close()
            raise
        future = asyncio.run_coroutine_threadsafe(_outcome(call), loop)
        try:
            outcome = future.result()
        except BaseException:
            future.cancel()
            raise
        return outcome.result()
