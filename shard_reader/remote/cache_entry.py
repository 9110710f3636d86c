"""The files of a cache: their names and sizes, room for them on the disk, and the errors where there is none."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["CacheEntry", "CacheError", "DiskFullError", "allocate"]

_ALIGNMENT = 64
_LONGEST = 120  # bytes of a shard's name in a file's, of which a directory takes 255


class CacheError(OSError):
    """A cache that has no room now."""


class DiskFullError(CacheError):
    """A cache that may become larger, on a disk that has no room."""


class CacheEntry(NamedTuple):
    """A shard and its index, as the cache may hold them.

    Attributes:
        shard: the name of its file in the data set.
        sha256, index_sha256: of the two.
        bytes, index_bytes: their sizes.
    """

    shard: str
    sha256: str
    index_sha256: str
    bytes: int
    index_bytes: int

    @property
    def name(self) -> str:
        """The name of the file in the cache: what it holds, not whose it is."""
        shown = self.shard.encode()[-_LONGEST:].decode(errors="ignore")
        return f"{hashlib.sha256(f'{self.sha256}{self.index_sha256}'.encode()).hexdigest()[:32]}-{shown}"

    @property
    def index_start(self) -> int:
        """Where the index begins in the file."""
        return -(-self.bytes // _ALIGNMENT) * _ALIGNMENT

    @property
    def size(self) -> int:
        """The size of the file."""
        return self.index_start + self.index_bytes


def allocate(path: Path, size: int) -> int:
    """A file with room for so many bytes."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:
            os.truncate(file, size)
    except BaseException as error:
        os.close(file)
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(error.errno, f"{path.parent}: the disk is full") from error
        raise
    return file
