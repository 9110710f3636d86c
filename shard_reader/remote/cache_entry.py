"""The files of a cache: their names and sizes, and room for them on the disk."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from shard_reader.system.regular_files import open_regular

__all__ = ["CacheEntry", "CacheError", "DiskFullError", "allocate"]

_ALIGNMENT = 64
_LONGEST = 120  # bytes of the shard's name in a file's name; a directory entry takes 255


class CacheError(OSError):
    """The cache has no room now."""


class DiskFullError(CacheError):
    """The cache may grow, but its disk is full."""


class CacheEntry(NamedTuple):
    """A shard and its index, as one file of the cache.

    Attributes:
        shard: the name of the shard's file in the dataset.
        sha256, index_sha256: checksums of the shard and of its index.
        bytes, index_bytes: sizes of the shard and of its index.
    """

    shard: str
    sha256: str
    index_sha256: str
    bytes: int
    index_bytes: int

    @property
    def name(self) -> str:
        """The name of the file in the cache, by its content."""
        # Not by its URL: copies of a dataset share a file, and a dataset that was prepared again does not find old
        # ones.
        shown = self.shard.rpartition("/")[2].encode()[-_LONGEST:].decode(errors="ignore")
        return f"{hashlib.sha256(f'{self.sha256}{self.index_sha256}'.encode()).hexdigest()[:32]}-{shown}"

    @property
    def index_start(self) -> int:
        """The offset of the index in the file."""
        return -(-self.bytes // _ALIGNMENT) * _ALIGNMENT

    @property
    def size(self) -> int:
        """The size of the file."""
        return self.index_start + self.index_bytes


def allocate(path: Path, size: int) -> int:
    """A new file with `size` bytes; its descriptor."""
    # It is not there, since `Cache.begin` has removed it. What somebody puts there now is not opened.
    file = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        # Blocks are reserved at once: a full disk shows here, and not after half of a download. macOS has no fallocate.
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
