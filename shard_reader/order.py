"""The order of an epoch, as arithmetic: position -> record, with no array of all records.

```
positions   0 1 2 3 | 4 5 6 7 | 8 9 . .      batch_size 4, 10 records, remainder "pad"
global batch    0         1         2        the same for any number of ranks
rank 0 of 2  0   2  | 4   6   | 8   .        rank r takes the positions p with p % world_size == r
```

A shuffle is a keyed permutation of 0..n-1: a Feistel network (Luby and Rackoff, 1988) over the
smallest power of two that holds n, walked along its cycles until it lands below n (Black and
Rogaway, 2002, "Ciphers with Arbitrary Finite Domains"). It is a pure function of (n, seed, epoch).
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["Order", "Remainder", "Shuffle", "permute"]

Shuffle = Literal["none", "full"]
Remainder = Literal["pad", "drop", "keep"]

_ROUNDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which record goes into which batch of which rank, for every epoch.

    Args:
        records: how many there are.
        batch_size: of the global batch, over all ranks; `world_size` must divide it.
        shuffle: "full" is a new permutation of all records for each epoch, "none" their stored order.
        seed: any integer; it and the epoch decide the permutation.
        rank, world_size: which share of each global batch is asked for.
        remainder: what the last global batch does when `batch_size` does not divide `records`: "pad"
            fills it with records of weight 0, "drop" leaves it out, "keep" makes it smaller.

    Raises:
        ValueError: a value is out of range; the message names it.
        TypeError: a value is not an integer.
    """

    records: int
    batch_size: int
    shuffle: Shuffle = "full"
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "pad"

    def __post_init__(self) -> None:
        for name in ("records", "batch_size", "seed", "rank", "world_size"):
            try:  # NumPy's integers become Python's, which JSON can hold
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            except TypeError:
                raise TypeError(f"{name}={getattr(self, name)!r}: must be an integer") from None
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1")
        _require(self.world_size >= 1, "world_size", self.world_size, "must be at least 1")
        in_range = 0 <= self.rank < self.world_size
        _require(in_range, "rank", self.rank, f"must be in 0..{self.world_size - 1}")
        divides = self.batch_size % self.world_size == 0
        advice = f"world_size {self.world_size} does not divide it; it counts the records of all ranks"
        _require(divides, "batch_size", self.batch_size, advice)
        for name, choices in (("shuffle", get_args(Shuffle)), ("remainder", get_args(Remainder))):
            value = getattr(self, name)
            _require(value in choices, name, value, f"must be one of {', '.join(choices)}")

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

    def batch(self, epoch: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The records of this rank's batch, and their weights: 1, or 0 for padding.

        Returns:
            int64 `[n]` and float32 `[n]`, where n is `batch_size / world_size` but for a kept remainder.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is not in 0..{self.steps - 1}")
        first = step * self.batch_size + self.rank
        positions = np.arange(first, (step + 1) * self.batch_size, self.world_size, dtype=np.int64)
        if self.remainder == "keep":
            positions = positions[positions < self.records]
        weights = (positions < self.records).astype(np.float32)
        positions %= self.records
        if self.shuffle == "full":
            return permute(positions, self.records, self.seed, epoch), weights
        return positions, weights


def permute(positions: NDArray[np.int64], size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Map positions in 0..size-1 to their places in a permutation that (size, seed, epoch) decides."""
    bits = max(1, (size - 1).bit_length())
    keys = _keys(seed, epoch)
    values = _feistel(positions.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], bits, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def _feistel(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One pass over all rounds. The halves differ by a bit when `bits` is odd: rounds alternate."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = values & low_mask, values >> low_bits
    for number, key in enumerate(keys):
        if number % 2:
            low = low ^ (_mix(high + key) & low_mask)
        else:
            high = high ^ (_mix(low + key) & high_mask)
    return (high << low_bits) | low


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _require(holds: bool, name: str, value: Any, message: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r}: {message}")
