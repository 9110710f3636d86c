"""The open shards of a remote split, each mapped from a cache or read by ranges of bytes."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.fields import MAX_PIXELS, Field
from shard_reader.format.manifest import Shard, ShardTable
from shard_reader.remote.cache import Cache
from shard_reader.remote.cache_entry import CacheEntry, CacheError, DiskFullError
from shard_reader.remote.client import StoreClient
from shard_reader.remote.download import ShardDownload
from shard_reader.shards.located import Located, used_shards
from shard_reader.shards.remote_shard import RemoteShard, refetch
from shard_reader.shards.shard import CHECK_SECONDS, MOST_OPEN, OpenShard
from shard_reader.system.stats import Stats

__all__ = ["CacheState", "RemoteShards"]

CacheState = Literal["cached", "downloading", "busy", "full", "unavailable"]
"""State of a shard in the cache: it is there; threads of this process fetch it; another process fetches it; the cache
has no room; it cannot come, since it is damaged in the store or the cache cannot be written."""

_INDEX_BYTES = 1 << 28  # the most bytes of indexes to keep in memory, beside those that lookups keep


class RemoteShards:
    """The shards of a split in a store.

    Args:
        cache: a directory on a local disk, and its maximum size in bytes.
        max_pixels: the most pixels of an encoded image.
    """

    def __init__(
        self,
        store: StoreClient,
        shards: Sequence[Shard],
        fields: Mapping[str, Field],
        format: str,
        cache: tuple[Path, int | None] | None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.store, self.shards, self.max_pixels = store, ShardTable.of(shards), max_pixels
        self._fields, self._format, self.cache_options = fields, format, cache
        self._entries: dict[int, CacheEntry] = {}
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.store,
            self.shards,
            self._fields,
            self._format,
            self.cache_options,
            self.max_pixels,
        )

    def locate(self, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> Located:
        used, which = used_shards(numbers, len(self.shards))
        return Located(self._opened(used.tolist()), which, rows)

    def _opened(self, numbers: Sequence[int]) -> list[OpenShard | CorruptionError | OSError]:
        """Shards by number, with the error in place of a shard that cannot be opened.

        Their indexes are fetched at the same time.
        """
        found = {number: self._find(number) for number in numbers}
        missing = {number: self._submit(number) for number, shard in found.items() if shard is None}
        for number, future in missing.items():
            try:
                found[number] = self._open[number] = future.result()
            except (CorruptionError, OSError) as error:
                error.__context__ = None  # its traceback would keep every frame that it went through, as this one would
                found[number] = error.with_traceback(None)  # type: ignore[assignment]
        if missing:
            self._bound()
        return [found[number] for number in numbers]  # type: ignore[misc]

    def record(self, number: int, row: int) -> OpenShard:
        del row  # an index is checked as a whole when it is fetched
        found = self._find(number)
        return self._keep(number, self._fetch_index(number)) if found is None else found

    def close(self) -> None:
        """Drop the shards that are open, and end the threads."""
        self._open.clear()
        self._downloads.clear()
        self.store.close()

    def ensure_cached(self, number: int) -> CacheState:
        """Have a shard fetched into the cache, unless it is there.

        Raises:
            StoreError: the store did not answer.
        """
        self._check_process()
        download = self._downloads.get(number)
        if download is not None:
            return self._download_state(number, download)
        cache = self._cache
        if cache is None or number in self._damaged:
            return "unavailable"
        if self._find_cached(number) is not None:
            return "cached"
        try:
            writer = cache.begin(self.entry(number))
        except CacheError as error:
            if isinstance(error, DiskFullError):
                self._warn_full(error)
            return "full"
        except OSError as error:
            self._drop_cache(error)
            return "unavailable"
        if writer is None:
            return "cached" if self._find_cached(number) is not None else "busy"
        self.store.counters.add(cache_misses=1)
        self._downloads[number] = ShardDownload(self.store, self.shards[number], self._fields, self._format, writer)
        return "downloading"

    def written(self, number: int) -> float:
        """The time of the last write of another process that fetches a shard into the cache, in Unix seconds."""
        cache = self._cache
        return 0.0 if cache is None else cache.written(self.entry(number))

    def keep(self, numbers: Collection[int]) -> None:
        """Release all shards but these, so that the cache may remove them. Lookups keep the shards that they use."""
        for number in [number for number in list(self._open) if number not in numbers]:
            self._open.pop(number, None)
        for number, download in list(self._downloads.items()):
            # A loop that broke off never asked for its download, which still holds a lease on the file.
            if number not in numbers and download.is_done():
                self._downloads.pop(number, None)

    def drop_stale(self) -> None:
        """Release shards that are no longer in the cache: another process may have removed a damaged one."""
        for number, shard in list(self._open.items()):
            if isinstance(shard, _CachedShard) and not shard.is_current():
                self._open.pop(number, None)
        for number, download in list(self._downloads.items()):
            # Left by a loop that broke off. If it failed, the reason may be gone: it is tried again.
            if download.is_done():
                self._downloads.pop(number, None)

    def fetched(self) -> Stats:
        """The requests and bytes of this process."""
        cache = self.cache
        evictions = self._evictions + (0 if cache is None else cache.evictions)
        return self.store.counters.total + Stats(evictions=evictions)

    def entry(self, number: int) -> CacheEntry:
        """The entry of a shard in the cache."""
        found = self._entries.get(number)
        if found is None:
            shard = self.shards[number]
            file = shard.files[self._format]
            size = index.size(file, shard.records, self._fields)
            found = CacheEntry(file.path, file.sha256, file.index_sha256, file.bytes, size)
            self._entries[number] = found
        return found

    @cached_property
    def size(self) -> int:
        """The bytes of all shards in a cache."""
        return sum(self.entry(number).size for number in range(len(self.shards)))

    @cached_property
    def largest(self) -> int:
        """The bytes of the largest shard in a cache."""
        return max((self.entry(number).size for number in range(len(self.shards))), default=0)

    def check_room(self, what: str, shards: int, ahead_bytes: int, mixed: int) -> None:
        """Check that the shards that an order needs at a time fit into the cache, or else their indexes into memory.

        Warns where there is no cache, and too little memory for few requests.

        Args:
            what: the order, for messages.
            shards: number of shards that it needs at a time.
            ahead_bytes: bytes of records that may be in memory.
            mixed: number of shards whose records it mixes.

        Raises:
            ValueError: the cache has no room for the shards, or the memory none for their indexes.
        """
        shards, mixed = min(shards, len(self.shards)), min(mixed, len(self.shards))
        needed, cache = min(self.size, shards * self.largest), self.cache
        if cache is not None and needed > (most := cache.most_bytes):
            # Without cache_bytes the size follows from the free disk: a warning, since no user chose it.
            if self.cache_options is not None and self.cache_options[1] is None:
                self._warn_full(f"{cache.path}: the disk has room for {most:,} bytes of {needed:,}")
                return
            raise ValueError(
                f"{what} needs {needed:,} bytes of cache on this machine ({shards} shards of up to {self.largest:,}),"
                f" and {cache.path} may have {most:,}: raise cache_bytes, or take"
                ' shuffle="window" with fewer lanes, a smaller window, or smaller shards (--shard-bytes)'
            )
        if self.cache_options is not None:
            return
        of_index = max((self.entry(number).index_bytes for number in range(len(self.shards))), default=0)
        if shards * of_index > _INDEX_BYTES:
            raise ValueError(
                f"{what} without a cache needs the indexes of {shards} shards in memory, of up to {of_index:,} bytes:"
                f' more than {_INDEX_BYTES:,}; pass cache=DIR to open_dataset, or take shuffle="window"'
            )
        mixed_bytes = min(self.size, mixed * self.largest)
        if 2 * mixed_bytes > ahead_bytes:
            warnings.warn(
                f"{what} mixes the records of {mixed_bytes:,} bytes, and without a cache ahead_bytes={ahead_bytes:,} of"
                " them are in memory: each record will take a request of its own, which is slow. Pass cache=DIR to"
                f" open_dataset, or ahead_bytes={2 * mixed_bytes:,}; or take fewer lanes, a smaller window, or"
                " smaller shards (--shard-bytes)",
                RuntimeWarning,
                stacklevel=4,
            )

    @property
    def cache(self) -> Cache | None:
        """The cache, if there is one that can be used."""
        self._check_process()
        return self._cache

    def _check_process(self) -> None:
        """Start over after a fork: locks, maps and downloads belong to the parent."""
        if self._process != os.getpid():
            self._start()

    def _start(self) -> None:
        self._open: dict[int, OpenShard] = {}
        self._downloads: dict[int, ShardDownload] = {}
        self._damaged: set[int] = set()
        self._has_warned_full = False
        self._evictions = 0  # of a cache that was given up
        self._cache: Cache | None = None
        failure: OSError | None = None
        if self.cache_options is not None:
            try:
                self._cache = Cache(*self.cache_options)
            except OSError as error:
                failure = error
        self._process = os.getpid()
        if failure is not None:
            self._warn(_unusable(failure))

    def _drop_cache(self, error: OSError) -> None:
        """Warn that the cache cannot be used, and give it up."""
        cache, self._cache = self._cache, None
        if cache is not None:
            self._evictions += cache.evictions
            self._warn(_unusable(error))

    def _warn_full(self, reason: object) -> None:
        has_warned, self._has_warned_full = self._has_warned_full, True
        if not has_warned:
            self._warn(f"has no room ({reason}): shards that find none are read by ranges")

    def _warn(self, text: str) -> None:
        path = self.cache_options[0] if self.cache_options else ""
        warnings.warn(f"the cache {path} {text}", RuntimeWarning, stacklevel=3)

    def _find(self, number: int) -> OpenShard | None:
        self._check_process()
        found = self._open.get(number)
        if isinstance(found, _CachedShard) and found.is_cut_off():
            self._open.pop(number, None)
            found = None
        return found if found is not None and found.is_mapped else self._find_cached(number) or found

    def _find_cached(self, number: int) -> OpenShard | None:
        found = self._open.get(number)
        if found is not None and found.is_mapped:
            return found
        cache = self._cache
        if cache is None:
            return None
        entry, shard = self.entry(number), self.shards[number]
        file, start = shard.files[self._format], entry.index_start
        try:
            data = cache.find(entry)
            if data is None:
                return None
            name = self.store.uri(file.index)
            rows = index.read(data[start : start + entry.index_bytes], name, file, shard.records, self._fields)
        except CorruptionError:
            # It was checked when it was fetched, so the disk has damaged it since. The store has a sound one.
            cache.discard(entry)
            return None
        except OSError as error:
            self._drop_cache(error)
            return None
        values = index.values_of(data[: start + entry.index_bytes], file)
        return self._keep(number, _CachedShard(self, cache, number, rows, data[: entry.bytes], values))

    def _keep(self, number: int, shard: OpenShard) -> OpenShard:
        self._open[number] = shard
        if not shard.is_mapped or len(self._open) > MOST_OPEN:
            self._bound()
        return shard

    def _bound(self) -> None:
        """Release the oldest open shards where there are too many, or their indexes take too much memory."""
        bytes_of_indexes = (shard.rows.nbytes for shard in list(self._open.values()) if not shard.is_mapped)
        if len(self._open) > MOST_OPEN or sum(bytes_of_indexes) > _INDEX_BYTES:
            # Half of them at once: releasing one for each new shard would count the bytes every time. Lookups keep the
            # shards that they use.
            for oldest in list(self._open)[: len(self._open) // 2]:
                self._open.pop(oldest, None)

    def _submit(self, number: int) -> Future[RemoteShard]:
        shard = self.shards[number]
        size = index.size(shard.files[self._format], shard.records, self._fields)
        return self.store.submit(lambda: self._fetch_index(number), size=size, urgent=True)

    def _fetch_index(self, number: int) -> RemoteShard:
        return RemoteShard.open(self.store, self.shards[number], self._fields, self._format, self.max_pixels)

    def _download_state(self, number: int, download: ShardDownload) -> CacheState:
        """The state of a shard that is or was being downloaded."""
        if not download.is_done():
            return "downloading"
        self._downloads.pop(number, None)  # without an error if another thread has done so
        try:
            # `download` lives until the end of this call, and with it the lease that keeps the file for the map.
            download.result()
            return "cached" if self._find_cached(number) is not None else "busy"
        except CorruptionError:
            # Not raised here: the shard is read by ranges, and those of its records that are sound are given.
            pass
        except CancelledError:
            return "busy"
        except OSError as error:
            self._drop_cache(error)
            return "unavailable"
        self._damaged.add(number)
        return "unavailable"


class _CachedShard(OpenShard):
    """A shard that is mapped from the cache. Values that are damaged there are fetched from the store."""

    def __init__(
        self,
        shards: RemoteShards,
        cache: Cache,
        number: int,
        rows: NDArray[np.void],
        data: NDArray[np.uint8],
        values: NDArray[np.uint8],
    ) -> None:
        file = shards.shards[number].files[shards._format]
        uri, format, most = shards.store.uri(file.path), shards._format, shards.max_pixels
        super().__init__(uri, file.path, rows, shards._fields, format, data, most, file.bytes, values)
        self._store, self._file, self._number, self._shards = shards.store, file, number, weakref.ref(shards)
        self._entry, self._cache = shards.entry(number), cache
        self._identity = cache.identity(self._entry)
        self._check_at = 0.0  # when it is looked at whether the file was cut off, by `time.monotonic`

    def is_current(self) -> bool:
        """Whether the cache still has this file."""
        return self._identity == self._cache.identity(self._entry)

    def is_cut_off(self) -> bool:
        """Whether somebody has cut the file off: looked at once a second, as for shards on a disk."""
        now = time.monotonic()
        if now < self._check_at:
            return False
        self._check_at = now + CHECK_SECONDS
        return self._cache.has_shrunk(self._entry)

    def refetched(self, start: int, length: int, checksum: int) -> NDArray[np.uint8] | None:
        found = refetch(self._store, self._file, start, length, checksum)
        if found is not None:
            # The store has it sound, so the cached file goes: the next use of the shard fetches it again.
            if self.is_current():
                self._cache.discard(self._entry)
            shards = self._shards()
            if shards is not None and shards._open.get(self._number) is self:
                shards._open.pop(self._number, None)
        return found


def _unusable(error: OSError) -> str:
    why = error.strerror or str(error)
    if error.filename:
        why = f"{why}: {error.filename}"
    return f"cannot be used ({why}): reading goes on without it, by ranges"
