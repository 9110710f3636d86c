"""Which positions of an epoch go into which batch of which rank.

```
positions   0 1 2 3 | 4 5 6 7 | 8 9 . .      batch_size 4, 10 records, remainder "pad"
global batch    0         1         2        the same for any number of ranks
rank 0 of 2  0   2  | 4   6   | 8   .        rank r takes the positions p with p % world_size == r
```

Which record is at a position is the arrangement's matter: see `shuffle.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, at_least_one, one_of, require
from shard_reader.order.shuffle import Arrangement

__all__ = ["Order", "Picks", "Remainder", "local_ranks"]

Remainder = Literal["pad", "drop", "keep"]


@dataclass(frozen=True, slots=True)
class Picks:
    """What consecutive batches of a rank are made of.

    Attributes:
        positions: in the epoch, int64 `[n]`.
        records: int64 `[n]`.
        weights: float32 `[n]`: 1, or 0 for padding.
    """

    positions: NDArray[np.int64]
    records: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which record goes into which batch of which rank, for every epoch.

    Args:
        arrangement: which record is at which position.
        batch_size: of the global batch, over all ranks; `world_size` must divide it.
        rank, world_size: which share of each global batch is asked for.
        remainder: what the last global batch does when `batch_size` does not divide the number of records: "pad"
            fills it with records of weight 0, "drop" leaves it out, "keep" makes it smaller.

    Raises:
        ValueError: a value is out of range; the message names it.
        TypeError: a value is not an integer.
    """

    arrangement: Arrangement
    batch_size: int
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "pad"

    def __post_init__(self) -> None:
        for name, check in (("batch_size", at_least_one), ("rank", as_integer), ("world_size", at_least_one)):
            object.__setattr__(self, name, check(name, getattr(self, name)))
        require(0 <= self.rank < self.world_size, "rank", self.rank, f"must be in 0..{self.world_size - 1}")
        divides = self.batch_size % self.world_size == 0
        advice = f"world_size {self.world_size} does not divide it; it counts the records of all ranks"
        require(divides, "batch_size", self.batch_size, advice)
        one_of("remainder", self.remainder, get_args(Remainder))
        lanes = self.arrangement.lanes
        advice = f"world_size {self.world_size} does not divide it; take a multiple of every number of ranks to come"
        require(lanes % self.world_size == 0, "lanes", lanes, advice)

    @property
    def records(self) -> int:
        """How many records an epoch has, over all ranks."""
        return self.arrangement.records

    @property
    def steps(self) -> int:
        """How many batches this rank gets in an epoch; differs between ranks only for "keep"."""
        rest = self.records % self.batch_size
        none_left = self.remainder == "keep" and 0 < rest <= self.rank
        return self.epoch_steps - none_left

    @property
    def epoch_steps(self) -> int:
        """How many global batches an epoch has: the most that any rank gets."""
        full, rest = divmod(self.records, self.batch_size)
        return full + (rest > 0 and self.remainder != "drop")

    @property
    def has_all(self) -> bool:
        """Whether an epoch, over all ranks, has every record."""
        return self.arrangement.is_whole and (self.remainder != "drop" or self.records % self.batch_size == 0)

    @property
    def share(self) -> int:
        """How many records this rank has of a whole global batch."""
        return self.batch_size // self.world_size

    def picks(self, epoch: int, first: int, stop: int) -> Picks:
        """What the batches of steps `first` to `stop`, without it, are made of: `share` records each, but for a
        kept remainder.

        Raises:
            IndexError: the epoch has no such steps.
        """
        if not 0 <= first < stop <= self.steps:
            raise IndexError(f"steps {first} to {stop - 1} are not in 0..{self.steps - 1}")
        end = stop * self.batch_size
        if self.remainder == "keep":
            end = min(end, self.records)
        positions = np.arange(first * self.batch_size + self.rank, end, self.world_size, dtype=np.int64)
        weights = (positions < self.records).astype(np.float32)
        return Picks(positions, self.arrangement.at(epoch, positions), weights)


def local_ranks(world_size: int) -> int:
    """How many ranks of the job are on this machine, as far as its launcher says so (`LOCAL_WORLD_SIZE`, torchrun)."""
    found = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(world_size, max(1, int(found))) if found.isdecimal() else 1
