"""Orders of records: position in an epoch -> record, as arithmetic, with no array of all records.

A shuffle is a keyed permutation of 0..n-1: a Feistel network (Luby and Rackoff, 1988) over the
smallest power of two that holds n, walked along its cycles until it lands below n (Black and
Rogaway, 2002, "Ciphers with Arbitrary Finite Domains"). It is a pure function of (n, seed, epoch). Up to 16 values
are sorted by a hash.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, require
from shard_reader.order.record_order import OrderOptions, PaddedAtEnd, RecordOrder

__all__ = [
    "FullShuffle",
    "MixedOrder",
    "StoredOrder",
    "WindowShuffle",
    "key",
    "mix64",
    "permute",
    "permute_each",
    "shuffled",
]

_Function = Callable[[NDArray[Any]], NDArray[Any]]

_ROUNDS = 6
_TABLE_BITS = 32  # up to so many bits, a table of a round has at most 65,536 values
# Drawn at random between 2**31 and 2**32.
_PRIMES = np.fromstring(
    """
    2417999053 4248954371 3397708547 2937193813 2289099101 2789797433 3329505089 3587459383 2879697281 2262145513
    2448149833 4020384233 3687466943 2843071097 3617704817 2806386467 2154030127 3105681479 3943753019 2210745457
    4093010137 2227259779 2322131087 4017686873 3760582831 2185696351 3928699393 2511136673 2568719071 3392254531
    4116331201 3771118573 3015029711 3514397521 2321996879 2837642201 3391581659 2235452227 3448020677 3942204641
    4118368283 2583339119 3794234557 3831224183 2319199343 3631159073 3718593337 2756885561 3586354237 3960770503
    3407247589 2944020559 2943687647 2544995951 3460042541 2724815399 2739384911 4054370759 4011580679 4068587689
    2949888499 2990133323 4034142677 2361344077
    """,
    np.int64,
    sep=" ",
)
_SORTED = 16  # up to so many values are sorted by a hash: a network over a few bits prefers some permutations


@dataclass(frozen=True, slots=True)
class StoredOrder(PaddedAtEnd):
    """The order in which records are stored, in every epoch."""

    records: int
    lanes = block = 0

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        del epoch
        return positions % self.records

    def identity(self) -> Mapping[str, Any]:
        return {"shuffle": "none"}


@dataclass(frozen=True, slots=True)
class FullShuffle(PaddedAtEnd):
    """A new permutation of all records in each epoch."""

    records: int
    seed: int
    lanes = 0

    @property
    def block(self) -> int:
        return self.records

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return permute(positions % self.records, self.records, self.seed, epoch)

    def identity(self) -> Mapping[str, Any]:
        return {"shuffle": "full"}


class WindowShuffle(PaddedAtEnd):
    """Shards in random order, and records permuted inside windows of a few shards: for remote storage.

    ```
    shards, shuffled  |  7  | 2 |   5   |   0   | 3 |  ...      as one row of all records
    lanes             |     lane 0      |      lane 1     |     equal cuts of it; lane l has p % lanes == l
    windows           | w0  | w1  | w2  | w0  | w1  | w2  |     equal cuts of a lane, each permuted by itself
    ```

    A rank that takes every `world_size`-th position, where `world_size` divides `lanes`, uses only the shards of its
    own lanes, one after the other. All ranks together need `lanes * (window + 1)` shards at a time.

    Args:
        shard_records: the number of records in each shard; it may be 0.
        lanes: number of cuts that are read side by side.
        window: the length of a window, in shards of the largest size.
        by_mean: `window` counts shards of the mean size instead, without those of size 0. For some records of each
            shard: one shard with most of them would otherwise make a window of all shards.

    Raises:
        TypeError: `lanes` or `window` is not an integer.
        ValueError: `lanes` or `window` is out of range.
    """

    def __init__(
        self, shard_records: Sequence[int], *, seed: int, lanes: int, window: int, by_mean: bool = False
    ) -> None:
        for name, value in (("lanes", lanes), ("window", window)):
            require(1 <= as_integer(name, value) < 1 << 31, name, value, "must be at least 1, and below 2**31")
        self._sizes = np.asarray(shard_records, np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self.records = int(self._sizes.sum())
        self.seed, self.lanes, self.window = seed, int(lanes), int(window)
        # Windows have a length in records, not in shards, so that the window of a position is a division.
        mean = -(-self.records // max(1, int(np.count_nonzero(self._sizes))))
        self._length = max(1, window * (mean if by_mean else int(self._sizes.max(initial=0))))
        self.block = self._length * self.lanes

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        lanes = positions % self.lanes
        short, longer = divmod(self.records, self.lanes)
        sizes = short + (lanes < longer)
        begins = lanes * short + np.minimum(lanes, longer)
        # Padding comes from the rank's own lane, whose shards are there already; from anywhere if the lane is empty.
        places = positions // self.lanes % np.maximum(sizes, 1)
        places = np.where(sizes > 0, begins + self._permuted(epoch, lanes, places, sizes), positions % self.records)
        return self._stored(epoch, places)

    def identity(self) -> Mapping[str, Any]:
        return {"shuffle": "window", "lanes": self.lanes, "window": self.window}

    def _permuted(
        self, epoch: int, lanes: NDArray[np.int64], places: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Places in a lane after the permutations of its windows."""
        windows = places // self._length
        result = np.empty_like(places)
        for lane, window, these in _groups(lanes, windows):
            begin = window * self._length
            size = max(1, min(self._length, int(sizes[these[0]]) - begin))
            result[these] = begin + permute(places[these] - begin, size, self.seed, epoch, f"{lane}/{window}")
        return result

    def _stored(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Records from places in the row of shuffled shards."""
        shards = permute(np.arange(len(self._sizes)), len(self._sizes), self.seed, epoch, "shards")
        ends = np.cumsum(self._sizes[shards])
        numbers = np.searchsorted(ends, places, "right")
        found = shards[numbers]
        stored: NDArray[np.int64] = self._starts[found] + places - (ends[numbers] - self._sizes[found])
        return stored


class MixedOrder(PaddedAtEnd):
    """Records of several sources, each with its part of every block of positions.

    Record numbers go through the sources one after the other. A source that is exhausted begins again, in the order
    of its own next epoch. Positions continue over epochs: the next epoch begins with the records that had no room.

    Args:
        sources: the order of each source.
        counts: the number of positions of each source in every `sum(counts)` positions.
        sizes: the number of records of each source; its epochs may have more positions, or fewer.
        records: the number of positions in an epoch.
    """

    lanes = 0

    def __init__(
        self, sources: Sequence[RecordOrder], counts: Sequence[int], sizes: Sequence[int], *, records: int, seed: int
    ) -> None:
        self._sources, self.records, self._seed = tuple(sources), records, seed
        self._counts = np.asarray(counts, np.int64)
        self._ends = np.cumsum(self._counts)
        self._bases = np.cumsum([0, *sizes])
        self.block = records

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        size = int(self._ends[-1])
        blocks, places = np.divmod(epoch * self.records + positions % self.records, size)
        numbers, turns = np.empty_like(places), np.empty_like(places)
        for block, _, these in _groups(blocks, np.zeros_like(blocks)):
            of_block, turn_of_block = self._block(block)
            numbers[these], turns[these] = of_block[places[these]], turn_of_block[places[these]]
        records = np.empty_like(places)
        for number, source in enumerate(self._sources):
            mine = np.flatnonzero(numbers == number)
            epochs, own = np.divmod(turns[mine], max(1, source.records))
            for own_epoch, _, these in _groups(epochs, np.zeros_like(epochs)):
                records[mine[these]] = self._bases[number] + source.at(own_epoch, own[these])
        return records

    def _block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each place in a block its source, and the number of records that the source gave before it."""
        # Since each block has the exact part of every source, the blocks before are a product, without a look at them.
        size = int(self._ends[-1])
        numbers = np.searchsorted(self._ends, permute(np.arange(size), size, self._seed, block, "mixture"), "right")
        turns = np.empty(size, np.int64)
        turns[np.argsort(numbers, kind="stable")] = np.arange(size)  # by source, then by place
        return numbers, turns - (self._ends - self._counts)[numbers] + block * self._counts[numbers]

    def identity(self) -> Mapping[str, Any]:
        return {
            "shuffle": "mixture",
            "records": self.records,
            "counts": self._counts.tolist(),
            "sources": [dict(source.identity()) for source in self._sources],
        }


def shuffled(
    records: int, options: OrderOptions, shard_records: Callable[[], NDArray[np.int64]], *, by_mean: bool = False
) -> StoredOrder | FullShuffle | WindowShuffle:
    """The order of all records, each once.

    Args:
        records: the number of records.
        options: the options of the stream.
        shard_records: gives the number of records of each shard, int64 `[shards]`, for a window shuffle.
        by_mean: the lengths of its windows are in shards of the mean size.
    """
    if options.shuffle == "none":
        return StoredOrder(records)
    if options.shuffle == "full":
        return FullShuffle(records, options.seed)
    sizes, seed, lanes, window = shard_records().tolist(), options.seed, options.lanes, options.window
    return WindowShuffle(sizes, seed=seed, lanes=lanes, window=window, by_mean=by_mean)


def permute(
    positions: NDArray[np.int64], size: int, seed: int, epoch: int, purpose: str | None = None
) -> NDArray[np.int64]:
    """Map positions in 0..size-1 to their places in a permutation that (size, seed, epoch, purpose) decide."""
    if size <= _SORTED:
        keys = _keys(seed, epoch, purpose)
        return np.argsort(mix64(mix64(np.arange(size, dtype=np.uint64) + keys[0]) + keys[1]))[positions]
    bits = (size - 1).bit_length()
    if bits > _TABLE_BITS:
        network = functools.partial(_feistel, bits=bits, functions=_functions(bits, _keys(seed, epoch, purpose)))
        values = network(positions.astype(np.uint64))
    else:
        network = functools.partial(_feistel, bits=bits, functions=_tables(bits, seed, epoch, purpose))
        values = network(positions.astype(np.uint32))
    # Less than half of the network's range is outside, so that few values take more than a few rounds of this loop.
    outside = np.flatnonzero(values >= size)
    while len(outside):
        found = network(values[outside])
        values[outside] = found
        outside = outside[found >= size]
    return values.astype(np.int64)


def permute_each(values: NDArray[np.int64], sizes: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Map each value to its place in a permutation of its own size, below 2**31, by its own key. All are `[n]`.

    It multiplies by a prime larger than the size, which is therefore coprime to it, and adds a number. That is cheap,
    and for many small permutations at a time. Neighbours stay at one distance: `permute` shuffles better.
    """
    primes = _PRIMES[(keys >> np.uint64(58)).astype(np.intp)]
    found: NDArray[np.int64] = (values * (primes % sizes) + (keys >> np.uint64(33)).astype(np.int64)) % sizes
    return found


def key(seed: int, epoch: int, purpose: str) -> int:
    """64 bits that (seed, epoch, purpose) decide."""
    return int.from_bytes(_digest(seed, epoch, purpose, 8), "little")


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    # In place, since fresh memory costs more than the arithmetic.
    mixed = values >> np.uint64(30)
    mixed ^= values
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    shifted = mixed >> np.uint64(27)
    mixed ^= shifted
    mixed *= np.uint64(0x94D049BB133111EB)
    np.right_shift(mixed, np.uint64(31), out=shifted)
    mixed ^= shifted
    return mixed


def _digest(seed: int, epoch: int, purpose: str | None, size: int) -> bytes:
    text = f"{seed}/{epoch}" if purpose is None else f"{seed}/{epoch}/{purpose}"
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _keys(seed: int, epoch: int, purpose: str | None) -> NDArray[np.uint64]:
    """The key of each round."""
    return np.frombuffer(_digest(seed, epoch, purpose, 8 * _ROUNDS), "<u8").astype(np.uint64)


def _functions(bits: int, keys: NDArray[np.uint64]) -> tuple[_Function, ...]:
    """The function of each round, from one half of a value to a mask of the other one."""
    masks = [np.uint64((1 << half) - 1) for half in (bits // 2, bits - bits // 2)]
    return tuple(functools.partial(_masked, key, masks[number % 2 == 0]) for number, key in enumerate(keys))


def _masked(key: np.uint64, mask: np.uint64, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = mix64(values + key)
    mixed &= mask
    return mixed


@functools.lru_cache(maxsize=32)  # of a window shuffle, each lane needs those of its window
def _tables(bits: int, seed: int, epoch: int, purpose: str | None) -> tuple[_Function, ...]:
    """The functions of `_functions` as tables: a half has so few bits that every value of it can be listed."""
    halves = [np.arange(1 << half, dtype=np.uint64) for half in (bits // 2, bits - bits // 2)]
    functions = _functions(bits, _keys(seed, epoch, purpose))
    tables = [function(halves[number % 2]).astype(np.uint32) for number, function in enumerate(functions)]
    return tuple(table.take for table in tables)


def _feistel(values: NDArray[Any], *, bits: int, functions: Sequence[_Function]) -> NDArray[Any]:
    """One pass over all rounds. The halves differ by a bit when `bits` is odd: rounds alternate."""
    low_bits, low_mask = values.dtype.type(bits // 2), values.dtype.type((1 << (bits // 2)) - 1)
    low, high = values & low_mask, values >> low_bits
    for number, function in enumerate(functions):
        source, target = (high, low) if number % 2 else (low, high)
        target ^= function(source)
    high <<= low_bits
    high |= low
    result: NDArray[Any] = high
    return result


def _groups(one: NDArray[np.int64], other: NDArray[np.int64]) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
    """Each pair of values that occurs, and its places. Both arrays are int64 `[n]`."""
    order = np.lexsort((other, one))
    changes = np.flatnonzero((np.diff(one[order]) != 0) | (np.diff(other[order]) != 0)) + 1
    for these in np.split(order, changes):
        if len(these):
            yield int(one[these[0]]), int(other[these[0]]), these
