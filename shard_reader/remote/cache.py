"""Shards on a local disk, shared by all processes of a machine.

```
DIR/
  locks                                          every process holds a lock in it for each file that it uses
  3f0c...-train-00000-of-00012.tfrecord          a shard, padded to 64 bytes, and its index after it
  91aa...-train-00007-of-00012.tfrecord.part     a shard that is being fetched
```

A file gets its name when all of it is there, and every value in it was checked. A process that uses a file holds a
shared lock, a process that fetches or removes it an exclusive one. The kernel releases locks when a process ends, so
a `.part` without a lock belongs to a process that died. Room is counted, and made, under one more lock.
"""

# The locks guard the count of bytes, not the data: a file that is removed while it is mapped stays readable, but its
# bytes stay on the disk, too. `system/file_locks.py` says why all locks are byte ranges of one file.

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shard_reader.remote.cache_entry import CacheEntry, CacheError, DiskFullError, allocate
from shard_reader.system.file_locks import FileLocks
from shard_reader.system.memory_map import map_file

__all__ = ["Cache", "CacheWriter"]

_PART = ".part"
_ROOM = 0  # the lock under which room is made
# What stays free of the disk where no bound is given: a part of it, and at most so many bytes.
_SPARE, _MOST_SPARE = 0.05, 10 * 2**30
_PATIENCE = 10.0  # seconds for another process to make room: it may have been stopped
_POLL_SECONDS = 0.005
_FILE_NAME = re.compile(r"[0-9a-f]{32}-.+")  # other files in the directory are not touched, and not counted


def _boot() -> bytes:
    """An identifier of this start of the machine."""
    # A machine that crashed may have lost the last note of the size, but not the files: notes of an earlier start do
    # not count.
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return str(os.getpid()).encode()


_BOOT = _boot()


class Cache:
    """Files in a directory, of a bounded size together. Safe to share between threads.

    Args:
        path: the directory, on a local disk; made if missing.
        most_bytes: the bound; None leaves a twentieth of the disk free, at most 10 GiB.

    Attributes:
        evictions: number of files that this process has removed to make room.

    Raises:
        OSError: the directory cannot be made or written.
    """

    def __init__(self, path: Path, most_bytes: int | None) -> None:
        self.path, self._most_bytes = path, most_bytes
        path.mkdir(parents=True, exist_ok=True)
        self._file_locks, self._process = FileLocks(path / "locks"), os.getpid()
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        self._lock = threading.RLock()
        self._room = threading.Lock()  # file locks do not keep the threads of a process apart
        self._users: dict[str, int] = {}  # the number of leases of each file in this process
        self._downloads: set[str] = set()
        self.evictions = 0

    @property
    def most_bytes(self) -> int:
        """The bound on its size, in bytes; 0 if the directory is gone."""
        if self._most_bytes is not None:
            return self._most_bytes
        try:
            return self._most(self.size())
        except FileNotFoundError:
            return 0

    def find(self, entry: CacheEntry) -> NDArray[np.uint8] | None:
        """A file as a memory map, which keeps the file in the cache; None if the file is not there.

        Raises:
            OSError: the file cannot be opened or mapped.
        """
        with self._lock:
            if not self._share(entry.name):
                return None
            lease = _Lease(self, entry.name)
        with contextlib.suppress(FileNotFoundError):
            data = map_file(self.path / entry.name, keep=lease)
            if data.size == entry.size:
                # The time of last use, by which files are removed. A file of another user keeps its own.
                with contextlib.suppress(OSError):
                    os.utime(self.path / entry.name)
                return data
        return None

    def begin(self, entry: CacheEntry) -> CacheWriter | None:
        """Room for a file that is to be fetched; None if it is there, or being fetched.

        Raises:
            CacheError: the files in use leave no room, or the disk is full.
            OSError: the cache cannot be written.
        """
        with self._lock:
            if entry.name in self._downloads:
                return None
            if entry.name in self._users or not self._file_locks.take(_number(entry.name)):
                self._check_not_removed(entry)
                return None
            self._downloads.add(entry.name)
        try:
            if self._is_whole(entry):
                self._end(entry.name)
                return None
            # Both are leftovers of a process that died, since nobody else holds their lock.
            for name in (entry.name, entry.name + _PART):
                (self.path / name).unlink(missing_ok=True)
            with self._making_room():
                self._make_room(entry.size)
                return CacheWriter(self, entry, allocate(self.path / (entry.name + _PART), entry.size))
        except BaseException:
            self._end(entry.name)
            raise

    def written(self, entry: CacheEntry) -> float:
        """The time of the last write to a file that is being fetched, in Unix seconds; 0 if it is not."""
        try:
            return (self.path / (entry.name + _PART)).stat().st_mtime
        except OSError:
            return 0.0

    def discard(self, entry: CacheEntry) -> None:
        """Remove a damaged file. Its memory maps stay readable."""
        with contextlib.suppress(OSError):
            (self.path / entry.name).unlink()

    def identity(self, entry: CacheEntry) -> tuple[int, int] | None:
        """Device and inode of an entry's file, if there is one. No other file gets them while it is mapped."""
        try:
            status = (self.path / entry.name).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def has_shrunk(self, entry: CacheEntry) -> bool:
        """Whether a mapped file was cut off. To read past its end would end the process."""
        try:
            return (self.path / entry.name).stat().st_size < entry.size
        except OSError:
            return False  # removed files stay mapped

    def size(self) -> int:
        """The bytes of all its files."""
        return sum(size for *_, size in self._files())

    def _most(self, used: int) -> int:
        """The bound on its size, where it has `used` bytes."""
        if self._most_bytes is not None:
            return self._most_bytes
        disk = shutil.disk_usage(self.path)
        return max(0, used + disk.free - min(int(_SPARE * disk.total), _MOST_SPARE))

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files, except those in use, until `size` bytes fit."""
        # The size is noted beside the locks, so that most calls need not list all files. The note may be too high, as
        # after a download that failed, but never too low.
        used, free = self._noted(), shutil.disk_usage(self.path).free
        if used is None or used + size > self._most(used) or free < size:
            used = self._evict(size, free)
        self._file_locks.note = b"%d %s" % (used + size, _BOOT)

    def _evict(self, size: int, free: int) -> int:
        """Remove files until `size` bytes fit; the bytes that are left."""
        # Abandoned parts first: they are of no use to anybody.
        files = sorted(self._files(), key=lambda file: (not file[1].endswith(_PART), file))
        used = sum(held for *_, held in files)
        most = self._most(used)
        # Listing many files takes long, so one in a hundred is removed beyond need, for the next shards.
        spare, evicted = len(files) // 100, 0
        for _, name, held in files:
            if not name.endswith(_PART):
                if used + size <= most and free >= size and not 0 < evicted < spare:
                    break
                if not self._remove(name):
                    continue
                evicted, self.evictions = evicted + 1, self.evictions + 1
            elif not self._remove(name):
                continue
            used, free = used - held, free + held
        if used + size > most:
            raise CacheError(errno.ENOSPC, f"{self.path}: of {most} bytes, {used} are in use, and {size} more needed")
        if free < size:
            raise DiskFullError(errno.ENOSPC, f"{self.path}: the disk has {free} bytes left, and {size} are needed")
        return used

    def _noted(self) -> int | None:
        """An upper bound on the bytes of the cache, if it was noted since this machine was started."""
        used, _, boot = self._file_locks.note.strip().partition(b" ")
        return int(used) if boot == _BOOT and used.isdigit() else None

    def _remove(self, name: str) -> bool:
        """Remove a file, if nobody uses it."""
        key = name.removesuffix(_PART)
        with self._lock:
            if key in self._users or key in self._downloads or not self._file_locks.take(_number(key)):
                return False
            try:
                (self.path / name).unlink(missing_ok=True)
            finally:
                self._file_locks.release(_number(key))
        return True

    def _files(self) -> list[tuple[float, str, int]]:
        """The time of last use, the name, and the size of each file."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if _FILE_NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            found.append((status.st_mtime, entry.name, status.st_size))
        return found

    def _is_whole(self, entry: CacheEntry) -> bool:
        try:
            return (self.path / entry.name).stat().st_size == entry.size
        except FileNotFoundError:
            return False

    def _check_not_removed(self, entry: CacheEntry) -> None:
        """Check that a locked file is there, or being fetched.

        Raises:
            CacheError: the file was damaged and removed, and some process still maps it.
        """
        number = _number(entry.name)
        if entry.name not in self._users:
            # A shared lock is refused only while another process has an exclusive one, to fetch the file.
            if not self._file_locks.share(number):
                return
            self._file_locks.release(number)
        if not self._is_whole(entry):
            raise CacheError(errno.EBUSY, f"{self.path / entry.name}: was removed, and is still in use")

    def _share(self, name: str) -> bool:
        if name in self._downloads or (name not in self._users and not self._file_locks.share(_number(name))):
            return False
        self._users[name] = self._users.get(name, 0) + 1
        return True

    def _unshare(self, name: str) -> None:
        with self._lock:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                self._file_locks.release(_number(name))

    def _keep(self, name: str) -> _Lease:
        """Turn the exclusive lock of a finished download into a shared one."""
        with self._lock:
            self._downloads.discard(name)
            self._share(name)  # succeeds: this process has the exclusive lock
            return _Lease(self, name)

    def _end(self, name: str) -> None:
        """Release the lock of a download."""
        with self._lock:
            self._downloads.discard(name)
            self._file_locks.release(_number(name))

    @contextlib.contextmanager
    def _making_room(self) -> Iterator[None]:
        give_up = time.monotonic() + _PATIENCE
        if not self._room.acquire(timeout=_PATIENCE):
            raise CacheError(errno.EBUSY, f"{self.path}: another thread makes room")
        try:
            while not self._file_locks.take(_ROOM):
                if time.monotonic() > give_up:
                    raise CacheError(errno.EBUSY, f"{self.path}: another process makes room, and does not end")
                time.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                self._file_locks.release(_ROOM)
        finally:
            self._room.release()


class CacheWriter:
    """A file that is being fetched into the cache. `write` all of it, then `finish`; or `abort`."""

    def __init__(self, cache: Cache, entry: CacheEntry, file: int) -> None:
        self.entry = entry
        self._cache, self._file = cache, file

    def write(self, data: bytes | memoryview, start: int) -> None:
        """Write some bytes.

        Raises:
            OSError: the disk is full or broken.
        """
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, start)
            view, start = view[written:], start + written

    def finish(self) -> object:
        """Give the file its name; a lease on it. Others may find it now, and remove it once the lease is dropped."""
        os.close(self._file)
        part = self._cache.path / (self.entry.name + _PART)
        try:
            # Under the lock for room, since a process that lists the directory during a rename may see neither name,
            # and note too few bytes. If that process was stopped, the rename does not wait for it.
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(CacheError):
                    stack.enter_context(self._cache._making_room())
                os.replace(part, part.with_name(self.entry.name))
        except BaseException:
            self._cache._end(self.entry.name)
            raise
        return self._cache._keep(self.entry.name)

    def abort(self) -> None:
        """Remove the part that is there."""
        os.close(self._file)
        try:
            (self._cache.path / (self.entry.name + _PART)).unlink(missing_ok=True)
        finally:
            self._cache._end(self.entry.name)


class _Lease:
    """A shared lock on a file, for the lifetime of this object."""

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name, self._getpid = cache, name, os.getpid

    def __del__(self) -> None:
        # A fork shares the lock with its parent: releasing it here would release it there.
        if self._getpid() == self._cache._process:
            self._cache._unshare(self._name)


def _number(name: str) -> int:
    """The number of a file's lock."""
    return 1 + int(name[:15], 16)
