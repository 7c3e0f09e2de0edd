"""Requests from many sessions become batches for the backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from unimic.cloud.backends.base import (
    AnswerRequest,
    Backend,
    Cancelled,
    FillRequest,
    GenerateRequest,
    Request,
)
from unimic.codec.progress import Progress

LINGER_SECONDS = 0.005
"""An idle worker waits this long for company: requests that were sent together arrive together."""


@dataclass(frozen=True, eq=False)
class _Job:
    request: Request
    progress: Progress | None
    done: asyncio.Future[Any]


@dataclass(eq=False)
class _Batch:
    """Requests that wait for a worker together."""

    jobs: list[_Job] = field(default_factory=list)
    worker: asyncio.Task[None] | None = None


class Batcher:
    """Runs a backend in worker threads, for callers on one event loop.

    A batch takes in every like request that comes while it waits for a free worker, so batches
    grow as the load does, up to `Backend.max_batch`, and nobody waits for a batch to fill.
    """

    def __init__(self, backend: Backend, workers: int = 1) -> None:
        self._methods: dict[type, Callable[..., Sequence[Any]]] = {
            GenerateRequest: backend.generate,
            FillRequest: backend.fill,
            AnswerRequest: backend.answer,
        }
        self._max_batch = backend.max_batch
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="backend")
        self._free = asyncio.Semaphore(workers)
        self._open: dict[tuple[object, ...], _Batch] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, request: Request, progress: Progress | None = None) -> Any:
        """The backend's result for one request; cancel the call to stop the computation.

        Args:
            progress: called on the event loop as ``progress(step, steps)``.
        """
        job = _Job(request, progress, asyncio.get_running_loop().create_future())
        key = (type(request), request.shape, request.sampling.steps)
        batch = self._open.get(key)
        if batch is None or len(batch.jobs) >= self._max_batch:
            batch = self._open[key] = _Batch()
            batch.worker = asyncio.create_task(self._work(key, batch))
            self._running.add(batch.worker)
            batch.worker.add_done_callback(self._running.discard)
        batch.jobs.append(job)
        try:
            return await job.done
        except asyncio.CancelledError:
            self._forget(key, batch, job)
            raise

    def _forget(self, key: tuple[object, ...], batch: _Batch, job: _Job) -> None:
        """Nothing of a request that nobody waits for is kept until a worker is free."""
        if job not in batch.jobs:  # a worker has taken it, and will see that nobody waits
            return
        batch.jobs.remove(job)
        if not batch.jobs and batch.worker:
            self._close(key, batch)
            batch.worker.cancel()

    def _close(self, key: tuple[object, ...], batch: _Batch) -> None:
        """Late comers start the next one."""
        if self._open.get(key) is batch:
            del self._open[key]

    def close(self) -> None:
        """Stop taking requests; what runs ends at its next step if nobody waits for it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, key: tuple[object, ...], batch: _Batch) -> None:
        async with self._free:
            await asyncio.sleep(LINGER_SECONDS)
            self._close(key, batch)
            jobs, batch.jobs = batch.jobs, []
            await self._compute(jobs)

    async def _compute(self, jobs: list[_Job]) -> None:
        loop = asyncio.get_running_loop()

        def watch(step: int, steps: int) -> None:
            waiting = [job for job in jobs if not job.done.done()]
            if not waiting:
                raise Cancelled
            for job in waiting:
                if job.progress:
                    loop.call_soon_threadsafe(job.progress, step, steps)

        def compute() -> Sequence[Any]:
            try:
                return self._methods[type(jobs[0].request)]([job.request for job in jobs], watch)
            except (StopIteration, SystemExit, asyncio.CancelledError) as error:
                # The loop would take it for its own, or not at all.
                raise RuntimeError(repr(error)) from error

        try:
            results = await loop.run_in_executor(self._threads, compute)
            for job, result in zip(jobs, results, strict=True):
                if not job.done.done():
                    job.done.set_result(result)
        except Exception as error:
            waiting = [job for job in jobs if not job.done.done()]  # none if it was cancelled
            if len(jobs) == 1 and waiting:
                waiting[0].done.set_exception(error)
                return
            for job in waiting:  # one of them is to blame: the others shall not suffer
                await self._compute([job])
