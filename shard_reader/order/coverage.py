"""The records that were seen, as numbers that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.order.shuffle import mix64
from shard_reader.printable import excerpt

__all__ = ["Coverage", "hash_sums"]

_BLOCK = 1 << 16
_STEP = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment; with it, no record's hash is 0


@dataclass(frozen=True, slots=True)
class Coverage:
    """The records that were seen in an epoch. Coverages of ranks add up to that of the whole.

    Attributes:
        records: number of records, without padding.
        hash_sum: the sum of a 64-bit hash of each record's number, modulo 2**64. A missing or repeated record
            changes it.
        skipped: number of damaged records among them, which had weight 0.

    Examples:
        >>> Coverage.of(np.arange(5)) + Coverage.of(np.arange(5, 9)) == Coverage.of(np.arange(9))
        True
    """

    # A sum needs neither an order nor memory for the numbers: it can be kept for a billion records, added over ranks,
    # and subtracted when a position moves back.
    records: int = 0
    hash_sum: int = 0
    skipped: int = 0

    @classmethod
    def of(cls, records: NDArray[np.int64]) -> Coverage:
        """The coverage of record numbers, int64 `[n]`."""
        return cls(len(records), int(hash_sums(records, np.ones(len(records), bool), [0])[0]) if len(records) else 0)

    @classmethod
    def of_all(cls, records: int) -> Coverage:
        """The coverage of the records 0 to `records` - 1, each once."""
        blocks = range(0, records, _BLOCK)
        return sum((cls.of(np.arange(start, min(start + _BLOCK, records))) for start in blocks), cls())

    @classmethod
    def of_counts(cls, counts: NDArray[np.int64]) -> Coverage:
        """The coverage of records that come so many times each, int64 `[n]`."""
        total = cls()
        for start in range(0, len(counts), _BLOCK):
            part = counts[start : start + _BLOCK]
            hashes = _hashes(np.arange(start, start + len(part)))
            total += cls(int(part.sum()), int((hashes * part.astype(np.uint64)).sum()))
        return total

    @classmethod
    def from_json(cls, raw: Any) -> Coverage:
        """The coverage from a value of `to_json`.

        Raises:
            ValueError: the value is not a coverage.
        """
        if not isinstance(raw, Mapping) or not all(_is_count(raw.get(name)) for name in cls.__slots__):
            raise ValueError(f"{excerpt(raw)} is no coverage: it has {', '.join(cls.__slots__)}, of at most 64 bits")
        return cls(**{name: raw[name] for name in cls.__slots__})

    def to_json(self) -> dict[str, int]:
        """The three integers, by name."""
        return asdict(self)

    def covers(self, other: Coverage) -> bool:
        """Whether the same records were seen, skipped or not."""
        return (self.records, self.hash_sum) == (other.records, other.hash_sum)

    def __add__(self, other: Coverage) -> Coverage:
        sums = (self.hash_sum + other.hash_sum) % (1 << 64)
        return Coverage(self.records + other.records, sums, self.skipped + other.skipped)

    def __sub__(self, other: Coverage) -> Coverage:
        sums = (self.hash_sum - other.hash_sum) % (1 << 64)
        return Coverage(self.records - other.records, sums, self.skipped - other.skipped)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 64


def hash_sums(
    records: NDArray[np.int64], counted: NDArray[np.bool_], starts: NDArray[np.intp] | list[int]
) -> NDArray[np.uint64]:
    """The sum of the hashes of the counted records, for each run that begins at one of `starts`."""
    sums: NDArray[np.uint64] = np.add.reduceat(_hashes(records) * counted, starts)
    return sums


def _hashes(records: NDArray[np.int64]) -> NDArray[np.uint64]:
    return mix64((records.astype(np.uint64) + np.uint64(1)) * _STEP)
