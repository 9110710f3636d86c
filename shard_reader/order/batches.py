"""The positions of an epoch in each batch of each rank.

```
positions   0 1 2 3 | 4 5 6 7 | 8 9 . .      batch_size 4, 10 records, remainder "pad"
global batch    0         1         2        the same for any number of ranks
rank 0 of 2  0   2  | 4   6   | 8   .        rank r takes the positions p with p % world_size == r
```

The record order maps positions to records: see `shuffle.py`, `sampling.py` and `buckets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, at_least_one, one_of, require
from shard_reader.order.record_order import OrderOptions, RecordOrder, Remainder
from shard_reader.system.cpus import local_world_size

__all__ = ["BatchOrder", "local_ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """The records in each batch of a rank, for every epoch.

    Args:
        record_order: the record at each position.
        batch_size: size of the global batch, over all ranks; `world_size` must divide it.
        rank, world_size: this rank, and the number of ranks that share each global batch.
        remainder: the last global batch when `batch_size` does not divide the number of records: "pad" fills it
            with records of weight 0, "drop" leaves it out, "keep" makes it smaller.

    Raises:
        ValueError: a value is out of range; the message names it.
        TypeError: a value is not an integer.
    """

    record_order: RecordOrder
    batch_size: int
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "pad"

    def __post_init__(self) -> None:
        for name, check in (("batch_size", at_least_one), ("rank", as_integer), ("world_size", at_least_one)):
            object.__setattr__(self, name, check(name, getattr(self, name)))
        require(0 <= self.rank < self.world_size, "rank", self.rank, f"must be in 0..{self.world_size - 1}")
        divides = self.batch_size % self.world_size == 0
        below = self.batch_size // self.world_size * self.world_size
        near = " or ".join(str(size) for size in (below, below + self.world_size) if size)
        advice = f"world_size {self.world_size} does not divide it; it counts the records of all ranks: take {near}"
        require(divides, "batch_size", self.batch_size, advice)
        one_of("remainder", self.remainder, get_args(Remainder))
        lanes = self.record_order.lanes
        advice = f"world_size {self.world_size} does not divide it; take a multiple of every number of ranks to come"
        require(lanes % self.world_size == 0, "lanes", lanes, advice)

    @classmethod
    def of(cls, record_order: RecordOrder, options: OrderOptions, rank: int, world_size: int) -> BatchOrder:
        """The batches of a rank, by the options of a stream."""
        return cls(
            record_order=record_order,
            batch_size=options.batch_size,
            rank=rank,
            world_size=world_size,
            remainder=options.remainder,
        )

    @property
    def records(self) -> int:
        """The number of records in an epoch, over all ranks."""
        return self.record_order.records

    @property
    def steps(self) -> int:
        """The number of batches of this rank in an epoch; differs between ranks only for "keep"."""
        # Ranks take turns at positions: of a last batch with fewer records than ranks, the last ranks get none.
        rest = self.records % self.batch_size
        none_left = self.remainder == "keep" and 0 < rest <= self.rank
        return self.epoch_steps - none_left

    @property
    def epoch_steps(self) -> int:
        """The number of global batches in an epoch: the most that any rank gets."""
        full, rest = divmod(self.records, self.batch_size)
        return full + (rest > 0 and self.remainder != "drop")

    @property
    def share(self) -> int:
        """The number of records of this rank in a whole global batch."""
        return self.batch_size // self.world_size

    @property
    def most(self) -> int:
        """The most records of this rank in a batch."""
        return min(self.share, self.records) if self.remainder == "keep" else self.share

    def positions(self, first: int, stop: int) -> NDArray[np.int64]:
        """The positions of this rank in steps `first` to `stop`, without it, int64 `[n]`.

        Each step has `share` of them, but for a kept remainder. Positions from `records` on are padding.

        Raises:
            IndexError: the epoch has no such steps.
        """
        if not 0 <= first < stop <= self.steps:
            raise IndexError(f"steps {first} to {stop - 1} are not in 0..{self.steps - 1}")
        end = stop * self.batch_size
        if self.remainder == "keep":
            end = min(end, self.records)
        return np.arange(first * self.batch_size + self.rank, end, self.world_size, dtype=np.int64)

    def records_of(self, epoch: int, first: int, stop: int) -> NDArray[np.int64]:
        """The records of this rank in those steps, int64 `[n]`, any record for padding."""
        return self.record_order.at(epoch, self.positions(first, stop))

    @property
    def padding(self) -> int:
        """The number of positions in the batches of an epoch, of all ranks, that are padding."""
        at_end = -self.records % self.batch_size if self.remainder == "pad" else 0
        return self.record_order.padding + at_end

    def weights(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The weight of each position, float32 `[n]`: 1, or 0 for padding."""
        return (~self.record_order.is_padding(epoch, positions)).astype(np.float32)

    def to_plain(self) -> dict[str, Any]:
        """The arguments of `Records.stream` that make this order."""
        identity = self.record_order.identity()
        # The sources of a mixture all have an order of the same kind, so any of them has its arguments.
        while "sources" in identity:
            identity = identity["sources"][0]
        return {
            "shuffle": identity["shuffle"],
            "lanes": identity.get("lanes", 1),
            "window": identity.get("window", 1),
            "batch_size": self.batch_size,
            "rank": self.rank,
            "world_size": self.world_size,
            "remainder": self.remainder,
        }


def local_ranks(world_size: int) -> int:
    """The number of ranks, among so many, on this machine."""
    return min(world_size, local_world_size())
