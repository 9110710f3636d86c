"""Locks between processes, any number of them in one open file."""

# Each lock is a range of one byte in the same file, held by an open file description (Linux, fcntl(2)). A file for each
# lock would take an open file for each shard that is mapped. POSIX locks, which are older, are dropped as soon as any
# part of the process closes the file.

from __future__ import annotations

import os
import struct
from pathlib import Path

from shard_reader.system.regular_files import open_regular

try:
    import fcntl
except ModuleNotFoundError:  # not Unix
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileLocks"]

_NOTE = 80  # bytes of the note; locks are on offsets, which need not have bytes, so both fit into one file
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, process


class FileLocks:
    """Locks by number, from 0 to 2**62. The kernel releases them when a process ends, even if it is killed.

    Locks of one `FileLocks` do not exclude each other: the threads of a process need a lock of their own.

    Raises:
        OSError: the file cannot be made, or this system has no such locks.
    """

    def __init__(self, path: Path) -> None:
        if not hasattr(fcntl, "F_OFD_SETLK"):
            raise OSError("it takes locks that only Linux has")
        self._file = open_regular(path, os.O_RDWR | os.O_CREAT)

    def __del__(self) -> None:
        file, self._file = getattr(self, "_file", -1), -1
        if file >= 0:
            os.close(file)

    @property
    def note(self) -> bytes:
        """The last note in the file. Processes have to agree on a lock under which it is written."""
        return os.pread(self._file, _NOTE, 0)

    @note.setter
    def note(self, note: bytes) -> None:
        os.pwrite(self._file, note.ljust(_NOTE), 0)

    def share(self, number: int) -> bool:
        """Take a lock that others may share; False if somebody holds it alone."""
        return self._take(fcntl.F_RDLCK, number)

    def take(self, number: int) -> bool:
        """Take a lock alone; False if somebody holds it."""
        return self._take(fcntl.F_WRLCK, number)

    def release(self, number: int) -> None:
        """Release a lock."""
        # Garbage is collected in any order: a lease may outlive this object, whose locks went with its file.
        if self._file >= 0:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))

    def _take(self, kind: int, number: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX allows both
            return False
        return True
