"""Shards on a local disk, shared by all processes of a machine.

```
DIR/
  locks                                          in which every process holds locks, one for each file that it uses
  3f0c...-train-00000-of-00012.tfrecord          a shard, padded to 64 bytes, and its index after it
  91aa...-train-00007-of-00012.tfrecord.part     one that is being fetched
```

A file has its name when all of it is there, and every value in it was checked. Whoever uses it holds a shared lock,
whoever fetches or removes it one for itself alone; the kernel takes locks away when a process ends, so a
`.part` that nobody has locked was left behind. Room is made, and counted, under one more lock.
"""

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
_SPARE = 0.05  # of the disk, which stay free where no bound is given
_PATIENCE = 10.0  # seconds for another process to make room: it may have been stopped
_POLL_SECONDS = 0.005
_FILE_NAME = re.compile(r"[0-9a-f]{32}-.+")  # whatever else is in the directory is not touched, and not counted


def _boot() -> bytes:
    """What is another one after each start of the machine: what was noted before may be older than the files."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return str(os.getpid()).encode()


_BOOT = _boot()


class Cache:
    """Files in a directory, which together never have more than so many bytes. Safe to share between threads.

    Args:
        path: the directory, on a local disk; it is made if it is not there.
        most_bytes: None: as many as leave a twentieth of the disk free.

    Attributes:
        evictions: how many files this process has removed to make room.

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
        self._room = threading.Lock()  # the locks of files do not keep this process's threads apart
        self._users: dict[str, int] = {}  # how many parts of this process hold the shared lock of a file
        self._downloads: set[str] = set()
        self.evictions = 0

    @property
    def most_bytes(self) -> int:
        """How large it may become; 0 if it is gone."""
        if self._most_bytes is not None:
            return self._most_bytes
        try:
            return self._most(self.size())
        except FileNotFoundError:
            return 0

    def find(self, entry: CacheEntry) -> NDArray[np.uint8] | None:
        """A file as a map, which nobody removes as long as the map lives; None: it is not there.

        Raises:
            OSError: it cannot be opened or mapped.
        """
        with self._lock:
            if not self._share(entry.name):
                return None
            lease = _Lease(self, entry.name)
        with contextlib.suppress(FileNotFoundError):
            data = map_file(self.path / entry.name, keep=lease)
            if data.size == entry.size:
                with contextlib.suppress(OSError):  # of another user: then it counts as old
                    os.utime(self.path / entry.name)
                return data
        return None

    def begin(self, entry: CacheEntry) -> CacheWriter | None:
        """Room for a file that is to be fetched; None: it is there, or somebody is at it.

        Raises:
            CacheError: there is no room, as long as what is in use remains so, or the disk is full.
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
            for name in (entry.name, entry.name + _PART):  # torn, or left behind: nobody has their lock
                (self.path / name).unlink(missing_ok=True)
            with self._making_room():
                self._make_room(entry.size)
                return CacheWriter(self, entry, allocate(self.path / (entry.name + _PART), entry.size))
        except BaseException:
            self._end(entry.name)
            raise

    def written(self, entry: CacheEntry) -> float:
        """When a file that is being fetched was written last, in seconds since the epoch; 0 if there is none."""
        try:
            return (self.path / (entry.name + _PART)).stat().st_mtime
        except OSError:
            return 0.0

    def discard(self, entry: CacheEntry) -> None:
        """Remove a file that turned out to be damaged; whoever has mapped it keeps it."""
        with contextlib.suppress(OSError):
            (self.path / entry.name).unlink()

    def identity(self, entry: CacheEntry) -> tuple[int, int] | None:
        """Which file it is that has an entry, if there is one: as long as it is mapped, no other has the same."""
        try:
            status = (self.path / entry.name).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def size(self) -> int:
        """The bytes of all that is in it."""
        return sum(size for *_, size in self._files())

    def _most(self, used: int) -> int:
        """How large it may become, where it has so many bytes."""
        if self._most_bytes is not None:
            return self._most_bytes
        disk = shutil.disk_usage(self.path)
        return max(0, used + disk.free - int(_SPARE * disk.total))

    def _make_room(self, size: int) -> None:
        """Remove what was not used for the longest time, as far as nobody uses it, until so many bytes fit.

        What is noted beside the locks is never less than there is, and spares most calls a look at all files.
        """
        used, free = self._noted(), shutil.disk_usage(self.path).free
        if used is None or used + size > self._most(used) or free < size:
            used = self._evict(size, free)
        self._file_locks.note = b"%d %s" % (used + size, _BOOT)

    def _evict(self, size: int, free: int) -> int:
        """Remove files until so many bytes fit; how many are left."""
        files = sorted(
            self._files(), key=lambda file: (not file[1].endswith(_PART), file)
        )  # first what was left behind
        used = sum(held for *_, held in files)
        most = self._most(used)
        spare, evicted = len(files) // 100, 0  # of many, a few more: this look will do for the next shards, too
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
        """How many bytes there are at most, if that was noted since this machine was started."""
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
        """When each file was used, its name, and its size."""
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
        """That a file that somebody has locked is there, or will be.

        Raises:
            CacheError: it was damaged and removed, and has room only when nobody has mapped it any more.
        """
        number = _number(entry.name)
        if entry.name not in self._users:
            if not self._file_locks.share(number):
                return  # it is being fetched
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
        """Make the lock of a download that is over one that is shared."""
        with self._lock:
            self._downloads.discard(name)
            self._share(name)  # which always can be
            return _Lease(self, name)

    def _end(self, name: str) -> None:
        """A download is over."""
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
    """A file that is being fetched into the cache: `write` all of it, then `finish`; or `abort`."""

    def __init__(self, cache: Cache, entry: CacheEntry, file: int) -> None:
        self.entry = entry
        self._cache, self._file = cache, file

    def write(self, data: bytes | memoryview, start: int) -> None:
        """Some bytes.

        Raises:
            OSError: the disk cannot take them.
        """
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, start)
            view, start = view[written:], start + written

    def finish(self) -> object:
        """Give the file its name. Others may find it now, and remove it when what this returns is dropped."""
        os.close(self._file)
        part = self._cache.path / (self.entry.name + _PART)
        try:
            # Whoever counts at the same time might see neither the one name nor the other.
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(CacheError):  # of a process that was stopped while it counts
                    stack.enter_context(self._cache._making_room())
                os.replace(part, part.with_name(self.entry.name))
        except BaseException:
            self._cache._end(self.entry.name)
            raise
        return self._cache._keep(self.entry.name)

    def abort(self) -> None:
        """Remove what is there."""
        os.close(self._file)
        try:
            (self._cache.path / (self.entry.name + _PART)).unlink(missing_ok=True)
        finally:
            self._cache._end(self.entry.name)


class _Lease:
    """A shared lock, as long as something refers to it."""

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache, self._name, self._getpid = cache, name, os.getpid

    def __del__(self) -> None:
        if self._getpid() == self._cache._process:  # a fork has the lock, too, and must leave it to its parent
            self._cache._unshare(self._name)


def _number(name: str) -> int:
    """The number of a file's lock."""
    return 1 + int(name[:15], 16)
