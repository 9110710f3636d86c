"""Memory for batches, used again when nobody holds it any more.

A buffer is handed out as an array whose base is a lease. Every view of the array, and what other libraries make
of it without copying, keeps the lease alive; when the last of them is gone, the memory goes back to its
pool. Counting references to the array would not do: some libraries alias memory without holding the array.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIGNMENT", "BufferPool"]

ALIGNMENT = 64  # bytes: what TensorFlow, JAX and DLPack want in order to take memory as it is


class BufferPool:
    """Buffers of one size. Safe to share between threads.

    Args:
        size: of each buffer, in bytes.
        keep: how many are kept for the next ones; more are freed when they come back.
    """

    def __init__(self, size: int, keep: int) -> None:
        self.size = size
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=max(1, keep))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> NDArray[Any]:
        """An array of one of the buffers, aligned to 64 bytes; what is in it is not defined.

        Raises:
            ValueError: it is larger than the buffers are.
        """
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size > self.size:
            raise ValueError(f"an array of {size} bytes does not fit into a buffer of {self.size}")
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _aligned(self.size)
        return np.asarray(_Lease(memory, self._free))[:size].view(dtype).reshape(shape)

    def close(self) -> None:
        """Free the buffers that nobody holds."""
        self._free.clear()


class _Lease:
    def __init__(self, memory: NDArray[np.uint8], free: deque[NDArray[np.uint8]]) -> None:
        self._memory, self._free = memory, free
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._memory)  # where `keep` are there, the oldest is freed


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
