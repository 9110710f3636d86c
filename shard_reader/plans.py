"""The plans of an epoch, one after the other: made when they are asked for, or ahead, where data is far away."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import Protocol

from shard_reader.cache_ahead import CacheAhead
from shard_reader.fetching import Fetch
from shard_reader.order import Order
from shard_reader.plan import Plan
from shard_reader.reading import Reader

__all__ = ["LocalPlans", "Plans", "RemotePlans"]

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
