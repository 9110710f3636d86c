"""A set of records, as a bit for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RecordSet"]

_MOST = 1 << 30  # numbers that are remembered: 128 MB of bits
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(axis=1)  # those of each byte


class RecordSet:
    """Some of the numbers 0 to `size` - 1. Numbers from 2**30 on are never in it."""

    # There is no lock, which a fork could leave locked. Of numbers that two threads add at the same time, some may be
    # lost, or counted twice: so it is full only when the bits say so.

    def __init__(self, size: int) -> None:
        self._size = self._missing = size
        self._bits = np.zeros(-(-min(size, _MOST) // 8), np.uint8)

    @property
    def is_full(self) -> bool:
        """Whether it has every number."""
        return self._missing == 0

    def lacks(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the numbers, int64 `[n]`, it does not have, bool `[n]`."""
        if self.is_full:
            return np.zeros(len(numbers), bool)
        places = np.minimum(numbers >> 3, len(self._bits) - 1)
        lacks: NDArray[np.bool_] = (self._bits[places] & _bit(numbers) == 0) | (numbers >= _MOST)
        return lacks

    def add(self, numbers: NDArray[np.int64]) -> None:
        """Add numbers, int64 `[n]`."""
        known = numbers[numbers < _MOST]
        new = np.unique(known[self.lacks(known)])
        if len(new) == 0:
            return
        np.bitwise_or.at(self._bits, new >> 3, _bit(new))
        self._missing -= len(new)
        if self._missing <= 0:
            self._missing = self._size - int(_BITS[self._bits].sum())

    def add_all(self) -> None:
        """Add every number."""
        self._missing, self._bits = 0, np.zeros(0, np.uint8)


def _bit(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bit of each number in its byte."""
    bits: NDArray[np.uint8] = np.left_shift(1, numbers & 7).astype(np.uint8)
    return bits
