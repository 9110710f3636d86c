"""Counters of the requests and the bytes that remote data took."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, fields

__all__ = ["Counters", "Stats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The requests and bytes of this process, in numbers that add up.

    Attributes:
        bytes_fetched: bytes of shards and indexes that were fetched.
        requests: number of requests, failed ones included.
        retries: number of requests that were repeated, since the store did not answer, or sent damaged bytes.
        cache_hits: shards that were in the cache when they were needed.
        cache_misses: shards that were missing there, and were downloaded.
        uncached: shards that were read by ranges, though there is a cache: it had no room for them, or not yet.
        evictions: shards that were removed from the cache, to make room.
        stalled_seconds: the time for which loops waited for bytes.
    """

    bytes_fetched: int = 0
    requests: int = 0
    retries: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    uncached: int = 0
    evictions: int = 0
    stalled_seconds: float = 0.0

    def __add__(self, other: Stats) -> Stats:
        return Stats(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __sub__(self, other: Stats) -> Stats:
        return Stats(**{one.name: getattr(self, one.name) - getattr(other, one.name) for one in fields(self)})


class Counters:
    """Stats that grow, in each process from zero. Safe to share between threads."""

    def __init__(self) -> None:
        self._by_process: dict[int, _Count] = {}

    def __reduce__(self) -> tuple[type[Counters], tuple[()]]:
        return type(self), ()

    def add(self, **counts: float) -> None:
        """Count something."""
        self._count().add(Stats(**counts))  # type: ignore[arg-type]

    @property
    def total(self) -> Stats:
        """The counts of this process."""
        return self._count().total

    def _count(self) -> _Count:
        # By process, since a fork could inherit a locked lock from its parent.
        return self._by_process.setdefault(os.getpid(), _Count())


class _Count:
    def __init__(self) -> None:
        self._lock, self.total = threading.Lock(), Stats()

    def add(self, more: Stats) -> None:
        with self._lock:
            self.total += more
