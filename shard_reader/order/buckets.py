"""Epochs whose batches are each of one bucket of the records.

```
bucket      |  0 (5 records)  | 1 (3) |      batch_size 2
batches     | 0 1 | 2 3 | 4 . | 0 1 | 2 . |  the last batch of each bucket is padded, or dropped
epoch       | with "full" a permutation of all batches; else those of each bucket one after the other, spread evenly
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import require
from shard_reader.order.record_order import LastEpochs, OrderOptions, RecordOrder
from shard_reader.order.shuffle import key, mix64, permute

__all__ = ["BucketOrder"]


class BucketOrder:
    """The batches of several orders, each of one of them.

    Args:
        orders: the order of each bucket's own records.
        members: the numbers of those records in the whole, int64 `[n]` for each bucket.
        options: the options of the stream.

    Raises:
        ValueError: `remainder` is "keep".
    """

    def __init__(
        self, orders: Sequence[RecordOrder], members: Sequence[NDArray[np.int64]], options: OrderOptions
    ) -> None:
        advice = (
            'each bucket has a last batch, and only the last batch of an epoch may be smaller: take "pad" or "drop"'
        )
        require(options.remainder != "keep", "remainder", options.remainder, advice)
        self._orders, self._members, self._options = tuple(orders), tuple(members), options
        self._sizes = np.array([order.records for order in orders], np.int64)
        drops = options.remainder == "drop"
        self._batches = self._sizes // options.batch_size if drops else -(-self._sizes // options.batch_size)
        self._ends = np.cumsum(self._batches)
        self.records = int(self._ends[-1]) * options.batch_size
        self.lanes = max(order.lanes for order in orders)
        # All buckets go through the shards at the same pace, each with its part of the batches.
        blocks = [-(-order.block * self.records // max(1, order.records)) for order in orders]
        self.block = self.records if options.shuffle == "full" else max(blocks)
        self._kept: LastEpochs[NDArray[np.int64]] = LastEpochs()

    @property
    def padding(self) -> int:
        """The number of records that fill the last batches of the buckets."""
        return int((self._batches * self._options.batch_size - self._sizes).clip(0).sum())

    def is_padding(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each position is padding, bool `[n]`."""
        buckets, own = self._own(epoch, positions)
        padding: NDArray[np.bool_] = (own >= self._sizes[buckets]) | (positions >= self.records)
        return padding

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        buckets, own = self._own(epoch, positions)
        records = np.empty_like(positions)
        for bucket in np.unique(buckets).tolist():
            mine = np.flatnonzero(buckets == bucket)
            records[mine] = self._members[bucket][self._orders[bucket].at(epoch, own[mine])]
        return records

    def identity(self) -> Mapping[str, Any]:
        return self._orders[0].identity()

    def _own(self, epoch: int, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The bucket of each position, and the position in the order of that bucket."""
        steps, places = np.divmod(positions % max(1, self.records), self._options.batch_size)
        if self._options.shuffle == "full":
            steps = permute(steps, int(self._ends[-1]), self._options.seed, epoch, "buckets")
        elif self.records:
            steps = self._kept.of(epoch, self._spread)[steps]
        buckets = np.searchsorted(self._ends, steps, "right")
        own = (steps - (self._ends - self._batches)[buckets]) * self._options.batch_size + places
        return buckets, own

    def _spread(self, epoch: int) -> NDArray[np.int64]:
        """The batch at each step, counted over the buckets, int64 `[steps]`, where each bucket's stay in their order.

        All buckets are as far in their records at any time: where shards have records of all, they need the same ones.
        """
        buckets = np.repeat(np.arange(len(self._batches)), self._batches)
        own = np.arange(len(buckets)) - (self._ends - self._batches)[buckets]
        jitter = np.full(len(buckets), 0.5)
        if self._options.shuffle == "window":
            keys = np.arange(len(buckets), dtype=np.uint64) + np.uint64(key(self._options.seed, epoch, "buckets"))
            jitter = (mix64(keys) >> np.uint64(11)).astype(np.float64) / (1 << 53)
        return np.argsort((own + jitter) / self._batches[buckets], kind="stable")
