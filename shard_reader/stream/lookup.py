"""Batches under way: the lookup of their records, and the failures of those that cannot be read."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.order.coverage import Coverage
from shard_reader.shards.fetch import Fetch
from shard_reader.shards.located import Located
from shard_reader.shards.shard import OpenShard
from shard_reader.system.memory_map import Window

__all__ = ["Lookup", "PendingBatch"]


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Lookup:
    """Consecutive batches, looked up: their records, where these are, and the values that the indexes hold.

    Attributes:
        first: the step of the first batch.
        positions: in the epoch, int64 `[n]`.
        records: int64 `[n]`.
        weights: float32 `[n]`: 1, or 0 for padding.
        columns: the values of the indexes, an array `[n, ...]` each.
        fetch: the bytes under way, if some shards are remote.
        addresses: of the images' payloads; None: no image is asked for, or not all are in memory.
        window: on the pixels, where they are gathered.
        is_sound: all of those are there, and are as long as they should be.
    """

    epoch: int
    first: int
    positions: NDArray[np.int64]
    records: NDArray[np.int64]
    weights: NDArray[np.float32]
    located: Located
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    fetch: Fetch | None = None
    addresses: NDArray[np.int64] | None = None
    window: Window | None = None
    is_sound: bool = False

    def up_to(self, end: int) -> Lookup:
        """This lookup without the records from `end` on, before anything is known of them but where they are."""
        return replace(
            self,
            positions=self.positions[:end],
            records=self.records[:end],
            weights=self.weights[:end],
            located=self.located[:end],
        )

    def payloads(self, part: range) -> list[tuple[int, OpenShard | None, int, int, int, int, int]]:
        """Place, shard (None: not open), offset, length, checksum, height and width of some records, as integers."""
        places = slice(part.start, part.stop)
        if "offset" not in self.columns:
            return [(place, None, 0, 0, 0, 0, 0) for place in part]
        shards = map(self.located.shards.__getitem__, self.located.which[places].tolist())
        return list(
            zip(
                part,
                (shard if isinstance(shard, OpenShard) else None for shard in shards),
                *(self.columns[name][places].tolist() for name in ("offset", "length", "crc32c", "height", "width")),
                strict=True,
            )
        )

    def extents(self, part: range) -> list[tuple[int, int]]:
        """Address and length of some payloads, in the order of their addresses."""
        if self.addresses is None:
            return []
        places = slice(part.start, part.stop)
        addresses, lengths = self.addresses[places], self.columns["length"][places]
        order = np.argsort(addresses)
        return list(zip(addresses[order].tolist(), lengths[order].tolist(), strict=True))


@dataclass(slots=True)
class PendingBatch:
    """A batch that threads make. Failures show when it is finished.

    Attributes:
        places: where its records are in the lookup.
        verify: whether payloads are checked against their checksums.
        step: its step in the epoch.
        coverage: of its records.
        images: the pixels, which threads fill in; None: there are none, or they are gathered at the end.
        failures: the place of each record that cannot be read, and why.
    """

    lookup: Lookup
    places: range
    verify: bool
    step: int = 0
    coverage: Coverage = field(default_factory=Coverage)
    images: NDArray[Any] | None = None
    work: list[Future[None]] = field(default_factory=list)
    failures: list[tuple[int, Exception]] = field(default_factory=list)

    def wait(self) -> float:
        """Wait until all of it is in memory, or cannot be; how long that took, in seconds."""
        return 0.0 if self.lookup.fetch is None else self.lookup.fetch.wait(self.places)

    def cancel(self) -> None:
        """Leave the work that is not begun."""
        for part in self.work:
            part.cancel()
        if self.lookup.fetch is not None:
            self.lookup.fetch.cancel()

    def refetched(self, place: int) -> NDArray[np.uint8] | None:
        """The payload of an image that is damaged, from elsewhere, if it can be had there."""
        shard, _ = self._shard(place)
        columns = self.lookup.columns
        where = (int(columns[name][place]) for name in ("offset", "length", "crc32c"))
        return shard.refetched(*where) if isinstance(shard, OpenShard) else None

    def fail(self, place: int, reason: object) -> None:
        """Note that the image of a record cannot be read: its shard is not open, or for the reason."""
        shard, row = self._shard(place)
        if isinstance(shard, Exception) or isinstance(reason, CorruptionError):  # of the shard, which it names
            self.failures.append((place, shard if isinstance(shard, Exception) else reason))  # type: ignore[arg-type]
            return
        failure = shard.damage(row, reason)
        failure.__cause__ = reason if isinstance(reason, Exception) else None
        self.failures.append((place, failure))

    def fail_transform(self, place: int, error: Exception) -> None:
        """Note what a transform raised, with the record that it was given."""
        shard, row = self._shard(place)
        assert isinstance(shard, OpenShard)  # it had an image
        if isinstance(error, ValueError):
            explained = ValueError(f"{shard.describe(row)}: the image {error}")
            explained.__cause__ = error
            self.failures.append((place, explained))
        else:
            error.add_note(f"in the image of {shard.describe(row)}")
            self.failures.append((place, error))

    def fail_where_closed(self) -> None:
        """Note the records whose shards cannot be opened, where no image is read that would show it."""
        located = self.lookup.located
        if any(isinstance(shard, Exception) for shard in located.shards):
            for place in self.places:
                shard = located.shards[located.which[place]]
                if isinstance(shard, Exception):
                    self.failures.append((place, shard))

    def take_failures(self) -> list[tuple[int, Exception]]:
        """The failures, in order; they are not kept: their tracebacks have frames that have this, and it them."""
        failures, self.failures = sorted(self.failures, key=lambda failure: failure[0]), []
        return failures

    def _shard(self, place: int) -> tuple[OpenShard | CorruptionError | OSError, int]:
        located = self.lookup.located
        return located.shards[located.which[place]], int(located.rows[place])
