"""Requests from many sessions become batches for the backend."""

from __future__ import annotations

import asyncio
import copy
import operator
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from unimic.cloud.backends.base import (
    Answer,
    AnswerRequest,
    Backend,
    Cancelled,
    FillRequest,
    GenerateRequest,
    Request,
)
from unimic.cloud.metrics import Metrics
from unimic.codec.errors import InvalidInput, UnimicError
from unimic.codec.progress import Progress
from unimic.codec.tokens import Codes, check_codes

THREADS = "backend"
"""What the names of worker threads begin with."""
_PARTS = "field", "message", "remedy"  # of an error
LINGER_SECONDS = 0.005
"""An idle worker waits this long for company: requests that were sent together arrive together."""
MOST_TOKENS = 1 << 14
"""Of all images of a batch: what is more takes as long together as one after the other."""


@dataclass(frozen=True, eq=False)
class _Job:
    asker: object
    request: Request
    progress: Progress | None
    done: asyncio.Future[Any]


@dataclass(eq=False)
class _Batch:
    """Requests that wait for a worker together; the batch of the least tag is next."""

    key: tuple[object, ...]
    jobs: list[_Job] = field(default_factory=list)
    tag: float = inf


class Batcher:
    """Runs a backend in worker threads, for callers on one event loop.

    A batch takes in every like request that comes while it waits for a free worker, so batches
    grow as the load does, up to `Backend.max_batch`, and nobody waits for a batch to fill.

    Whose batch is next is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with every
    batch of equal length: the tag of an asker's batch is one more than that of the asker's last, or
    than that of the batch that was begun last, whichever is later. So who asks for one thing waits
    for one batch of each of the others at most, not for all that they have asked for.
    """

    def __init__(self, backend: Backend, workers: int, metrics: Metrics) -> None:
        self._methods: dict[type, Callable[..., Sequence[Any]]] = {
            GenerateRequest: backend.generate,
            FillRequest: backend.fill,
            AnswerRequest: backend.answer,
        }
        self._backend = backend
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=THREADS)
        self._waiting: list[_Batch] = []
        self._workers, self._metrics = workers, metrics
        self._running: set[asyncio.Task[None]] = set()
        self._begun = 0.0  # the tag of the batch that was begun last
        self._last: WeakKeyDictionary[object, float] = WeakKeyDictionary()  # tag, by asker

    async def run(self, asker: object, request: Request, progress: Progress | None = None) -> Any:
        """The backend's result for one request; cancel the call to stop the computation.

        Args:
            asker: whose request it is.
            request: what is asked for.
            progress: called on the event loop as ``progress(step, steps)``.
        """
        job = _Job(asker, request, progress, asyncio.get_running_loop().create_future())
        batch = self._join(job)
        try:
            return await job.done
        except asyncio.CancelledError:
            if batch in self._waiting:  # else its worker sees that nobody waits
                batch.jobs.remove(job)
                if not batch.jobs:
                    self._waiting.remove(batch)
            raise

    def _join(self, job: _Job) -> _Batch:
        """Put a job into a batch that waits, or else into a new one."""
        key = (type(job.request), job.request.shape, job.request.sampling.steps)
        rows, columns = job.request.shape
        most = min(self._backend.max_batch, max(1, MOST_TOKENS // (rows * columns)))
        batch = next((batch for batch in self._waiting
                      if batch.key == key and len(batch.jobs) < most), None)
        if batch is None:
            batch = _Batch(key)
            self._waiting.append(batch)
            if len(self._running) < self._workers:
                self._running.add(asyncio.create_task(self._work()))
        if all(other.asker is not job.asker for other in batch.jobs):
            tag = max(self._begun, self._last.get(job.asker, 0)) + 1
            self._last[job.asker] = tag
            batch.tag = min(batch.tag, tag)
        batch.jobs.append(job)
        return batch

    def close(self) -> None:
        """Stop taking requests; what runs ends at its next step if nobody waits for it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Compute batches for as long as there are any."""
        this = asyncio.current_task()
        assert this is not None
        try:
            while True:
                await asyncio.sleep(LINGER_SECONDS)
                if not self._waiting:
                    return
                batch = min(self._waiting, key=lambda batch: batch.tag)
                self._waiting.remove(batch)
                self._begun = batch.tag
                await self._compute(batch.jobs)
        finally:  # at once: whoever comes next starts another
            self._running.discard(this)

    async def _compute(self, jobs: list[_Job]) -> None:
        loop = asyncio.get_running_loop()
        self._metrics.batch_requests.labels(_kind(jobs[0].request)).observe(len(jobs))

        def watch(step: int, steps: int) -> None:
            step, steps = operator.index(step), operator.index(steps)
            if not 0 <= step <= steps < 1 << 31:
                raise ValueError(f"watch({step}, {steps})")
            waiting = [job for job in jobs if not job.done.done()]
            if not waiting:
                raise Cancelled
            for job in waiting:
                if job.progress:
                    loop.call_soon_threadsafe(job.progress, step, steps)

        def compute() -> list[Codes | Answer]:
            # Copies: the images are the sessions', and who fails in a batch is asked once more.
            requests = copy.deepcopy([job.request for job in jobs])
            try:
                return self._checked(self._methods[type(requests[0])](requests, watch), requests)
            except Cancelled:
                raise
            except UnimicError as error:
                if all(isinstance(vars(error).get(part), str) for part in _PARTS):
                    raise
                raise RuntimeError(f"backend {self._backend.name}: {error!r}") from error
            except BaseException as error:  # the loop would take some for its own, or not at all
                raise RuntimeError(f"backend {self._backend.name}: {error!r}") from error

        try:
            results = await loop.run_in_executor(self._threads, compute)
            for job, result in zip(jobs, results, strict=True):
                if not job.done.done():
                    job.done.set_result(result)
        except (Exception, Cancelled) as error:
            waiting = [job for job in jobs if not job.done.done()]
            if len(jobs) == 1 and waiting:
                waiting[0].done.set_exception(
                    RuntimeError("it gave up, and somebody waited") if isinstance(error, Cancelled)
                    else error)
                return
            for job in waiting:  # one of them is to blame: the others shall not suffer
                await self._compute([job])

    def _checked(self, results: Any, requests: Sequence[Request]) -> list[Codes | Answer]:
        """What a method of the backend returned, one result a request.

        Raises:
            TypeError, ValueError: it is something else.
        """
        found = list(results)
        if len(found) != len(requests):
            raise ValueError(f"{len(found)} results of {len(requests)} requests")
        return [_answer(result) if isinstance(request, AnswerRequest)
                else self._codes(result, request.shape)
                for result, request in zip(found, requests, strict=True)]

    def _codes(self, result: Any, shape: tuple[int, int]) -> Codes:
        codes = np.asarray(result)
        if codes.shape != shape:
            raise ValueError(f"{codes.dtype} {codes.shape} in place of int32 {shape}")
        try:
            check_codes("codes", codes, self._backend.space.image_codes)
        except InvalidInput as error:  # not the client's input
            raise ValueError(str(error)) from error
        return codes.astype(np.int32)


def _kind(request: Request) -> str:
    """What is asked for, in a word."""
    return type(request).__name__.removesuffix("Request").lower()


def _answer(result: Any) -> Answer:
    if not isinstance(result, Answer) or not isinstance(result.text, str):
        raise TypeError(f"{result!r:.200} is no Answer of a text")
    result.text.encode()  # a lone surrogate is no text
    if not 0 <= float(result.confidence) <= 1:  # NaN fails too
        raise ValueError(f"a confidence of {result.confidence}")
    return Answer(result.text, float(result.confidence))
