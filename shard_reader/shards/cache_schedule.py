"""The schedule by which shards come into a cache before an epoch needs them."""

# A cache without room never stops a loop. A shard that cannot come is read by ranges of bytes: otherwise two ranks,
# each with half of the shards that it needs in a cache they share, would wait for each other for ever.

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from shard_reader.order.batches import BatchOrder, local_ranks
from shard_reader.shards.remote_shards import CacheState, RemoteShards
from shard_reader.shards.source import RecordSource

__all__ = ["CacheSchedule"]

_BLOCK = 1 << 14  # positions of this rank whose shards are found out together
_POLL_SECONDS = 0.02
_FULL_SECONDS = 0.2  # the pause before a full cache is asked again, where nothing was released
_MOST_DOWNLOADS = 8  # shards that are fetched at a time
_LEARN_SECONDS = 0.5  # for each call: to find out the shards of 100 million records takes minutes

Key = tuple[RemoteShards, int]


class CacheSchedule:
    """The shards that the next steps of an epoch need, as many as the cache has room for.

    The order says which shards these are; nothing is guessed. A shard is released after its last use, and the cache
    may then remove it.

    Args:
        first: the first step of the loop.
        every: the loop takes one in so many steps.
    """

    def __init__(self, data: RecordSource, order: BatchOrder, epoch: int, first: int, every: int = 1) -> None:
        self._data, self._order, self._epoch, self._first, self._every = data, order, epoch, first, every
        self._known = first  # the step up to which the shards are known
        self._last_use: dict[Key, int] = {}  # the step after each shard's last use, in the order of their first use
        self._state: dict[Key, CacheState] = {}
        self._is_complete = False  # all shards are known
        self._needed: list[Key] = []  # the shards of the steps of the last `advance`
        self._targets: list[Key] = []  # the shards to have in the cache: the needed ones, and the next ones
        self._waiting: list[Key] = []  # the targets that may not be in the cache yet
        self._seen: set[RemoteShards] = set()
        self._full_until = 0.0  # the time at which a full cache is asked again
        block, records = order.record_order.block, order.records
        # A shard in use may rest for a while and be used again, up to the end of the next window.
        self._margin = -(-2 * block // order.batch_size) if block < records else 0

    def advance(self, first: int, stop: int) -> None:
        """Go on to the steps from `first` to `stop`: fetch their shards and the next ones, and release the rest."""
        self._learn(stop + self._margin)
        wanted, budget = self._wanted_bytes(first), self._budget()
        # At the start nothing is learnt in advance, so that the first batch comes soon.
        give_up = time.monotonic() + (_LEARN_SECONDS if self._seen else 0)
        while self._known < self._order.steps and not self._is_complete and wanted < budget:
            wanted += self._learn(self._known + 1)
            if time.monotonic() > give_up:
                break
        for key in [key for key, last in self._last_use.items() if last <= first]:
            del self._last_use[key]
            self._state.pop(key, None)
        self._needed = [key for key, _ in self._uses(first, stop)]
        self._targets = self._waiting = self._within_budget(budget)
        for shards in {shards for shards, _ in self._last_use} | self._seen:
            if shards not in self._seen:
                shards.drop_stale()
            # Where not all of the split fits, shards of earlier steps and of much later ones may be removed.
            if not self._fits(shards):
                shards.keep({number for other, number in self._targets if other is shards})
            self._seen.add(shards)
        self._full_until = 0.0
        self.pump()

    def pump(self) -> None:
        """Begin the downloads for which there is room.

        Raises:
            StoreError: the store does not answer.
        """
        downloading, is_full = 0, time.monotonic() < self._full_until
        # Downloads under way are asked in any case: they may be done, or have failed.
        begun = [key for key, state in self._state.items() if state == "downloading"]
        for key in dict.fromkeys([*self._waiting, *begun]):
            previous = self._state.get(key)
            if previous == "cached" or ((is_full or downloading >= _MOST_DOWNLOADS) and previous != "downloading"):
                continue
            shards, number = key
            state = self._state[key] = shards.ensure_cached(number)
            if state == "cached" and previous is None:
                shards.store.counters.add(cache_hits=1)
            downloading += state in ("downloading", "busy")
            if state == "full":
                is_full, self._full_until = True, time.monotonic() + _FULL_SECONDS
        self._waiting = [key for key in self._waiting if self._state.get(key) not in ("cached", "unavailable")]

    def wait(self, goes_on: Callable[[], bool], may_get_room: Callable[[], bool]) -> None:
        """Wait until the cache has the shards of the current steps, as many as it can have.

        Args:
            goes_on: whether to wait any longer.
            may_get_room: whether the loop will soon release something.

        Raises:
            StoreError: the store does not answer.
        """
        began, targets = time.time(), set(self._targets)
        possible = [key for key in self._needed if key in targets]
        while goes_on():
            may_get = may_get_room()
            if not may_get:
                self._full_until = 0.0
            self.pump()
            states = {self._state.get(key) for key in possible}
            if not states & {"downloading", "busy", None, "full"}:
                break
            # Needed shards are begun before others. Waiting helps only while some download moves, or while a full cache
            # will get room; otherwise the shards are read by ranges.
            moves = "downloading" in self._state.values() or self._is_moving(began)
            if not moves and not ("full" in states and may_get):
                break
            time.sleep(_POLL_SECONDS)
        for shards, number in self._needed:
            if self._state.get((shards, number)) != "cached":
                shards.store.counters.add(uncached=1)

    def _is_moving(self, began: float) -> bool:
        """Whether other processes make progress with the shards that they fetch."""
        # A process that was stopped, as by Ctrl-Z, keeps its locks: only the time of its last write tells.
        return any(
            time.time() - max(began, shards.written(number)) < shards.store.retry_for + _POLL_SECONDS
            for (shards, number), state in self._state.items()
            if state == "busy"
        )

    def _within_budget(self, budget: int) -> list[Key]:
        """The shards that are needed now, and then the next ones, as many as there is room for."""
        left, found = budget, list[Key]()
        for key in dict.fromkeys([*self._needed, *self._last_use]):
            left -= key[0].entry(key[1]).size
            if left < 0:
                break
            found.append(key)
        return found

    def _learn(self, stop: int) -> int:
        """Find out which shards the steps up to `stop`, at least, need; the bytes of the newly found ones."""
        found = 0
        while self._known < min(stop, self._order.steps):
            first = self._known
            self._known = min(self._order.steps, first + max(1, _BLOCK // self._order.share))
            for key, last in self._uses(first, self._known):
                if key not in self._last_use:
                    found += key[0].entry(key[1]).size
                self._last_use[key] = max(last, self._last_use.get(key, 0))
            self._is_complete = len(self._last_use) >= self._data.shard_count
        return found

    def _uses(self, first: int, stop: int) -> list[tuple[Key, int]]:
        """The shards of some steps, in the order of their first use, and the step after the last use of each."""
        share = self._order.share
        records = self._order.records_of(self._epoch, first, stop)
        found = []
        for shards, numbers, places in self._data.shards_of(records):
            if not isinstance(shards, RemoteShards):
                continue
            if self._every > 1:
                is_wanted = (first + places // share - self._first) % self._every == 0
                numbers, places = numbers[is_wanted], places[is_wanted]
            values, firsts = np.unique(numbers, return_index=True)
            lasts = len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]
            steps = (first + places[lasts] // share + 1).tolist()
            for place, number, step in zip(places[firsts].tolist(), values.tolist(), steps, strict=True):
                found.append((place, (shards, number), step))
        return [(key, step) for _, key, step in sorted(found, key=lambda use: use[0])]

    def _wanted_bytes(self, first: int) -> int:
        return sum(shards.entry(number).size for (shards, number), last in self._last_use.items() if last > first)

    def _budget(self) -> int:
        """The bytes of the cache that this process may fill: its part, where other ranks share the cache."""
        caches = {id(shards.cache): shards.cache for shards, _ in self._last_use}
        sizes = [cache.most_bytes for cache in caches.values() if cache is not None]
        return sum(sizes) // local_ranks(self._order.world_size)

    def _fits(self, shards: RemoteShards) -> bool:
        """Whether the cache has room for the whole split."""
        cache = shards.cache
        return cache is not None and shards.size <= cache.most_bytes
