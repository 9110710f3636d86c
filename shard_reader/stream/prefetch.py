"""The batches of an epoch, the next few of them made by threads before the loop asks for them."""

# Remote data is looked up by a thread of its own. Arithmetic says which records come next, but only the index of a
# shard says where they lie, and it has to be fetched. So the next lookup, with all its requests, is made while the
# previous one is used, and a loop gives finished batches before it waits for unfinished ones.

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from shard_reader.order.batches import BatchOrder
from shard_reader.order.coverage import Coverage, hash_sums
from shard_reader.shards.cache_schedule import CacheSchedule
from shard_reader.shards.fetch import Fetch
from shard_reader.stream.arrays.lookup import Lookup, PendingBatch
from shard_reader.stream.batch_reader import BatchReader, Made

try:
    import resource
except ModuleNotFoundError:  # not Unix
    resource = None  # type: ignore[assignment]

__all__ = ["LocalLookups", "Lookups", "Prefetch", "RemoteLookups", "major_faults"]

_GROWTH = 4  # the factor by which lookups grow, from one batch on, so that the first batch comes soon
_POLL_SECONDS = 0.02
_ALIVE = 2  # remote lookups in memory: the one in use, and the next one; this bounds the memory


class Prefetch:
    """The batches of an epoch from a step on, in order, the next few of them under way.

    Args:
        first: the step of the first batch.
        every: take one in so many steps.
        cold: announce bytes to the kernel from the first batch on.
        ahead: number of batches to begin in advance; by default as the reader's options say.

    Attributes:
        has_waited: whether this process has waited for a page from the disk.
        workers: the number of threads that make batches; 0 where the thread of the loop does.
        tally: counts of the loop.
    """

    # Kept here since at Python's exit the module `os` may be gone before the last loop is.
    _getpid = staticmethod(os.getpid)

    def __init__(
        self,
        reader: BatchReader,
        order: BatchOrder,
        epoch: int,
        first: int,
        *,
        every: int = 1,
        cold: bool,
        ahead: int | None = None,
    ) -> None:
        self._ahead = reader.options.prefetch if ahead is None else ahead
        self._reader, self._order, self._first, self._every = reader, order, first, every
        self._cold, self._faults = cold, major_faults()
        self.has_waited, self.workers, self.tally = False, reader.worker_threads, reader.counters.new_tally()
        self._pending: deque[PendingBatch] = deque()
        self._process = self._getpid()
        self._lookups: Lookups
        if reader.is_remote:
            self._lookups = RemoteLookups(reader, order, epoch, first, every)
        else:
            self._lookups = LocalLookups(reader, order, epoch, first)

    def __iter__(self) -> Iterator[Made]:
        for pending in self._begin():
            # Batches that are under way need not wait for a lookup that is still being fetched.
            if pending is None:
                while self._pending and not self._lookups.is_ready():
                    yield self._finished()
                continue
            self._pending.append(pending)
            del pending  # only the loop may hold a batch: its memory is used again when the loop drops it
            if len(self._pending) > self._ahead:
                yield self._finished()
        while self._pending:
            yield self._finished()
        self._note_faults()

    def cancel(self) -> None:
        """Drop the batches that have not begun; threads finish theirs in memory that nobody holds."""
        self.tally.is_done = True
        # Not in a fork: a thread of the parent may have held one of the locks when this process was forked.
        if self._process == self._getpid():
            self._lookups.close()
            for pending in self._pending:
                pending.cancel()
        self._pending.clear()

    def _finished(self) -> Made:
        """The next batch, of which nothing is held here."""
        pending = self._pending.popleft()
        batch, skipped = self._reader.finish(pending)
        self.tally.read_seconds += pending.gather_seconds
        return Made(pending.step, pending.coverage, batch, skipped)

    def _begin(self) -> Iterator[PendingBatch | None]:
        """Each batch, begun; None before a lookup that has to be waited for."""
        while True:
            if not self._lookups.is_ready():
                yield None
            began = time.perf_counter()
            found = self._lookups.next()
            if not self._reader.is_remote:  # otherwise it is a wait for bytes, which is counted as such
                self.tally.read_seconds += time.perf_counter() - began
            if found is None:
                return
            lookup, stop = found
            coverages = _coverages(lookup, self._order.share)
            for step, coverage in zip(range(lookup.first, stop), coverages, strict=True):
                if (step - self._first) % self._every:
                    continue
                # Announcing bytes costs time where everything is in memory. The first page that had to be waited for
                # shows that it is worth it.
                self._note_faults()
                cold = self._cold or self.has_waited
                pending = self._reader.begin(lookup, self._reader.places(lookup, step), cold=cold)
                pending.step, pending.coverage = step, coverage
                yield pending
                del pending
            del found, lookup  # its memory is for the next one

    def _note_faults(self) -> None:
        """Count the pages that had to be waited for."""
        faults = major_faults()
        if faults > self._faults:
            self._reader.counters.add(page_waits=faults - self._faults)
            self._faults, self.has_waited = faults, True


class Lookups(Protocol):
    """The lookups of an epoch from a step on."""

    def is_ready(self) -> bool:
        """Whether `next` returns at once."""

    def next(self) -> tuple[Lookup, int] | None:
        """The next lookup, and the step after it; None at the end of the epoch."""

    def close(self) -> None:
        """Drop the remaining lookups."""


class LocalLookups:
    """Lookups of shards on this machine."""

    def __init__(
        self, reader: BatchReader, order: BatchOrder, epoch: int, first: int, most_records: int | None = None
    ) -> None:
        self._reader, self._order, self._epoch, self._first = reader, order, epoch, first
        self._most = reader.most_records if most_records is None else most_records
        self._records = min(order.share, self._most)

    def is_ready(self) -> bool:
        return True

    def next(self) -> tuple[Lookup, int] | None:
        first, steps = self._first, self._order.steps
        if first >= steps:
            return None
        self._first = min(steps, first + max(1, self._records // self._order.share))
        self._records = min(self._most, self._records * _GROWTH)
        return self._reader.lookup(self._epoch, first, self._first), self._first

    def close(self) -> None:
        self._first = self._order.steps


class RemoteLookups:
    """Lookups of remote shards, made by a thread while the previous one is in use; their requests are then under way.

    The first lookup is one batch, the next ones are as many as may be in memory. A lookup ends where the windows of a
    window shuffle end.
    """

    # The first lookup is by ranges of bytes, even with a cache: whole shards for a window may take seconds. A lookup
    # ends with a window since the bytes of a window are whole runs of shards, which come in few requests.

    def __init__(self, reader: BatchReader, order: BatchOrder, epoch: int, first: int, every: int = 1) -> None:
        self._reader, self._order, self._epoch, self._first = reader, order, epoch, first
        self._wanted_steps = range(first, max(first, order.steps), every)
        self._results: deque[tuple[Lookup, int] | BaseException | None] = deque()
        self._changed = threading.Condition()
        self._schedule: CacheSchedule | None = None
        self._alive: list[weakref.ref[Lookup]] = []
        self._is_closed = self._is_begun = False
        self._here: LocalLookups | None = None  # where no thread can be started

    def is_ready(self) -> bool:
        self._begin()
        return bool(self._results) or self._here is not None

    def next(self) -> tuple[Lookup, int] | None:
        self._begin()
        if self._here is not None:
            return self._here.next()
        began = time.perf_counter()
        with self._changed:
            while not self._results:
                self._changed.wait()
            self._changed.notify_all()
        self._reader.counters.add(stalled_seconds=time.perf_counter() - began)
        # An error stays where it is: every later call raises it, too.
        result = self._results[0]
        if isinstance(result, BaseException):
            raise result
        return result if result is None else self._results.popleft()  # type: ignore[return-value]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            results = list(self._results)
            self._results.clear()
            self._results.append(None)
            self._changed.notify_all()
        for result in results:
            if isinstance(result, tuple) and result[0].fetch is not None:
                result[0].fetch.cancel()

    def _begin(self) -> None:
        """Start the thread, at the first request."""
        # Not earlier: a loop that never begins is never closed, and its thread would stay.
        if not self._is_begun:
            self._is_begun = True
            thread = threading.Thread(target=self._work, name="shard_reader-lookups", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # Python is at its end, and starts no threads: a loop that it still waits for looks up by itself, one
                # batch at a time.
                self._here = LocalLookups(self._reader, self._order, self._epoch, self._first, self._order.share)

    def _work(self) -> None:
        try:
            self._schedule = self._reader.cache_schedule(self._epoch, self._wanted_steps)
            first, records = self._first, self._order.share
            previous: Fetch | None = None
            while first < self._order.steps and self._has_room():
                stop = self._end(first, max(1, records // self._order.share))
                self._await_cache(first, stop)
                if self._is_closed:
                    return
                lookup, stop = self._reader.prefetch_lookup(self._epoch, first, stop, self._wanted_steps, previous)
                self._alive.append(weakref.ref(lookup))
                records = self._next_size(lookup, records)
                if not self._put((lookup, stop)):
                    if lookup.fetch is not None:
                        lookup.fetch.cancel()
                    return
                previous, first = lookup.fetch, stop
                del lookup
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _await_cache(self, first: int, stop: int) -> None:
        """Have the cache fetch the shards of some steps, and wait for them, but for those of the first batch."""
        if self._schedule is not None:
            self._schedule.advance(first, stop)
            if first != self._first:
                self._schedule.wait(lambda: not self._is_closed, self._in_use)

    def _next_size(self, lookup: Lookup, records: int) -> int:
        """The number of records to look up next."""
        most = self._reader.most_records
        if lookup.fetch is None:
            return most
        held = self._reader.records_in_budget(lookup)
        # Where a good part of a window fits into memory, its records lie close together: asked for together, they come
        # in few requests. Otherwise lookups grow slowly, so that no batch waits for a large one.
        if 8 * held >= self._order.record_order.block:
            return held
        return min(held, records * _GROWTH)

    def _in_use(self) -> bool:
        """Whether the loop still uses a lookup."""
        with self._changed:
            self._alive = [lookup for lookup in self._alive if lookup() is not None]
            return bool(self._alive)

    def _end(self, first: int, most: int) -> int:
        """The step after the next lookup: at most `most` steps on, and no later than a window ends."""
        steps, block, size = self._order.steps, self._order.record_order.block, self._order.batch_size
        stop = min(steps, first + most)
        if block:
            # A step across the border of two windows belongs to the later lookup. The bytes that it needs of the
            # earlier window are then under way.
            stop = min(stop, ((first + 1) * size // block + 1) * block // size)
        return stop

    def _has_room(self) -> bool:
        """Wait until there may be another lookup; False once this is closed."""
        while True:
            with self._changed:
                self._alive = [lookup for lookup in self._alive if lookup() is not None]
                if not self._is_closed and len(self._alive) >= _ALIVE:
                    # By polling: a lookup ends when its last batch is dropped, and that notifies nobody.
                    self._changed.wait(_POLL_SECONDS)
                if self._is_closed or len(self._alive) < _ALIVE:
                    return not self._is_closed
            if self._schedule is not None:
                # Without the lock: the loop need not wait for the disk of the cache.
                self._schedule.pump()

    def _put(self, result: tuple[Lookup, int] | BaseException | None) -> bool:
        with self._changed:
            if self._is_closed:
                return False
            self._results.append(result)
            self._changed.notify_all()
            return True


def major_faults() -> int:
    """The number of pages for which this process has waited for the disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt if resource else 0


def _coverages(lookup: Lookup, share: int) -> list[Coverage]:
    """The coverage of each batch of a lookup."""
    counted = lookup.weights > 0
    starts = np.arange(0, len(counted), share)
    counts = np.add.reduceat(counted, starts, dtype=np.int64).tolist()
    return list(map(Coverage, counts, hash_sums(lookup.records, counted, starts).tolist()))
