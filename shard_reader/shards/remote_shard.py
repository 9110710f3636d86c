"""Remote shards: the index in memory, the file by ranges of bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import sha256
from shard_reader.format.fields import MAX_PIXELS, Field
from shard_reader.format.manifest import Shard, ShardFile
from shard_reader.remote.client import StoreClient
from shard_reader.remote.ranges import Extents, Range, ranges
from shard_reader.shards.shard import OpenShard

__all__ = ["FetchedShard", "RemoteShard"]


_MOST_INDEX_BYTES = 1 << 28


class RemoteShard(OpenShard):
    """A shard in a store. Bytes of its file are fetched when they are read."""

    def __init__(
        self,
        store: StoreClient,
        file: ShardFile,
        rows: NDArray[np.void],
        fields: Mapping[str, Field],
        format: str,
        max_pixels: int,
        values: NDArray[np.uint8],
    ) -> None:
        super().__init__(store.uri(file.path), file.path, rows, fields, format, None, max_pixels, file.bytes, values)
        self._store, self._file = store, file

    @classmethod
    def open(
        cls, store: StoreClient, shard: Shard, fields: Mapping[str, Field], format: str, max_pixels: int = MAX_PIXELS
    ) -> RemoteShard:
        """Fetch the index, and check it and the size of the file against the manifest.

        Raises:
            CorruptionError: the file or the index is missing, or does not match the manifest.
            StoreError: the store does not answer.
        """
        file = shard.files[format]
        name = file.index
        # A file of the wrong size fails as a whole, as on a disk. Otherwise it would depend on the requests which of
        # its records are skipped.
        store.check_size(file.path, file.bytes)
        size = index.size(file, shard.records, fields)
        if size > _MOST_INDEX_BYTES:
            raise CorruptionError(
                f"{store.uri(name)}: an index of {size:,} bytes is more than {_MOST_INDEX_BYTES:,}, the most to keep in"
                " memory: make smaller shards, or copy the dataset to a disk"
            )
        try:
            found = store.read(name, 0, size, file_size=size, is_sound=lambda d: sha256(d) == file.index_sha256)
        except FileNotFoundError:
            raise CorruptionError(f"{store.uri(name)}: is missing") from None
        data = np.frombuffer(found, np.uint8)
        rows = index.read(data, store.uri(name), file, shard.records, fields)
        return cls(store, file, rows, fields, format, max_pixels, index.values_of(data, file))

    def stored(self, start: int, length: int) -> NDArray[np.uint8]:
        return self._fetch(Range(start, start + length, _NOTHING)) if length else _EMPTY

    def refetched(self, start: int, length: int, checksum: int) -> NDArray[np.uint8] | None:
        return refetch(self._store, self._file, start, length, checksum)

    def holding(self, row: int, fields: Iterable[str]) -> OpenShard:
        found = ranges(self.extents(np.array([row]), np.zeros(1, np.int64), fields))
        return self.fetched([(one, _done(self._fetch(one))) for one in found])

    def extents(self, rows: NDArray[np.int64], places: NDArray[np.int64], fields: Iterable[str]) -> Extents:
        """The extents in the file of some fields of records, with the place of each row."""
        return Extents.of(self.rows[rows], places, fields, self.fields, self._file.bytes)

    def submit(self, one: Range) -> Future[NDArray[np.uint8]]:
        """Have a thread fetch a range of the file. Bytes that are damaged in the store are returned damaged."""
        return self._store.submit(lambda: self._fetch(one), size=one.end - one.start, urgent=True)

    def fetched(self, parts: Sequence[tuple[Range, Future[NDArray[np.uint8]]]]) -> FetchedShard:
        """This shard with some of its file in memory or under way."""
        return FetchedShard(self, self._store, self._file, parts)

    def _fetch(self, one: Range) -> NDArray[np.uint8]:
        name, size = self._file.path, self._file.bytes
        try:
            data = self._store.read(name, one.start, one.end, file_size=size, is_sound=one.is_sound)
        except FileNotFoundError:
            raise CorruptionError(f"{self.uri}: is missing") from None
        return np.frombuffer(data, np.uint8)


class FetchedShard(RemoteShard):
    """A shard in a store with some of its file in memory or under way. Other bytes are fetched when they are read.

    Args:
        shard: the shard, with its index.
        parts: the ranges in memory or under way, in the order of the file.
    """

    def __init__(
        self,
        shard: RemoteShard,
        store: StoreClient,
        file: ShardFile,
        parts: Sequence[tuple[Range, Future[NDArray[np.uint8]]]],
    ) -> None:
        self.__dict__.update(shard.__dict__)
        # Apart, since a part of one value may lie inside a range, and bisection needs parts that do not overlap.
        self._values = {one.start: (one, data) for one, data in parts if len(one.extents.starts) == 1}
        self._parts = [(one, data) for one, data in parts if len(one.extents.starts) != 1]
        self._starts = [one.start for one, _ in self._parts]

    def stored(self, start: int, length: int) -> NDArray[np.uint8]:
        found = self._values.get(start)
        if found is None or start + length > found[0].end:
            number = bisect_right(self._starts, start) - 1
            found = self._parts[number] if number >= 0 else None
        if length and found is not None and start + length <= found[0].end:
            one, data = found
            error = data.exception()
            if isinstance(error, CorruptionError):
                # A new error: that of the future would collect the frames that it passes, and they hold the lookup.
                raise CorruptionError(str(error))
            return data.result()[start - one.start : start - one.start + length]
        return super().stored(start, length)


def refetch(store: StoreClient, file: ShardFile, start: int, length: int, checksum: int) -> NDArray[np.uint8] | None:
    """Bytes of a file from the store; None if they are damaged there, too."""
    extent = Extents(*(np.array([value], np.int64) for value in (start, length, checksum, 0)))
    one = Range(start, start + length, extent)
    try:
        data = store.read(file.path, start, one.end, file_size=file.bytes, is_sound=one.is_sound)
    except (FileNotFoundError, CorruptionError):
        return None
    return np.frombuffer(data, np.uint8) if one.is_sound(data) else None


def _done(data: NDArray[np.uint8]) -> Future[NDArray[np.uint8]]:
    future: Future[NDArray[np.uint8]] = Future()
    future.set_result(data)
    return future


_EMPTY: NDArray[np.uint8] = np.empty(0, np.uint8)
_NOTHING = Extents(*(np.empty(0, np.int64) for _ in range(4)))
