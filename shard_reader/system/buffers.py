"""Memory for batches, used again when nobody holds it any more."""

# Batches are leased, not counted. The base of a batch is an object that gives the memory back when it dies; every view
# of the memory, and every tensor made of it without a copy, keeps that object alive. A count of references to the array
# would miss libraries that alias the memory without holding the array.

from __future__ import annotations

import math
from collections import deque
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIGNMENT", "BufferPool", "Buffers"]

ALIGNMENT = 64  # bytes; TensorFlow, JAX and DLPack copy arrays that are aligned to less


class Buffers(Protocol):
    """Memory for batches."""

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> NDArray[Any]:
        """An array with undefined values."""

    def close(self) -> None:
        """Free the memory that nobody holds."""


class BufferPool:
    """Buffers of one size. Safe to share between threads.

    Args:
        size: size of each buffer, in bytes.
        keep: the most free buffers to keep for the next batches.
    """

    def __init__(self, size: int, keep: int) -> None:
        self.size = size
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=max(1, keep))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any] | str) -> NDArray[Any]:
        """An array in one of the buffers, aligned to 64 bytes, with undefined values.

        Raises:
            ValueError: the array is larger than a buffer.
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
        self._free.append(self._memory)  # the deque drops its oldest buffer if it is full


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
