"""The download of a shard into a cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future

import numpy as np

from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import sha256
from shard_reader.format.fields import Field, extent_fields
from shard_reader.format.manifest import Shard
from shard_reader.remote.cache import CacheWriter
from shard_reader.remote.client import StoreClient
from shard_reader.remote.ranges import Extents, Range, whole

__all__ = ["ShardDownload"]


class ShardDownload:
    """A shard that threads fetch into the cache: its index, and then the file, in pieces.

    A piece is fetched again if a value in it does not have its checksum. Values that are damaged in the store are
    cached as they are, and found when they are read. The file stays in the cache as long as this object.
    """

    def __init__(
        self, store: StoreClient, shard: Shard, fields: Mapping[str, Field], format: str, writer: CacheWriter
    ) -> None:
        self._store, self._shard, self._fields, self._writer = store, shard, fields, writer
        self._file = shard.files[format]
        self._lock, self._done = threading.Lock(), Future[object]()
        # One part is left, the index. Only when it is there, the pieces of the file are known.
        self._left, self._error = 1, None  # type: int, BaseException | None
        self._submit(self._fetch_index, writer.entry.index_bytes)

    def is_done(self) -> bool:
        """Whether the cache has the shard, or the download failed."""
        return self._done.done()

    def result(self) -> object:
        """Wait until the cache has the shard; a lease that keeps it there.

        Raises:
            CorruptionError: the shard or its index is missing, or does not match the manifest.
            StoreError: the store does not answer.
            CancelledError: the threads were stopped.
            OSError: the cache cannot be written.
        """
        return self._done.result()

    def _submit(self, call: Callable[[], None], size: int) -> None:
        try:
            part = self._store.submit(call, size=size, urgent=False)
        except RuntimeError:  # the store was closed
            part = Future()
            part.cancel()
        part.add_done_callback(self._count)

    def _fetch_index(self) -> None:
        file, entry = self._file, self._writer.entry
        name, size = file.index, entry.index_bytes
        data = self._read(name, 0, size, size, lambda found: sha256(found) == file.index_sha256)
        rows = index.read(np.frombuffer(data, np.uint8), self._store.uri(name), file, self._shard.records, self._fields)
        self._writer.write(data, entry.index_start)
        extents = Extents.of(rows, np.zeros(len(rows), np.int64), extent_fields(self._fields), self._fields, file.bytes)
        pieces = list(whole(extents, file.bytes))
        # Counted before any is submitted: the first to end would otherwise find none left, and finish the file.
        with self._lock:
            self._left += len(pieces)
        for piece in pieces:
            self._submit(lambda piece=piece: self._fetch(piece), piece.end - piece.start)  # type: ignore[misc]

    def _fetch(self, piece: Range) -> None:
        if self._error is None and piece.end > piece.start:
            data = self._read(self._file.path, piece.start, piece.end, self._file.bytes, piece.is_sound)
            self._writer.write(data, piece.start)

    def _read(
        self, name: str, start: int, end: int, size: int, is_sound: Callable[[bytes | memoryview], bool]
    ) -> bytes | memoryview:
        try:
            return self._store.read(name, start, end, file_size=size, is_sound=is_sound)
        except FileNotFoundError:
            raise CorruptionError(f"{self._store.uri(name)}: is missing") from None

    def _count(self, part: Future[None]) -> None:
        """Count a part that is there or failed; the last one finishes the file."""
        error = CancelledError() if part.cancelled() else part.exception()
        with self._lock:
            self._error = self._error or error
            self._left -= 1
            if self._left:
                return
        try:
            if self._error is None:
                self._done.set_result(self._writer.finish())
            else:
                self._writer.abort()
                self._done.set_exception(self._error)
        except BaseException as error:
            self._done.set_exception(error)
