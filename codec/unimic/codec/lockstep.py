"""Coding many token grids in step: the networks see one batch, every grid its own range coder.

A `Job` is one grid on its way through a coder, wave by wave. `advance` takes the next wave of all
the jobs it is given, whatever their sizes, masks and prompts; exact networks make the company a
job is in irrelevant to its bytes. Jobs may join and leave between waves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimic.codec.frequencies import certain, frequencies
from unimic.codec.image_rows import (
    Integers,
    Layout,
    Rows,
    WindowPlan,
    content_rows,
    plan_window,
    stack,
)
from unimic.codec.networks import Floats, ImageNetwork
from unimic.codec.order import REVEALED, Window, group_skip, waves
from unimic.codec.progress import Progress, ignore
from unimic.codec.rangecoder import (
    Frequencies,
    RangeDecoder,
    RangeEncoder,
    all_information,
    information,
)
from unimic.codec.tokens import Codes, Distances, Mask


class Job:
    """One grid to code; see `unimic.codec.coder.Coder` for the arguments.

    Attributes:
        codes: int32 ``(rows, columns)``: the receiver's grid, as far as it has come.
        done: whether nothing is left to do.
        error: what ended it early, if anything did.
    """

    ahead = False
    """Whether all codes are known beforehand and sent, so that a wave needs one look."""

    def __init__(self, codes: Codes, *, mask: Mask | None = None, hole: Mask | None = None,
                 prompt: Codes | None = None, skip: int = 0, watch: Progress = ignore) -> None:
        self.codes = codes.copy()
        self.mask = np.ones(codes.shape, np.bool_) if mask is None else mask
        self.hole, self.prompt, self.skip = hole, prompt, skip
        self.done = False
        self.error: BaseException | None = None
        self._watch = watch
        coded = ([w for w in wave if _inside(self.mask, w).any()] for wave in waves(*codes.shape))
        self._waves = deque(filter(None, coded))
        self._coded, self._total = 0, int(self.mask.sum())

    @property
    def width(self) -> int:
        """How many windows the next wave has."""
        return len(self._waves[0]) if self._waves else 0

    def heed(self) -> None:
        """End the job if whoever watches it says so."""
        try:
            self._watch(self._coded, self._total)
        except BaseException as error:  # raised where somebody waits, not in a thread of many jobs
            self.fail(error)

    def plans(self, layout: Layout) -> list[WindowPlan]:
        """Plans of the next wave; none when the job is done."""
        self.heed()
        self.done = self.done or not self._waves
        if self.done:
            return []
        try:
            plans = [plan_window(layout, self.codes, self.mask, w, self.prompt, self.hole)
                     for w in self._waves.popleft()]
        except Exception as error:
            self.fail(error)
            return []
        self._coded += sum(len(p.groups) for p in plans)
        return plans

    def table(self, logits: Floats) -> Frequencies:
        """Frequencies of the symbols whose logits are ``(n, alphabet)``."""
        return frequencies(logits)

    def carry(self, table: Frequencies, rows: Integers, columns: Integers, part: int) -> Codes:
        """Bring symbols from the sender to the receiver.

        Args:
            table: int32 ``(n, alphabet)``, their frequencies.
            rows, columns: ``(n,)``, where they are.
            part: 0 for upper parts of codes, 1 for lower ones.

        Returns:
            The symbols, int32 ``(n,)``.
        """
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """End the job early."""
        self.done, self.error = True, error

    def check(self) -> None:
        """Raise what ended the job early."""
        if self.error is not None:
            raise self.error


class EncodeJob(Job):
    """Writes the tokens of a known grid, or what is nearly as good and cheaper."""

    def __init__(self, layout: Layout, codes: Codes, *, mask: Mask | None = None,
                 hole: Mask | None = None, prompt: Codes | None = None, skip: int = 0,
                 watch: Progress = ignore, distances: Distances | None = None, price: float = 0.0
                 ) -> None:
        super().__init__(codes, mask=mask, hole=hole, prompt=prompt, skip=skip, watch=watch)
        self.distances, self.price = (distances, price) if price else (None, 0.0)
        # What is sent may differ from the codes, and later groups see it.
        self.ahead = not skip and self.distances is None
        self.encoder, self.bits = RangeEncoder(), np.zeros(codes.shape)
        self._parts = layout.split(codes)

    def carry(self, table: Frequencies, rows: Integers, columns: Integers, part: int) -> Codes:
        if self.distances is None:
            symbols = self._parts[part][rows, columns].astype(np.int32)
        else:
            cost = self.distances[part][rows, columns] + self.price * all_information(table)
            symbols = cost.argmin(1).astype(np.int32)
        self.encoder.encode(symbols, table)
        self.bits[rows, columns] += information(symbols, table)
        return symbols


class DecodeJob(Job):
    """Reads a payload."""

    def __init__(self, payload: bytes, codes: Codes, *, mask: Mask | None = None,
                 hole: Mask | None = None, prompt: Codes | None = None, skip: int = 0,
                 watch: Progress = ignore) -> None:
        super().__init__(codes, mask=mask, hole=hole, prompt=prompt, skip=skip, watch=watch)
        self.decoder = RangeDecoder(payload)

    def carry(self, table: Frequencies, rows: Integers, columns: Integers, part: int) -> Codes:
        return self.decoder.decode(table)


def advance(network: ImageNetwork, jobs: Sequence[Job]) -> None:
    """Code the next wave of every job. What goes wrong with one ends that one alone."""
    places = [_Place(job, plan) for job in jobs for plan in job.plans(network.layout)]
    for ahead, code in ((True, _at_once), (False, _group_by_group)):
        chosen = [p for p in places if p.job.ahead is ahead]
        if chosen:
            code(network, chosen)


def complete(network: ImageNetwork, jobs: Sequence[Job]) -> None:
    """Take all jobs to their ends; `Job.check` tells which came to a bad one."""
    while live := [job for job in jobs if not job.done]:
        advance(network, live)


class _Place(NamedTuple):
    """One window of one job: a row of the batch."""

    job: Job
    plan: WindowPlan

    def group(self, group: int) -> slice:
        """Where the tokens of ``group`` are in the plan."""
        start, stop = np.searchsorted(self.plan.groups, (group, group + 1))
        return slice(int(start), int(stop))

    def carry(self, table: Frequencies, which: slice, sent: NDArray[np.bool_] | slice,
              part: int) -> Codes:
        """The job's `carry` for those of the plan's tokens ``which`` that are sent."""
        rows, columns = self.plan.rows[which][sent], self.plan.columns[which][sent]
        if self.job.error is None:
            try:
                return self.job.carry(table[sent], rows, columns, part)
            except Exception as error:
                self.job.fail(error)
        return np.zeros(len(rows), np.int32)


def known_logits(network: ImageNetwork, windows: Sequence[tuple[WindowPlan, Codes]],
                 ) -> list[tuple[Floats, Floats]]:
    """Logits of the tokens of windows whose grids are known, in one look.

    Args:
        network: the executor.
        windows: plans, each with its whole grid.

    Returns:
        For each window, upper ``(n, upper)`` and lower ``(n, lower)`` logits in coding order.
    """
    layout = network.layout
    memory = network.read(stack([content_rows(layout, p, c) for p, c in windows], layout), None)
    upper_logits, hidden = network.ask(stack([p.queries for p, _ in windows], layout), memory)
    upper = np.zeros(upper_logits.shape[:2], np.int64)
    for line, (plan, codes) in zip(upper, windows, strict=True):
        line[:len(plan.rows)] = layout.split(codes[plan.rows, plan.columns])[0]
    lower_logits = network.tail(hidden, upper)
    return [(one[:len(plan.rows)], other[:len(plan.rows)])
            for one, other, (plan, _) in zip(upper_logits, lower_logits, windows, strict=True)]


def _at_once(network: ImageNetwork, places: list[_Place]) -> None:
    logits = known_logits(network, [(p.plan, p.job.codes) for p in places])
    tables = [[p.job.table(part) for part in parts]
              for p, parts in zip(places, logits, strict=True)]
    for group in range(1, len(REVEALED) + 1):
        for part in (0, 1):
            for p, parts in zip(places, tables, strict=True):
                which = p.group(group)
                p.carry(parts[part][which], which, slice(None), part)


def _group_by_group(network: ImageNetwork, places: list[_Place]) -> None:
    layout = network.layout
    memory = network.read(stack([p.plan.known for p in places], layout), None)
    for group in range(1, len(REVEALED) + 1):
        slices = [p.group(group) for p in places]
        queries = [p.plan.queries.part(s) for p, s in zip(places, slices, strict=True)]
        if not any(map(len, queries)):
            continue
        upper_logits, hidden = network.ask(stack(queries, layout), memory)
        upper = _bring(upper_logits, places, slices, group, 0)
        lower = _bring(network.tail(hidden, upper), places, slices, group, 1)
        codes = (upper * layout.lower + lower).astype(np.int32)
        new: list[Rows] = []
        for p, which, row, query in zip(places, slices, codes, queries, strict=True):
            tokens = row[:len(query)]
            p.job.codes[p.plan.rows[which], p.plan.columns[which]] = tokens
            new.append(layout.tokens(tokens, query.place, query.group))
        if group < len(REVEALED):  # nobody sees the last group
            memory = network.read(stack(new, layout), memory)


def _bring(logits: Floats, places: list[_Place], slices: list[slice], group: int,
           part: int) -> Integers:
    """Symbols ``(B, n)``: those that are sent from the jobs, of the others the most probable."""
    symbols = np.zeros(logits.shape[:2], np.int64)
    for row, out, p, which in zip(logits, symbols, places, slices, strict=True):
        table = p.job.table(row[:which.stop - which.start])
        if skip := group_skip(p.job.skip, group):
            sent = ~certain(table, skip)
            out[:len(table)] = table.argmax(1)
            out[:len(table)][sent] = p.carry(table, which, sent, part)
        else:
            out[:len(table)] = p.carry(table, which, slice(None), part)
    return symbols


def _inside(mask: Mask, window: Window) -> Mask:
    return mask[window.top:window.bottom, window.left:window.right]
