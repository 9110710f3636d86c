"""Sorting more records than memory holds: into buckets by how their keys begin, on disk, and one bucket at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["EqualHashes", "Spill", "find_equal_hashes"]

_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])


class Spill:
    """Records in buckets, which lie on disk as far as memory does not hold them.

    Args:
        directory: where the files of buckets go; it exists, and its owner removes it.
        buckets: how many there are.
        memory: how many bytes of records to hold before they go to disk.
    """

    def __init__(self, directory: Path, buckets: int = 1024, memory: int = 1 << 26) -> None:
        self._directory, self._memory = directory, memory
        self._buffers = [bytearray() for _ in range(buckets)]
        self._held = 0

    def add(self, key: bytes, records: bytes) -> None:
        """Add records to the bucket of their key, which is spread evenly: its first two bytes choose the bucket."""
        self._buffers[(key[0] << 8 | key[1]) * len(self._buffers) >> 16] += records
        self._held += len(records)
        if self._held > self._memory:
            self._write()

    def add_line(self, key: bytes, line: bytes) -> None:
        """Add a line, which has no line break and begins with its key in hexadecimal: `lines` gives it back."""
        self.add(key, line + b"\n")

    def buckets(self) -> Iterator[bytes]:
        """The records of each bucket, in the order that they were added in; buckets are in the order of their keys."""
        for number, buffer in enumerate(self._buffers):
            path = self._path(number)
            yield path.read_bytes() + buffer if path.exists() else bytes(buffer)

    def lines(self) -> Iterator[bytes]:
        """Every line, in the order of their bytes."""
        for data in self.buckets():
            lines = data.split(b"\n")
            lines.pop()  # after the last line break
            lines.sort()
            yield from lines

    def _write(self) -> None:
        for number, buffer in enumerate(self._buffers):
            if buffer:
                with open(self._path(number), "ab") as file:  # open for a moment: there are more than may be open
                    file.write(buffer)
                buffer.clear()
        self._held = 0

    def _path(self, number: int) -> Path:
        return self._directory / f"bucket-{number:05d}"


@dataclass(frozen=True, slots=True)
class EqualHashes:
    """Places whose hash is that of an earlier place, rising, and for each the first place of its hash."""

    places: NDArray[np.uint64]
    firsts: NDArray[np.uint64]


def find_equal_hashes(blocks: Iterable[NDArray[np.uint64]], directory: Path) -> EqualHashes:
    """Find equal hashes, in memory of one bucket of them.

    Args:
        blocks: of hashes, `[n, 2]`, in the order of their places. All zero is no hash.
        directory: where a folder for files is made, and removed again.
    """
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        spill, first = Spill(Path(folder)), 0
        for block in blocks:
            _add_hashes(spill, block, first)
            first += len(block)
        found = [_equal_in_bucket(np.frombuffer(data, _ROW)) for data in spill.buckets() if data]
    both = np.concatenate([np.empty((2, 0), np.uint64), *found], axis=1)
    places, firsts = both[:, np.argsort(both[0])]
    return EqualHashes(places, firsts)


def _add_hashes(spill: Spill, block: NDArray[np.uint64], first: int) -> None:
    rows = np.zeros(len(block), _ROW)
    rows["high"], rows["low"] = block[:, 0], block[:, 1]
    rows["place"] = np.arange(first, first + len(block), dtype=np.uint64)
    rows = rows[block.any(1)]  # here already: any number of zeros would be in one bucket
    tops = (rows["high"] >> np.uint64(54)).astype(np.int64)  # 10 bits, for 1,024 buckets
    order = np.argsort(tops, kind="stable")
    rows, tops = rows[order], tops[order]
    starts = np.flatnonzero(np.diff(tops, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(rows)]):
        spill.add(int(tops[start] << 6).to_bytes(2), rows[start:end].tobytes())


def _equal_in_bucket(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """The places of a bucket whose hash is that of an earlier one, and the first of each, `[2, n]`."""
    rows = rows[np.lexsort((rows["place"], rows["low"], rows["high"]))]
    same = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
    is_first = np.concatenate([[True], ~same])
    first_of_run = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    return np.stack([rows["place"][~is_first], rows["place"][first_of_run][~is_first]])
