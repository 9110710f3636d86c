"""Counters of the time that loops take, of the work for their batches, and of remote bytes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any, Literal

from shard_reader.system.process import process_number

__all__ = ["Counters", "Limit", "Stats", "Tally"]

Limit = Literal["nothing", "store", "disk", "copies", "decoding", "transforms", "unevenness"]
"""What a loop waits for; `Stats.limit` has the rules."""

_LITTLE = 0.01  # the share of waiting below which there is nothing to gain
_ADVICE: dict[Limit, str] = {
    "nothing": "there is nothing to gain here",
    "store": 'the store or the network is the limit, not the CPU: take cache=, a larger ahead_bytes, shuffle="window"',
    "disk": 'the disk is the limit, not the CPU: take a local disk, more memory, shuffle="window", or JPEG for raw'
    " pixels",
    "copies": "the CPU is the limit (copies of stored bytes): take smaller images, or fields= with those in use alone",
    "decoding": "the CPU is the limit (decoding): take more CPUs (threads=), fast=True, smaller images, or raw pixels",
    "transforms": "the CPU is the limit (transforms): take more CPUs (threads=), or transforms on the device",
    "unevenness": "neither CPU nor disk is the limit: it waits for first batches, or after uneven steps: take longer"
    " epochs, or a larger prefetch=",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The work of this process for a stream, in numbers that add up over ranks, and subtract.

    Seconds are those of a clock on the wall. Seconds of the work (`read_seconds`, `decode_seconds`,
    `transform_seconds`) are summed over threads and worker processes, and so may exceed `loop_seconds`. They
    include the work for `stream.batch` and `stream.take`, which are no loops.

    Attributes:
        batches: batches that loops were given.
        records: records in them, without padding.
        loop_seconds: the time from the first request for a batch of each loop to its last one: all of the training
            step, and whatever else happens in the loop.
        waited_seconds: the time of these for which the loop waited for a batch, so that nothing new could be sent to
            its accelerator. An accelerator that has work in its queue goes on with it for a moment.
        worker_seconds: the time that was there for the work: `loop_seconds` of every thread or worker process. Where
            the thread of the loop makes the batches (small raw images), `waited_seconds`.
        read_seconds: finding, copying and checking stored bytes, with the waits for them.
        decode_seconds: decoding.
        transform_seconds: transforms; of raw pixels that come from memory, with finding them.
        page_waits: pages for which the process waited for a disk (major page faults) during loops. Pages of other
            files count, too.
        bytes_fetched: bytes of remote shards and indexes that were fetched.
        requests: number of requests, failed ones included.
        retries: number of requests that were repeated, since the store did not answer, or sent damaged bytes.
        cache_hits: shards that were in the cache when they were needed.
        cache_misses: shards that were missing there, and were downloaded.
        uncached: shards that were read by ranges, though there is a cache: it had no room for them, or not yet.
        evictions: shards that were removed from the cache, to make room.
        stalled_seconds: the time for which loops waited for remote bytes.

    Examples:
        >>> before = stream.stats()  # doctest: +SKIP
        >>> print((stream.stats() - before).explain())  # doctest: +SKIP
    """

    batches: int = 0
    records: int = 0
    loop_seconds: float = 0.0
    waited_seconds: float = 0.0
    worker_seconds: float = 0.0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0
    page_waits: int = 0
    bytes_fetched: int = 0
    requests: int = 0
    retries: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    uncached: int = 0
    evictions: int = 0
    stalled_seconds: float = 0.0

    def __add__(self, other: Stats) -> Stats:
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})

    def __sub__(self, other: Stats) -> Stats:
        return Stats(**{name: getattr(self, name) - getattr(other, name) for name in _NAMES})

    @property
    def waited(self) -> float:
        """The share of the loop's time that it waited, from 0 to 1."""
        return _share(self.waited_seconds, self.loop_seconds)

    @property
    def busy(self) -> float:
        """The share of their time that the workers read, decoded and transformed, or waited for bytes, from 0 to 1."""
        return _share(self.read_seconds + self.decode_seconds + self.transform_seconds, self.worker_seconds)

    @property
    def limit(self) -> Limit:
        """What the loop waits for, by the first rule that holds.

        - "nothing": it waited for less than 1 % of its time.
        - "store": half of that time, or more, it waited for remote bytes.
        - "unevenness": the workers were busy for less than half of their time, so that more of them would not help.
        - "disk", "copies": of the stages, reading took the longest, and some pages came from a disk, or none.
        - "decoding", "transforms": that stage took the longest.
        """
        if self.waited < _LITTLE:
            return "nothing"
        if 2 * self.stalled_seconds >= self.waited_seconds:
            return "store"
        if self.busy < 0.5:
            return "unevenness"
        if self.read_seconds >= max(self.decode_seconds, self.transform_seconds):
            return "disk" if self.page_waits > 0 else "copies"
        return "decoding" if self.decode_seconds >= self.transform_seconds else "transforms"

    def explain(self) -> str:
        """The share that the loop waited, and `limit` with a remedy, as a sentence."""
        if self.loop_seconds <= 0:
            return "no loop has asked for a batch"
        waited = f"the loop waited for data for {self.waited:.1%} of {self.loop_seconds:,.1f} s"
        return f"{waited}: {_ADVICE[self.limit]}"


_NAMES = tuple(one.name for one in fields(Stats))


class Counters:
    """Stats that grow, in each process from zero. Safe to share between threads."""

    def __init__(self) -> None:
        self._by_process: dict[int, _Count] = {}

    def __reduce__(self) -> tuple[type[Counters], tuple[()]]:
        return type(self), ()

    def add(self, **counts: float) -> None:
        """Count something, by the names of `Stats`."""
        self._count().add(counts)

    def add_all(self, more: Stats) -> None:
        """Add the counts of another process."""
        self._count().add({name: getattr(more, name) for name in _NAMES})

    def new_tally(self) -> Tally:
        """Counts of a loop that are added to these."""
        return self._count().new_tally()

    @property
    def total(self) -> Stats:
        """The counts of this process."""
        return self._count().total()

    def _count(self) -> _Count:
        # By process, since a fork could inherit a locked lock from its parent.
        process = process_number()
        return self._by_process.get(process) or self._by_process.setdefault(process, _Count())


class Tally:
    """The counts of one loop. Only one thread at a time adds to them, without a lock or a call."""

    # Small raw images are counted every 100 us: a call with a lock, several times for each batch, would be seen.

    __slots__ = ("batches", "is_done", "loop_seconds", "read_seconds", "records", "waited_seconds", "worker_seconds")

    def __init__(self) -> None:
        self.batches = self.records = 0
        self.loop_seconds = self.waited_seconds = self.worker_seconds = self.read_seconds = 0.0
        self.is_done = False  # nothing more is added


_TALLIED = tuple(name for name in _NAMES if name in Tally.__slots__)


class _Count:
    def __init__(self) -> None:
        self._lock, self._tallies = threading.Lock(), list[Tally]()
        nothing = Stats()
        self._values: dict[str, Any] = {name: getattr(nothing, name) for name in _NAMES}

    def add(self, more: dict[str, float]) -> None:
        values = self._values
        with self._lock:
            for name, value in more.items():
                values[name] += value

    def new_tally(self) -> Tally:
        tally = Tally()
        with self._lock:
            self._fold()
            self._tallies.append(tally)
        return tally

    def total(self) -> Stats:
        with self._lock:
            self._fold()
            values = self._values.copy()
            for tally in self._tallies:
                _add_tally(values, tally)
        return Stats(**values)

    def _fold(self) -> None:
        """Keep the sums of tallies that are done, and not the tallies."""
        # Not when a loop ends: it may end as garbage, inside of one of these methods, where the lock is held.
        done = [tally for tally in self._tallies if tally.is_done]
        for tally in done:
            _add_tally(self._values, tally)
        self._tallies = [tally for tally in self._tallies if tally not in done]


def _add_tally(values: dict[str, Any], tally: Tally) -> None:
    for name in _TALLIED:
        values[name] += getattr(tally, name)


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0
