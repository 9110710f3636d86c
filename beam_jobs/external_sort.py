"""Sorting more records than memory holds: buckets on disk by the first bytes of a key, sorted one at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["HASHED", "EqualHashes", "Spill", "add_hashes", "bucket_key", "find_equal_hashes"]

_TOGETHER = 1 << 16  # hashes that are added together
HASHED = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
"""A hash of 128 bits, and its place, in the buckets of `add_hashes`."""


class Spill:
    """Records in buckets, kept on disk beyond a bound on memory.

    Args:
        directory: folder for the files of buckets. It exists, and its owner removes it.
        buckets: the number of buckets.
        memory: bytes of records to hold before they are written to disk.
    """

    # Keys are hashes, and so buckets are of about the same size: 1,024 buckets sort in a thousandth of the memory that
    # all records would take.

    def __init__(self, directory: Path, buckets: int = 1024, memory: int = 1 << 26) -> None:
        self._directory, self._memory = directory, memory
        self._buffers = [bytearray() for _ in range(buckets)]
        self._held = 0

    def add(self, key: bytes, records: bytes) -> None:
        """Add records to the bucket that the first two bytes of their key choose. Keys must be spread evenly."""
        self._buffers[(key[0] << 8 | key[1]) * len(self._buffers) >> 16] += records
        self._held += len(records)
        if self._held > self._memory:
            self._write()

    def add_line(self, key: bytes, line: bytes) -> None:
        """Add a line for `lines`. It has no line break, and begins with its key in hexadecimal."""
        self.add(key, line + b"\n")

    def buckets(self) -> Iterator[bytes]:
        """The records of each bucket, in the order of adding. The buckets are in the order of their keys."""
        for number, buffer in enumerate(self._buffers):
            path = self._path(number)
            yield path.read_bytes() + buffer if path.exists() else bytes(buffer)

    def lines(self) -> Iterator[bytes]:
        """Every line, in the order of their bytes."""
        for data in self.buckets():
            lines = data.split(b"\n")
            lines.pop()  # empty: the rest after the last line break
            lines.sort()
            yield from lines

    def _write(self) -> None:
        for number, buffer in enumerate(self._buffers):
            if buffer:
                # Opened again for each write: there are as many buckets as a process may often have files open.
                with open(self._path(number), "ab") as file:
                    file.write(buffer)
                buffer.clear()
        self._held = 0

    def _path(self, number: int) -> Path:
        return self._directory / f"bucket-{number:05d}"


@dataclass(frozen=True, slots=True)
class EqualHashes:
    """The places whose hash occurs at an earlier place, in rising order, and the first place of each such hash."""

    places: NDArray[np.uint64]
    firsts: NDArray[np.uint64]


def find_equal_hashes(blocks: Iterable[NDArray[np.uint64]], directory: Path) -> EqualHashes:
    """Find equal hashes, in memory of one bucket of them.

    Args:
        blocks: blocks of hashes, uint64 `[n, 2]`, in the order of their places. Zeros stand for a missing hash.
        directory: folder in which a temporary folder is made.
    """
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        spill, first = Spill(Path(folder)), 0
        for block in _joined(blocks):
            add_hashes(spill, block, first)
            first += len(block)
        found = [_equal_in_bucket(np.frombuffer(data, HASHED)) for data in spill.buckets() if data]
    both = np.concatenate([np.empty((2, 0), np.uint64), *found], axis=1)
    places, firsts = both[:, np.argsort(both[0])]
    return EqualHashes(places, firsts)


def _joined(blocks: Iterable[NDArray[np.uint64]]) -> Iterator[NDArray[np.uint64]]:
    """The same hashes in blocks that are not small: a shard may have a few, of very many shards."""
    waiting, held = list[NDArray[np.uint64]](), 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held >= _TOGETHER:
            yield np.concatenate(waiting)
            waiting, held = [], 0
    if waiting:
        yield np.concatenate(waiting)


def bucket_key(high: int) -> bytes:
    """The key of the bucket into which `add_hashes` puts a hash, from its first number."""
    return (high >> 54 << 6).to_bytes(2)


def add_hashes(spill: Spill, block: NDArray[np.uint64], first: int) -> None:
    """Add hashes, uint64 `[n, 2]`, to 1,024 buckets, with their places from `first` on. Zeros are left out."""
    rows = np.zeros(len(block), HASHED)
    rows["high"], rows["low"] = block[:, 0], block[:, 1]
    rows["place"] = np.arange(first, first + len(block), dtype=np.uint64)
    # Missing hashes go first: all of them would be in one bucket, of any size.
    rows = rows[block.any(1)]
    tops = (rows["high"] >> np.uint64(54)).astype(np.int64)  # 10 bits, for 1,024 buckets
    order = np.argsort(tops, kind="stable")
    rows, tops = rows[order], tops[order]
    starts = np.flatnonzero(np.diff(tops, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(rows)]):
        spill.add(int(tops[start] << 6).to_bytes(2), rows[start:end].tobytes())


def _equal_in_bucket(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """The places of a bucket whose hash occurs earlier, and the first place of each such hash, `[2, n]`."""
    rows = rows[np.lexsort((rows["place"], rows["low"], rows["high"]))]
    same = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
    is_first = np.concatenate([[True], ~same])
    first_of_run = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    return np.stack([rows["place"][~is_first], rows["place"][first_of_run][~is_first]])
