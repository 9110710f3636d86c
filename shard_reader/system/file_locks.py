"""Locks between processes, any number of them in one open file.

They belong to an open file ("open file description locks" of Linux, fcntl(2)): another part of the process that closes
the same file does not drop them, as it would those of POSIX.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # not Unix
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileLocks"]

_NOTE = 80  # bytes
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, process


class FileLocks:
    """Locks by number, from 0 to 2**62. A process that ends, however it does, holds none.

    This process's own locks of one `FileLocks` do not keep it from taking another: its parts have to agree otherwise.

    Raises:
        OSError: the file cannot be made, or this system has no such locks.
    """

    def __init__(self, path: Path) -> None:
        if not hasattr(fcntl, "F_OFD_SETLK"):
            raise OSError("it takes locks that only Linux has")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def __del__(self) -> None:
        file, self._file = getattr(self, "_file", -1), -1
        if file >= 0:
            os.close(file)

    @property
    def note(self) -> bytes:
        """Whatever was noted last in the file, which whoever holds some lock may agree with others to write."""
        return os.pread(self._file, _NOTE, 0)

    @note.setter
    def note(self, note: bytes) -> None:
        os.pwrite(self._file, note.ljust(_NOTE), 0)

    def share(self, number: int) -> bool:
        """Hold a lock together with others; False: somebody has it alone."""
        return self._take(fcntl.F_RDLCK, number)

    def take(self, number: int) -> bool:
        """Hold a lock alone; False: somebody has it."""
        return self._take(fcntl.F_WRLCK, number)

    def release(self, number: int) -> None:
        """Hold a lock no more."""
        if self._file >= 0:  # garbage is collected in any order: with the file, all locks went
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0))

    def _take(self, kind: int, number: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, by the system
            return False
        return True
