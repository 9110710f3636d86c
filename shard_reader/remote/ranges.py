"""The extents of values in a shard, and the ranges of bytes to fetch for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import Field, extent_columns
from shard_reader.remote.client import PIECE

__all__ = ["Extents", "Range", "ranges", "whole"]

_GAP = 1 << 16  # the most bytes to fetch needlessly rather than make another request


@dataclass(frozen=True, slots=True)
class Extents:
    """The extents of values in the file of a shard.

    Attributes:
        starts, lengths: offset and length of each value, in bytes, int64 `[n]`.
        checksums: the CRC-32C of each value, int64 `[n]`.
        places: the place of each value's record in the lookup, int64 `[n]`.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    checksums: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rows: NDArray[np.void],
        places: NDArray[np.int64],
        names: Iterable[str],
        fields: Mapping[str, Field],
        file_bytes: int,
    ) -> Extents:
        """The extents of some fields in rows of an index, with the place of each row.

        Those from `file_bytes` on, the size of the file, are of values that the index has.
        """
        # `id` may be asked for where records have no ids: it is then made of the file's name and the row.
        stored = [name for name in names if name in fields and not fields[name].in_index]
        columns = [extent_columns(name) for name in stored]

        def values(kind: int) -> NDArray[np.int64]:
            return np.concatenate([np.empty(0, np.int64), *(rows[names[kind]].astype(np.int64) for names in columns)])

        extents = cls(values(0), values(1), values(2), np.tile(places, len(columns)))
        return extents[np.flatnonzero((extents.lengths > 0) & (extents.starts < file_bytes))]

    def __getitem__(self, which: NDArray[np.intp] | slice) -> Extents:
        return Extents(self.starts[which], self.lengths[which], self.checksums[which], self.places[which])


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a file, from `start` to `end`, and the values in them."""

    start: int
    end: int
    extents: Extents

    def is_sound(self, data: bytes | memoryview | NDArray[np.uint8]) -> bool:
        """Whether every value in the bytes of this range has its checksum."""
        view = np.frombuffer(data, np.uint8)
        extents = self.extents
        starts = (extents.starts - self.start).tolist()
        values = zip(starts, extents.lengths.tolist(), extents.checksums.tolist(), strict=True)
        return all(crc32c(view[start : start + length]) == checksum for start, length, checksum in values)


def whole(extents: Extents, size: int) -> Iterator[Range]:
    """Ranges that make up a file of `size` bytes: as `ranges`, with no byte left out."""
    found = list(ranges(extents, gap=size)) or [Range(0, size, extents)]
    bounds = [0, *(one.start for one in found[1:]), size]
    for one, (start, end) in zip(found, itertools.pairwise(bounds), strict=True):
        yield Range(start, end, one.extents)


def ranges(extents: Extents, gap: int = _GAP) -> Iterator[Range]:
    """Ranges that hold every value: few requests, each of some megabytes at most, or of one value.

    Args:
        gap: the most bytes to fetch needlessly rather than make another request.
    """
    extents = extents[np.argsort(extents.starts, kind="stable")]
    # A running maximum, since a value may end before an earlier one does.
    ends = np.maximum.accumulate(extents.starts + extents.lengths)
    is_separate = extents.starts[1:] > ends[:-1] + gap
    # Long runs are cut where a value begins in the next piece of the file: each request has some megabytes at most.
    is_separate |= (np.diff(extents.starts // PIECE) > 0) & (extents.starts[1:] >= ends[:-1])
    bounds = [0, *(np.flatnonzero(is_separate) + 1).tolist(), len(ends)]
    for first, stop in itertools.pairwise(bounds):
        if first < stop:
            yield Range(int(extents.starts[first]), int(ends[stop - 1]), extents[first:stop])
