"""The batches of an epoch, the next few of them made by threads before the loop asks for them."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from shard_reader.order.batches import Order
from shard_reader.order.coverage import Coverage, hash_sums
from shard_reader.shards.fetch import Fetch
from shard_reader.stream.batch_reader import Reader
from shard_reader.stream.cache_schedule import CacheAhead
from shard_reader.stream.lookup import Pending, Plan

__all__ = ["Ahead", "Begun", "LocalPlans", "Plans", "RemotePlans", "major_faults"]


try:
    import resource
except ModuleNotFoundError:  # not Unix
    resource = None  # type: ignore[assignment]


class Begun(NamedTuple):
    """A batch that threads make, its step, and what its records count for."""

    pending: Pending
    step: int
    coverage: Coverage


class Ahead:
    """The batches of an epoch from a step on, in order, the next few of them under way.

    Args:
        first: the step of the first of them.
        every: take one in so many steps.
        verify: check images against their checksums.
        cold: tell the kernel which bytes will be needed, from the first batch on.

    Attributes:
        has_waited: whether this process has waited for the disk to give a page.
    """

    _getpid = staticmethod(os.getpid)  # when Python exits, its module may be gone before the last loop

    def __init__(
        self, reader: Reader, order: Order, epoch: int, first: int, *, every: int = 1, verify: bool, cold: bool
    ) -> None:
        self._reader, self._order, self._first, self._every = reader, order, first, every
        self._verify, self._cold, self._faults = verify, cold, major_faults()
        self.has_waited = False
        self._begun: deque[Begun] = deque()
        self._process = self._getpid()
        self._plans: Plans
        if reader.is_remote:
            self._plans = RemotePlans(reader, order, epoch, first, every)
        else:
            self._plans = LocalPlans(reader, order, epoch, first)

    def __iter__(self) -> Iterator[Begun]:
        for begun in self._begin():
            if begun is None:  # the next plan is not there yet: what is begun need not wait for it
                while self._begun and not self._plans.is_ready():
                    yield self._begun.popleft()
                continue
            self._begun.append(begun)
            if len(self._begun) > self._reader.options.prefetch:
                yield self._begun.popleft()
        while self._begun:
            yield self._begun.popleft()

    def cancel(self) -> None:
        """Leave what is not begun; what threads are at ends in memory that nobody holds."""
        if self._process == self._getpid():  # otherwise a thread may have held a lock when this process was forked
            self._plans.close()
            for begun in self._begun:
                begun.pending.cancel()
        self._begun.clear()

    def _begin(self) -> Iterator[Begun | None]:
        """Each batch, begun; None before a plan that has to be waited for."""
        while True:
            if not self._plans.is_ready():
                yield None
            found = self._plans.next()
            if found is None:
                return
            plan, stop = found
            coverages = _coverages(plan, self._order.share)
            for step, coverage in zip(range(plan.first, stop), coverages, strict=True):
                if (step - self._first) % self._every:
                    continue
                # Announcing costs time where everything is in memory; a page that was not shows that it is worth it.
                self.has_waited = self.has_waited or major_faults() > self._faults
                cold = self._cold or self.has_waited
                pending = self._reader.begin(plan, self._reader.places(plan, step), verify=self._verify, cold=cold)
                yield Begun(pending, step, coverage)
                del pending
            del found, plan  # its memory is for the next one


def _coverages(plan: Plan, share: int) -> list[Coverage]:
    """That of each batch of a plan."""
    counted = plan.picks.weights > 0
    starts = np.arange(0, len(counted), share)
    counts = np.add.reduceat(counted, starts, dtype=np.int64).tolist()
    return list(map(Coverage, counts, hash_sums(plan.picks.records, counted, starts).tolist()))


def major_faults() -> int:
    """How many pages this process has waited for the disk to give."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt if resource else 0


_FIRST_PLAN = 1 << 12  # records that are looked up at first: the first batch comes soon

_GROWTH = 4  # of plans of what is far away, from one batch on

_POLL_SECONDS = 0.02

_ALIVE = 2  # plans of what is far away that are in memory: one in use, and the next one


class Plans(Protocol):
    """The plans of an epoch from a step on."""

    def is_ready(self) -> bool:
        """Whether the next one is there, or the end is known."""

    def next(self) -> tuple[Plan, int] | None:
        """The next plan, and the step behind it."""

    def close(self) -> None:
        """Leave the rest."""


class LocalPlans:
    """Plans of what is on this machine."""

    def __init__(self, reader: Reader, order: Order, epoch: int, first: int) -> None:
        self._reader, self._order, self._epoch, self._first = reader, order, epoch, first
        self._records = min(_FIRST_PLAN, reader.most_records)

    def is_ready(self) -> bool:
        return True

    def next(self) -> tuple[Plan, int] | None:
        first, steps = self._first, self._order.steps
        if first >= steps:
            return None
        self._first = min(steps, first + max(1, self._records // self._order.share))
        self._records = self._reader.most_records
        return self._reader.plan(self._epoch, first, self._first), self._first

    def close(self) -> None:
        self._first = self._order.steps


class RemotePlans:
    """Plans of what is far away, made by a thread while those before are in use; what they need is then on its way.

    The first is of one batch, which so comes soon, the next ones are of as many as may be in memory. A plan ends
    where the windows of a window shuffle end: their bytes are all needed together, and so come in few requests.
    """

    def __init__(self, reader: Reader, order: Order, epoch: int, first: int, every: int = 1) -> None:
        self._reader, self._order, self._epoch, self._first = reader, order, epoch, first
        self._taken = range(first, max(first, order.steps), every)
        self._made: deque[tuple[Plan, int] | BaseException | None] = deque()
        self._changed = threading.Condition()
        self._ahead: CacheAhead | None = None
        self._alive: list[weakref.ref[Plan]] = []
        self._is_closed = self._is_begun = False

    def is_ready(self) -> bool:
        self._begin()
        return bool(self._made)

    def next(self) -> tuple[Plan, int] | None:
        self._begin()
        began = time.perf_counter()
        with self._changed:
            while not self._made:
                self._changed.wait()
            self._changed.notify_all()
        self._reader.stalled(time.perf_counter() - began)
        made = self._made[0]
        if isinstance(made, BaseException):
            raise made
        return made if made is None else self._made.popleft()  # type: ignore[return-value]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            made = list(self._made)
            self._made.clear()
            self._made.append(None)
            self._changed.notify_all()
        for one in made:
            if isinstance(one, tuple) and one[0].fetch is not None:
                one[0].fetch.cancel()

    def _begin(self) -> None:
        """Start the thread, if this is the first time that something is asked for: who never asks, need not close."""
        if not self._is_begun:
            self._is_begun = True
            threading.Thread(target=self._work, name="shard_reader-plans", daemon=True).start()

    def _work(self) -> None:
        try:
            self._ahead = self._reader.cache_ahead(self._epoch, self._taken)
            first, records = self._first, self._order.share
            before: Fetch | None = None
            while first < self._order.steps and self._has_room():
                stop = self._up_to(first, max(1, records // self._order.share))
                if self._ahead is not None:
                    self._ahead.advance(first, stop)
                    if first != self._first:  # the first batch need not wait for whole shards
                        self._ahead.wait(lambda: not self._is_closed, self._in_use)
                if self._is_closed:
                    return
                plan, stop = self._reader.plan_ahead(self._epoch, first, stop, self._taken, before)
                self._alive.append(weakref.ref(plan))
                records = self._next_size(plan, records)
                if not self._put((plan, stop)):
                    if plan.fetch is not None:
                        plan.fetch.cancel()
                    return
                before, first = plan.fetch, stop
                del plan
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _next_size(self, plan: Plan, records: int) -> int:
        """How many records to look up next."""
        most = self._reader.most_records
        if plan.fetch is None:
            return most
        held = self._reader.records_ahead(plan)
        # What lies close together comes in few requests, if all of it is asked for at a time.
        if 8 * held >= self._order.arrangement.block:
            return held
        return min(held, records * _GROWTH)

    def _in_use(self) -> bool:
        """Whether there is a plan that the loop has not done with."""
        with self._changed:
            self._alive = [plan for plan in self._alive if plan() is not None]
            return bool(self._alive)

    def _up_to(self, first: int, most: int) -> int:
        """The step behind the next plan: where windows end, if that is not farther away."""
        stop, block, size = min(self._order.steps, first + most), self._order.arrangement.block, self._order.batch_size
        if block:
            # The step across the border comes with those behind it: what it needs of those before is on its way.
            stop = min(stop, ((first + 1) * size // block + 1) * block // size)
        return stop

    def _has_room(self) -> bool:
        """Wait until there may be another plan; False: none is wanted."""
        while True:
            with self._changed:
                self._alive = [plan for plan in self._alive if plan() is not None]
                if not self._is_closed and len(self._alive) >= _ALIVE:
                    self._changed.wait(_POLL_SECONDS)  # nobody tells when the last batch of a plan is done
                if self._is_closed or len(self._alive) < _ALIVE:
                    return not self._is_closed
            if self._ahead is not None:
                self._ahead.pump()  # without the lock: the loop need not wait for the disk that the cache is on

    def _put(self, made: tuple[Plan, int] | BaseException | None) -> bool:
        with self._changed:
            if self._is_closed:
                return False
            self._made.append(made)
            self._changed.notify_all()
            return True
