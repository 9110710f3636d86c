"""Batches under way: the lookup of their records, and the failures of unreadable ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import IMAGE, extent_columns, size_columns
from shard_reader.order.coverage import Coverage
from shard_reader.shards.fetch import Fetch
from shard_reader.shards.located import Located
from shard_reader.shards.shard import OUTSIDE, OpenShard
from shard_reader.stream.arrays.threads import Task
from shard_reader.system.memory_map import Window
from shard_reader.system.stats import Counters

__all__ = ["MISMATCH", "Lookup", "Payloads", "PendingBatch", "error_of_transform"]

MISMATCH = "is damaged (CRC mismatch)"


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of one image of each record, in memory maps.

    Attributes:
        addresses: their addresses, int64 `[n]`.
        window: the window on the pixels, where they are gathered.
        is_sound: every image to gather is there and has the right length.
        outside: the images that do not lie in their shards, bool `[n]`; None if all do.
    """

    addresses: NDArray[np.int64]
    window: Window | None
    is_sound: bool
    outside: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Lookup:
    """Consecutive batches, looked up: their records, the places of these, and the values from the indexes.

    Attributes:
        first: the step of the first batch.
        positions: positions in the epoch, int64 `[n]`.
        records: record numbers, int64 `[n]`.
        weights: float32 `[n]`: 1, or 0 for padding.
        columns: the values from the indexes, an array `[n, ...]` each.
        fetch: requests that are under way; None where all shards are local.
        mapped: the payloads of each image field; empty without images, and where some are not in memory.
    """

    epoch: int
    first: int
    positions: NDArray[np.int64]
    records: NDArray[np.int64]
    weights: NDArray[np.float32]
    located: Located
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    fetch: Fetch | None = None
    mapped: dict[str, Payloads] = field(default_factory=dict)

    def up_to(self, end: int) -> Lookup:
        """This lookup without the records from `end` on, before their columns and bytes are asked for."""
        return replace(
            self,
            positions=self.positions[:end],
            records=self.records[:end],
            weights=self.weights[:end],
            located=self.located[:end],
        )

    def payloads(self, part: range, name: str) -> list[tuple[int, OpenShard | None, int, int, int, int, int]]:
        """Place, shard (None: not open), offset, length, checksum, height and width of an image of some records, as
        integers."""
        places, columns = slice(part.start, part.stop), (*extent_columns(name), *size_columns(name))
        if columns[0] not in self.columns:
            return [(place, None, 0, 0, 0, 0, 0) for place in part]
        shards = map(self.located.shards.__getitem__, self.located.which[places].tolist())
        return list(
            zip(
                part,
                (shard if isinstance(shard, OpenShard) else None for shard in shards),
                *(self.columns[column][places].tolist() for column in columns),
                strict=True,
            )
        )

    def extents(self, part: range, name: str) -> list[tuple[int, int]]:
        """Address and length of an image of some records, in the order of their addresses."""
        if name not in self.mapped:
            return []
        places = slice(part.start, part.stop)
        addresses, lengths = self.mapped[name].addresses[places], self.columns[extent_columns(name)[1]][places]
        # In the order of addresses, neighbours become one piece of advice to the kernel, and one read of the disk.
        order = np.argsort(addresses)
        return list(zip(addresses[order].tolist(), lengths[order].tolist(), strict=True))

    def image_size(self, place: int) -> tuple[int, int]:
        """Height and width of a record's first image."""
        height, width = (int(self.columns[column][place]) for column in size_columns(IMAGE))
        return height, width


@dataclass(slots=True)
class PendingBatch:
    """A batch that threads make. Failures are raised when it is finished.

    Attributes:
        places: the places of its records in the lookup.
        verify: whether payloads are checked against their checksums.
        counters: counters of the stream.
        is_cold: whether bytes may have to come from the disk.
        gather_seconds: the time in which the thread of the loop copied images.
        step: its step in the epoch.
        coverage: coverage of its records.
        images: the pixels of image fields, which threads fill in; without those that are gathered at the end.
        failures: the place of each unreadable record, and the error.
    """

    lookup: Lookup
    places: range
    verify: bool
    counters: Counters
    is_cold: bool = False
    gather_seconds: float = 0.0
    step: int = 0
    coverage: Coverage = field(default_factory=Coverage)
    images: dict[str, NDArray[Any]] = field(default_factory=dict)
    work: list[Task] = field(default_factory=list)
    failures: list[tuple[int, Exception]] = field(default_factory=list)

    def wait(self) -> float:
        """Wait until every byte is in memory or has failed to come; the seconds that took."""
        return 0.0 if self.lookup.fetch is None else self.lookup.fetch.wait(self.places)

    def finish_work(self) -> None:
        """Wait until threads have done their work."""
        for part in self.work:
            part.result()

    def cancel(self) -> None:
        """Drop the work that has not begun."""
        for part in self.work:
            part.cancel()
        if self.lookup.fetch is not None:
            self.lookup.fetch.cancel()

    def stored(self, shard: OpenShard, start: int, length: int, checksum: int) -> NDArray[np.uint8]:
        """Some stored bytes, checked if the batch is.

        Raises:
            CorruptionError: they lie outside of the file.
            ValueError: they are damaged.
        """
        payload = shard.stored(start, length)
        if self.is_cold:
            # So that waits for the disk are counted as reading, and do not hold Python's lock in a checksum.
            payload = payload.copy()
        if self.verify and crc32c(payload) != checksum:
            found = shard.refetched(start, length, checksum)
            if found is None:
                raise ValueError(MISMATCH)
            return found
        return payload

    def refetched(self, place: int, name: str) -> NDArray[np.uint8] | None:
        """The payload of a damaged image from the store, or None if there is no sound one."""
        shard, _ = self.shard(place)
        where = (int(self.lookup.columns[column][place]) for column in extent_columns(name))
        return shard.refetched(*where) if isinstance(shard, OpenShard) else None

    def fail(self, place: int, reason: object, name: str) -> None:
        """Note that an image of a record cannot be read: its shard is not open, or for the reason."""
        shard, row = self.shard(place)
        # An error of the whole shard names the file already; naming the record as well would blame it.
        if isinstance(shard, Exception) or isinstance(reason, CorruptionError):
            self.failures.append((place, shard if isinstance(shard, Exception) else reason))  # type: ignore[arg-type]
            return
        mapped = self.lookup.mapped.get(name)
        if mapped is not None and mapped.outside is not None and mapped.outside[place]:
            self.failures.append((place, CorruptionError(f"{shard.uri}: row {row}: {OUTSIDE}")))
            return
        failure = shard.damage(row, reason, name)
        failure.__cause__ = reason if isinstance(reason, Exception) else None
        self.failures.append((place, failure))

    def fail_transform(self, place: int, error: Exception, name: str = IMAGE) -> None:
        """Note the error of a transform, with the record that it was given."""
        self.failures.append((place, error_of_transform(error, *self.shard(place), name)))

    def fail_where_closed(self) -> None:
        """Note the records of shards that cannot be opened, for batches without images."""
        located = self.lookup.located
        if any(isinstance(shard, Exception) for shard in located.shards):
            for place in self.places:
                shard = located.shards[located.which[place]]
                if isinstance(shard, Exception):
                    self.failures.append((place, shard))

    def take_failures(self) -> list[tuple[int, Exception]]:
        """The failures, in the order of their places; they are dropped."""
        # They are dropped here to break a cycle: their tracebacks hold frames that hold this batch.
        # Threads note those of several images in any order.
        failures, self.failures = sorted(self.failures, key=lambda failure: (failure[0], str(failure[1]))), []
        return failures

    def shard(self, place: int) -> tuple[OpenShard | CorruptionError | OSError, int]:
        """The shard of a record, or why it is not open, and the record's row."""
        located = self.lookup.located
        return located.shards[located.which[place]], int(located.rows[place])


def error_of_transform(
    error: Exception, shard: OpenShard | CorruptionError | OSError, row: int, name: str = IMAGE
) -> Exception:
    """The error of a transform, with the record that it was given: the row of a shard that is open."""
    assert isinstance(shard, OpenShard)  # it had an image
    what = shard.called(name)
    # ValueError is how transforms reject an image, so its text continues "the image". Any other error is a bug in the
    # transform: its type and traceback stay as they are.
    if isinstance(error, ValueError):
        explained = ValueError(f"{shard.describe(row)}: {what} {error}")
        explained.__cause__ = error
        return explained
    error.add_note(f"in {what} of {shard.describe(row)}")
    return error
