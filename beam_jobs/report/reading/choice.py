"""The choice of records: a hash of their places, and the records with the lowest keys, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field

__all__ = ["Lowest", "LowestOfEach", "Place", "is_number", "mixed"]

_KEPT = np.dtype([("key", "<f8"), ("mixed", "<u8"), ("split", "<i4"), ("number", "<i8")])
_NEVER = np.uint64(2**64 - 1)


class Place(NamedTuple):
    """The place of a record: the number of its split in the manifest, and its number in the split."""

    split: int
    number: int


def mixed(split: int, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of each record's place, uint64 `[n]`: the seed of every choice.

    The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    values = numbers.astype(np.uint64) + np.uint64((split + 1) << 48)
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def is_number(fields: Mapping[str, Field], name: str) -> bool:
    """Whether the index has a column of whole numbers for a field: a dataset of others may have any field."""
    return name in fields and fields[name].dtype == "int64" and fields[name].shape == ()


class Lowest:
    """The records with the lowest keys, of all that are shown to it; equal keys are ordered by `mixed`.

    Args:
        most: the number of records to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = np.empty(0, _KEPT)

    def add(self, keys: NDArray[np.float64], split: int, numbers: NDArray[np.int64]) -> None:
        """Show records, with their keys `[n]`. A record whose key is not a finite number is never kept."""
        worst = self._kept["key"][-1] if len(self._kept) == self._most else np.inf
        some = np.flatnonzero(np.isfinite(keys) & (keys <= worst))
        found = np.empty(len(some), _KEPT)
        found["key"], found["split"], found["number"] = keys[some], split, numbers[some]
        found["mixed"] = mixed(split, numbers[some])
        every = np.concatenate([self._kept, found])
        self._kept = every[np.lexsort((every["mixed"], every["key"]))[: self._most]]

    def places(self) -> list[Place]:
        """The records, in order of their keys."""
        return [Place(*pair) for pair in self._kept[["split", "number"]].tolist()]


class LowestOfEach:
    """For each of several labels, the records with the lowest hashes of their places.

    Args:
        labels: the labels.
        most: the number of records to keep of each.
    """

    def __init__(self, labels: NDArray[np.int64], most: int) -> None:
        self._labels = np.sort(labels)
        self._most = most
        self._worst = np.full(len(labels), _NEVER)
        self._kept: list[list[tuple[int, Place]]] = [[] for _ in labels]

    def add(self, labels: NDArray[np.int64], split: int, numbers: NDArray[np.int64]) -> None:
        """Show records, with their labels `[n]`."""
        if not len(self._labels):
            return
        which = np.searchsorted(self._labels, labels).clip(max=len(self._labels) - 1)
        hashes = mixed(split, numbers)
        some = np.flatnonzero((self._labels[which] == labels) & (hashes < self._worst[which]))
        for row in self._first(which[some], hashes[some], some):
            kept = self._kept[which[row]]
            kept.append((int(hashes[row]), Place(split, int(numbers[row]))))
            kept.sort()
            del kept[self._most :]
            if len(kept) == self._most:
                self._worst[which[row]] = kept[-1][0]

    def _first(self, which: NDArray[np.int64], hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> Iterator[int]:
        """The rows with the lowest hashes of each label: without them, the first block would sort every record."""
        order = np.lexsort((hashes, which))
        ordered = which[order]
        starts = np.searchsorted(ordered, ordered)
        rank = np.arange(len(order)) - starts
        yield from rows[order[rank < self._most]].tolist()

    def places(self) -> dict[int, list[Place]]:
        """The records of each label."""
        return {
            label: [place for _, place in kept] for label, kept in zip(self._labels.tolist(), self._kept, strict=True)
        }
