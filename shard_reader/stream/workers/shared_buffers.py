"""Memory for batches that this process shares with one worker process, used again when nobody holds it any more."""

# The memory has no name. A name in /dev/shm stays there when a process is killed, and containers have little room in
# that directory.

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
from collections import deque
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.system.memory_map import discard, map_shared

__all__ = ["SharedBuffers"]


class SharedBuffers:
    """Buffers of one size, by number: this process leases them, and a worker process fills them.

    One thread at a time may take some. Any may drop what was leased.

    Args:
        size: size of each buffer, in bytes.
        keep: the most free buffers that keep their memory for later batches.
    """

    def __init__(self, size: int, keep: int) -> None:
        self._of_file(size, keep, _File(_anonymous_file()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Only a process that is started gets a copy.
        return _opened, (self.size, self._keep, reduction.DupFd(self._file.descriptor))

    def _of_file(self, size: int, keep: int, file: _File) -> None:
        self.size, self._keep, self._file = size, keep, file
        self._stride = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._free = _Free()
        self._empty: list[int] = []  # free buffers without memory
        self._count = 0

    def take(self) -> int:
        """The number of a buffer that nobody holds, until it is leased or given back."""
        while len(self._free) > self._keep:
            number = self._free.popleft()
            discard(self.memory(number))
            self._empty.append(number)
        # The one that was used last: the worker has its pages already.
        with contextlib.suppress(IndexError):
            return self._free.pop()
        if self._empty:
            return self._empty.pop()
        self._count += 1
        os.ftruncate(self._file.descriptor, self._count * self._stride)
        return self._count - 1

    def give_back(self, number: int) -> None:
        """Free a buffer that was taken, and not leased."""
        self._free.append(number)

    def lease(self, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The array in a buffer that was taken. The buffer is free when the array, and every view of it, is gone."""
        size = math.prod(shape) * dtype.itemsize
        return np.asarray(_Lease(self.memory(number), self._free, number))[:size].view(dtype).reshape(shape)

    def memory(self, number: int) -> NDArray[np.uint8]:
        """The bytes of a buffer, uint8 `[size]`."""
        found = self._maps.get(number)
        if found is None:
            found = self._maps[number] = map_shared(self._file.descriptor, number * self._stride, self._stride)
        return found[: self.size]

    def close(self) -> None:
        """Give the memory of free buffers back to the system, and that of others when they become free."""
        # The memory of a file goes when its last map goes. One batch that a user keeps would keep all of it.
        self._free.is_closed = True
        while self._free:
            with contextlib.suppress(IndexError):
                discard(self.memory(self._free.pop()))


class _Free(deque[int]):
    """The numbers of the buffers that nobody holds."""

    is_closed = False


class _Lease:
    def __init__(self, memory: NDArray[np.uint8], free: _Free, number: int) -> None:
        self._memory, self._free, self._number, self._discard = memory, free, number, discard
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        # One call that no other thread can divide: this may happen anywhere.
        self._free.append(self._number)
        if self._free.is_closed:
            self._discard(self._memory)


class _File:
    """An open file, which is closed when nobody refers to it."""

    _close = staticmethod(os.close)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        self._close(self.descriptor)


def _anonymous_file() -> int:
    """The descriptor of an empty file in memory; where the system has none, of one that has lost its name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("shard_reader")
    descriptor, path = tempfile.mkstemp(prefix="shard_reader-")
    os.unlink(path)
    return descriptor


def _opened(size: int, keep: int, descriptor: Any) -> SharedBuffers:
    """In a worker process: the same memory."""
    buffers = SharedBuffers.__new__(SharedBuffers)
    buffers._of_file(size, keep, _File(descriptor.detach()))
    return buffers
