"""The files of a remote dataset, read by ranges of bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import NamedTuple, TypeVar

from shard_reader.errors import CorruptionError, StoreError
from shard_reader.remote.request_pool import RequestPool, is_wanted, own_pool
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory
from shard_reader.storage.retry import retried
from shard_reader.storage.store_errors import answer, explain
from shard_reader.system.stats import Counters

__all__ = ["PIECE", "StoreClient"]

_T = TypeVar("_T")

PIECE = 4 << 20
"""The largest range of bytes in one request: stores limit the speed of each connection, so large ranges are split."""
_THREADS = 48
_MOST_BYTES = 16 * PIECE  # bytes under way
_NO_SUCH_RANGE = 416  # HTTP status: the file is shorter than the range


class _Local(NamedTuple):
    """The connections and threads of one process."""

    directory: Directory
    pool: RequestPool


class StoreClient:
    """A directory that is read by requests, which threads make, retry and count.

    After a fork, and when it is unpickled, it makes new connections and threads.

    Args:
        place: a URL, or a local path.
        retry_for: seconds for which to retry after temporary errors.
    """

    def __init__(self, place: str, retry_for: float) -> None:
        self.place, self.retry_for = place, retry_for
        self.counters = Counters()
        self._by_process: dict[int, _Local] = {}

    def __reduce__(self) -> tuple[type[StoreClient], tuple[str, float]]:
        return type(self), (self.place, self.retry_for)

    def uri(self, name: str) -> str:
        """The whole name of a file, for messages."""
        return self._local.directory.uri(name)

    def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        file_size: int | None = None,
        is_sound: Callable[[bytes | memoryview], bool] | None = None,
    ) -> bytes | memoryview:
        """The bytes of a file from `start` to `end`, in one request if all goes well.

        Args:
            file_size: expected size of the whole file, checked where bytes are missing.
            is_sound: whether bytes are undamaged. Damaged bytes are fetched again; bytes that are damaged twice in
                the same way are returned.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptionError: the file has another size.
            StoreError: the store does not answer, or not as it should.
            CancelledError: the store did not answer, and nobody waits for the bytes any more.
        """

        # Bytes from a network are checked at once, and fetched again if they are damaged. Bytes that are damaged twice
        # in the same way are damaged in the store: the reader's own checks then report them, as for a disk.
        def once() -> bytes | memoryview:
            data = ask()
            if is_sound is None or is_sound(data):
                return data
            self.counters.add(retries=1)
            second = ask()
            if second == data or is_sound(second):
                return second
            raise ConnectionError("the bytes that came are damaged: their checksum is wrong")

        def ask() -> bytes | memoryview:
            self.counters.add(requests=1)
            try:
                data = self._local.directory.read_once(name, start, end)
            except EOFError:
                self._check_size(name, file_size)
                raise
            self.counters.add(bytes_fetched=len(data))
            return data

        try:
            return retried(once, self.retry_for, self._go_on, lambda error: self._explained(error, name))
        except (FileNotFoundError, CorruptionError, CancelledError):
            raise
        except Exception as error:
            if answer(error)[0] == _NO_SUCH_RANGE:
                self._check_size(name, file_size)
            where = "" if end is None else f" (bytes {start} to {end})"
            raise StoreError(f"{self.uri(name)}{where}: {explain(error, self.place)}") from error

    def submit(self, call: Callable[[], _T], *, size: int, urgent: bool) -> Future[_T]:
        """Have a thread make a call that fetches `size` bytes.

        Raises:
            RuntimeError: this is called by a call of the pool, and the store was closed since that began.
        """
        # A call that submits another stays in its own pool: after `close`, asking for the pool would start a new one.
        return (own_pool() or self._local.pool).submit(call, size=size, urgent=urgent)

    def check_size(self, name: str, expected: int) -> None:
        """Check that a file has the size in the manifest.

        Raises:
            CorruptionError: the file has another size, or is missing.
            StoreError: the store does not answer.
        """
        try:
            retried(
                lambda: self._check_size(name, expected),
                self.retry_for,
                self._go_on,
                lambda error: self._explained(error, name),
            )
        except FileNotFoundError:
            raise CorruptionError(f"{self.uri(name)}: is missing") from None
        except (CorruptionError, CancelledError):
            raise
        except Exception as error:
            raise StoreError(self._explained(error, name)) from error

    def _explained(self, error: Exception, name: str) -> str:
        return f"{self.uri(name)}: {explain(error, self.place)}"

    def _go_on(self, _: Exception) -> None:
        if not is_wanted():
            raise CancelledError
        self.counters.add(retries=1)

    def _check_size(self, name: str, expected: int | None) -> None:
        if expected is not None:
            self.counters.add(requests=1)
            size = self._local.directory.size(name)
            if size != expected:
                raise CorruptionError(f"{self.uri(name)}: has {size} bytes, the manifest says {expected}")

    def close(self) -> None:
        """Stop the threads."""
        found = self._by_process.pop(os.getpid(), None)
        if found is not None:
            found.pool.close()

    @property
    def _local(self) -> _Local:
        # There is no lock, which a fork could leave locked: if two threads come at the same time, one result is
        # dropped.
        found = self._by_process.get(os.getpid())
        if found is None:
            local = _Local(directory(self.place), RequestPool(_THREADS, _MOST_BYTES))
            found = self._by_process.setdefault(os.getpid(), local)
        return found
