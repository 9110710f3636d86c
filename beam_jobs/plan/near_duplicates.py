"""Images that look alike: groups of perceptual hashes that differ in few bits.

Of 64 bits in three bands, two hashes that differ in at most t bits differ in one band in at most t // 3 (Norouzi and
others, "Fast exact search in Hamming space with multi-index hashing", 2014). So each hash is compared with those whose
band is as near as that. A group is a connected component of the pairs that are found.
"""

# Hashes, their order by a band, and the components are files in a folder, mapped into memory: the kernel keeps of them
# as much as it has room for. All other arrays are of one block of rows.

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.external_sort import find_equal_hashes

__all__ = ["MOST_DISTANCE", "NEAR_DISTANCE", "NearDuplicates", "distance", "find_near_duplicates"]

NEAR_DISTANCE: Final = 8
"""The most bits of `phash` that differ between near-duplicates, unless the user says otherwise."""
MOST_DISTANCE: Final = 11

_MORE_IN_DHASH = 4  # bits by which `dhash`, which is less stable, may differ more
_BANDS: Final = ((0, 21), (21, 21), (42, 22))  # first bit and number of bits
_ROW: Final = np.dtype([("phash", "<u8"), ("dhash", "<u8"), ("place", "<u8")])
_BLOCK = 1 << 18  # rows
_PAIRS = 1 << 21  # pairs compared at a time
_CROWD = 2048  # the most hashes with one band that a hash is compared with
_Rows = np.ndarray[Any, np.dtype[np.void]]
_Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """The members of all groups of two and more, sorted by group and place, and the first place of each one's group.

    `crowded` is the number of comparisons left out, between hashes of which too many are alike.
    """

    places: _Numbers
    firsts: _Numbers
    crowded: int = 0

    def since(self, place: int) -> NearDuplicates:
        """The groups with a member at a place or after it."""
        kept = np.isin(self.firsts, self.firsts[self.places >= place])
        return NearDuplicates(self.places[kept], self.firsts[kept], self.crowded)

    def groups(self) -> Iterator[_Numbers]:
        """The places of each group, in rising order."""
        starts = np.flatnonzero(np.diff(self.firsts, prepend=-1)).tolist()
        return (self.places[start:end] for start, end in pairwise([*starts, len(self.places)]))


def distance(one: int, other: int) -> int:
    """The number of bits that differ between two hashes, given as signed or unsigned integers."""
    return ((one ^ other) & (1 << 64) - 1).bit_count()


def find_near_duplicates(blocks: Iterable[NDArray[np.uint64]], most: int, directory: Path) -> NearDuplicates:
    """Find the groups of images that look alike.

    Args:
        blocks: blocks of `phash` and `dhash`, uint64 `[n, 2]`, in the order of their places. A `phash` of 0 is missing.
        most: the most bits in which the `phash` of two of them differ, at most `MOST_DISTANCE`. Their `dhash` may
            differ in four more.
        directory: a folder in which a temporary folder is made.
    """
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        hashes = _stored(blocks, Path(folder) / "hashes")
        components = _Components(Path(folder) / "components", len(hashes))
        equal = find_equal_hashes(_blocks_of(hashes), Path(folder))
        components.join(equal.firsts.astype(np.int64), equal.places.astype(np.int64))
        search = _Search(_different(hashes, equal.places, Path(folder) / "different"), Path(folder) / "sorted", most)
        for pairs in search.pairs():
            components.join(*pairs)
        return NearDuplicates(*components.members(), search.crowded)


def _stored(blocks: Iterable[NDArray[np.uint64]], path: Path) -> NDArray[np.uint64]:
    with open(path, "wb") as file:
        for block in blocks:
            # A missing `phash` makes the whole hash zeros, which count as missing everywhere below.
            file.write(np.where(block[:, :1], block, 0).astype("<u8").tobytes())
    return _mapped(path, np.dtype("<u8")).reshape(-1, 2)


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file as an array that can be written to."""
    return np.memmap(path, dtype, "r+") if path.stat().st_size else np.empty(0, dtype)


def _blocks_of(hashes: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    return (hashes[start : start + _BLOCK] for start in range(0, len(hashes), _BLOCK))


def _different(hashes: NDArray[np.uint64], repeated: NDArray[np.uint64], path: Path) -> _Rows:
    """A row for each hash with its first place."""
    with open(path, "wb") as file:
        for start in range(0, len(hashes), _BLOCK):
            block = hashes[start : start + _BLOCK]
            rows = np.empty(len(block), _ROW)
            rows["phash"], rows["dhash"] = block[:, 0], block[:, 1]
            rows["place"] = np.arange(start, start + len(block))
            first, last = np.searchsorted(repeated, (start, start + len(block)))
            kept = block[:, 0] != 0
            kept[repeated[first:last].astype(np.int64) - start] = False
            file.write(rows[kept].tobytes())
    return _mapped(path, _ROW)


class _Search:
    """The pairs of rows that are near, each found once or several times.

    Args:
        rows: the rows, in any order.
        path: a file for the rows in the order of a band.
        most: the most bits in which `phash` differs.
    """

    def __init__(self, rows: _Rows, path: Path, most: int) -> None:
        self._rows, self._most = rows, most
        path.write_bytes(b"")
        with open(path, "r+b") as file:
            file.truncate(rows.nbytes)
        self._sorted = _mapped(path, _ROW)
        self._starts: _Numbers = np.empty(0, np.int64)  # of each value of the band
        self.crowded = 0

    def pairs(self) -> Iterator[tuple[_Numbers, _Numbers]]:
        """Places of pairs that are near, `[n]` and `[n]`."""
        for first, bits in _BANDS:
            self._sort(first, bits)
            for mask in _masks(bits, self._most // len(_BANDS)):
                for start in range(0, len(self._rows), _BLOCK):
                    yield from self._near(start, mask, first, bits)

    def _sort(self, first: int, bits: int) -> None:
        """Sort the rows by a band, of which each value is counted."""
        counts = np.zeros((1 << bits) + 1, np.int64)
        for block in self._blocks():
            counts[1:] += np.bincount(_band(block, first, bits), minlength=1 << bits)
        self._starts = np.cumsum(counts)
        ends = self._starts[:-1].copy()  # of the rows that have their place already
        for block in self._blocks():
            values = _band(block, first, bits)
            order = np.argsort(values, kind="stable")
            values = values[order]
            is_new = np.diff(values, prepend=-1) != 0
            runs = np.flatnonzero(is_new)
            ranks = np.arange(len(values)) - runs[np.cumsum(is_new) - 1]
            self._sorted[ends[values] + ranks] = block[order]
            ends[values[runs]] += np.diff(runs, append=len(values))

    def _blocks(self) -> Iterator[_Rows]:
        return (self._rows[start : start + _BLOCK] for start in range(0, len(self._rows), _BLOCK))

    def _near(self, start: int, mask: int, first: int, bits: int) -> Iterator[tuple[_Numbers, _Numbers]]:
        """The near pairs of a block with the rows whose band differs in the bits of a mask."""
        block = self._sorted[start : start + _BLOCK]
        others = _band(block, first, bits) ^ mask
        places = np.arange(start, start + len(block))
        # Each pair once: of two values of a band the lower one looks for the higher, and a row for those after it.
        starts = np.maximum(self._starts[others], places + 1) if mask == 0 else self._starts[others]
        counts = self._starts[others + 1] - starts
        if mask:
            counts[others & (1 << mask.bit_length() - 1) == 0] = 0
        self.crowded += int((counts - _CROWD).clip(0).sum())
        counts = counts.clip(0, _CROWD)
        ends = np.cumsum(counts)
        cuts = np.searchsorted(ends, np.arange(_PAIRS, int(ends[-1]) + _PAIRS, _PAIRS), "right").tolist()
        for low, high in pairwise([0, *(min(cut + 1, len(ends)) for cut in cuts)]):
            yield self._compared(block[low:high], starts[low:high], counts[low:high])

    def _compared(self, block: _Rows, starts: _Numbers, counts: _Numbers) -> tuple[_Numbers, _Numbers]:
        """The near pairs among each row and the rows from its start on."""
        ones = np.repeat(np.arange(len(block)), counts)
        others = np.arange(len(ones)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        near = np.bitwise_count(block["phash"][ones] ^ self._sorted["phash"][others]) <= self._most
        ones, others = ones[near], others[near]
        near = np.bitwise_count(block["dhash"][ones] ^ self._sorted["dhash"][others]) <= self._most + _MORE_IN_DHASH
        pair = block["place"][ones[near]], self._sorted["place"][others[near]]
        return pair[0].astype(np.int64), pair[1].astype(np.int64)


def _band(rows: _Rows, first: int, bits: int) -> _Numbers:
    return (rows["phash"] >> np.uint64(first) & np.uint64((1 << bits) - 1)).astype(np.int64)


def _masks(bits: int, most: int) -> list[int]:
    """All numbers of some bits of which at most `most` are set."""
    return [sum(1 << bit for bit in chosen) for count in range(most + 1) for chosen in combinations(range(bits), count)]


class _Components:
    """The connected components of places, each known by its lowest place."""

    def __init__(self, path: Path, count: int) -> None:
        with open(path, "wb") as file:
            for start in range(0, count, _BLOCK):
                file.write(np.arange(start, min(count, start + _BLOCK), dtype="<i8").tobytes())
        self._parents: _Numbers = _mapped(path, np.dtype("<i8"))

    def join(self, ones: _Numbers, others: _Numbers) -> None:
        """Join the components of pairs of places."""
        while len(ones):
            ones, others = self._roots(ones), self._roots(others)
            apart = ones != others
            ones, others = ones[apart], others[apart]
            # Of several parents for one root the lowest counts; the pairs of the others stay, and are joined again.
            np.minimum.at(self._parents, np.maximum(ones, others), np.minimum(ones, others))

    def members(self) -> tuple[_Numbers, _Numbers]:
        """The places of all components of two and more, sorted by component and place, and their components."""
        found = []
        for start in range(0, len(self._parents), _BLOCK):
            places = np.arange(start, min(start + _BLOCK, len(self._parents)))
            roots = self._roots(places)
            found.append(np.stack([roots, places])[:, roots != places])
        later = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
        firsts = np.unique(later[0])
        every = np.concatenate([np.stack([firsts, firsts]), later], axis=1)
        roots, places = every[:, np.lexsort((every[1], every[0]))]
        return places, roots

    def _roots(self, places: _Numbers) -> _Numbers:
        roots = self._parents[places]
        while True:
            further = self._parents[roots]
            if np.array_equal(further, roots):
                self._parents[places] = roots  # a shorter way for the next time
                return roots
            roots = further
