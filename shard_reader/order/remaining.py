"""The records of a split that remain when some are withdrawn, as arithmetic."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

__all__ = ["Remaining"]


class Remaining:
    """The numbers of the records that remain, in memory of the records that do not.

    Args:
        withdrawn: the numbers of the withdrawn records in their split, rising, int64 `[n]`.
    """

    def __init__(self, withdrawn: NDArray[np.int64]) -> None:
        self.withdrawn = withdrawn
        # The number of remaining records before each withdrawn one.
        self._before = withdrawn - np.arange(len(withdrawn))
        self._before_list: list[int] | None = None

    def numbers(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers in the split of remaining records, both int64 `[n]`."""
        return records + np.searchsorted(self._before, records, "right")

    def number(self, record: int) -> int:
        """As `numbers`, for one record."""
        if self._before_list is None:
            self._before_list = self._before.tolist()
        return record + bisect_right(self._before_list, record)

    def ends(self, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of remaining records before each of some places in the split, both int64 `[n]`."""
        return ends - np.searchsorted(self.withdrawn, ends)

    def rows(self, first: int, records: int) -> NDArray[np.int64]:
        """The rows that remain of a shard whose first record has the number `first`, rising, int64 `[n]`."""
        start, stop = np.searchsorted(self.withdrawn, (first, first + records))
        mask = np.ones(records, bool)
        mask[self.withdrawn[start:stop] - first] = False
        return np.flatnonzero(mask)
