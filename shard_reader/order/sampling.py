"""Epochs in which some records come several times and others not at all, with exact counts.

A sampling puts the positions of an epoch on a line, and says which record is at each place of it. The line does not
depend on a seed: the records of an epoch, and the number of times that each comes, follow from the number of the epoch.
An order then shuffles the line.

```
class       |   0 (n = 2)   | 1 (n = 5) |     Balanced, counts (4, 3)
epoch 0     | 0 1 | 1 0     | 4 2 6     |     a class goes through permutations of its records, one after the other,
epoch 1     | 1 0 | 0 1     | 3 5 | 2   |     and continues in the next epoch
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shard_reader.order.record_order import LastEpochs, OrderOptions, PaddedAtEnd
from shard_reader.order.shuffle import WindowShuffle, key, mix64, permute, permute_each

__all__ = ["Balanced", "SampledOrder", "Sampling", "StratifiedOrder", "Weighted", "largest_remainders"]

_BLOCK = 1 << 18  # places that are counted together
_STEP = 0x9E3779B97F4A7C15  # the golden ratio: its multiples are spread as evenly as those of any number can be
_GRID = 61  # bits of the finest grid on which weights are laid


class Sampling(Protocol):
    """The record at each place of the line of an epoch."""

    @property
    def records(self) -> int:
        """The number of places on the line: of positions in an epoch."""

    def at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The record at each place, int64 `[n]`."""

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """The number of times that each record comes in an epoch, int64 `[n]`."""

    @property
    def digest(self) -> str:
        """The identity of the epochs: 16 hexadecimal digits."""


class Balanced:
    """A fixed number of positions for each class in every epoch.

    Each class goes through all of its records before one comes again, also over epochs.

    Args:
        classes: the number of the class of each record, 0 to `len(counts)` - 1, int64 `[n]`. Every class has a record.
        counts: the positions of each class in an epoch, int64 `[classes]`.
    """

    def __init__(self, classes: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        smallest = np.dtype(np.int32 if len(classes) < 1 << 31 else np.int64)
        self.members = np.argsort(classes, kind="stable").astype(smallest)  # by class, then by number
        self.sizes = np.bincount(classes, minlength=len(counts))
        self.class_counts = counts
        self.records = int(counts.sum())
        self._starts = np.cumsum(self.sizes) - self.sizes

    def at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The record at each place, int64 `[n]`."""
        return self.of_turns(epoch, *self.turns(places, np.arange(len(self.sizes))))

    def turns(
        self, places: NDArray[np.int64], classes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The class at each place, and its turn among the places of the class, both int64 `[n]`.

        Args:
            classes: the order of the classes on the line, a permutation of their numbers.
        """
        counts = self.class_counts[classes]
        ends = np.cumsum(counts)
        which = np.searchsorted(ends, places, "right")
        return classes[which], places - (ends - counts)[which]

    def of_turns(self, epoch: int, classes: NDArray[np.int64], turns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The record of each turn of a class in an epoch, int64 `[n]`."""
        return self._of_all_turns(classes, turns + epoch * self.class_counts[classes])

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """The number of times that each record comes in an epoch, int64 `[n]`."""
        # Whole rounds of a class are a number. Only the turns before and after them, at most two for each record, are
        # looked at, however long the epoch is.
        first, sizes = epoch * self.class_counts, self.sizes
        stop = first + self.class_counts
        begin = np.minimum(-(-first // sizes) * sizes, stop)
        end = np.maximum(stop // sizes * sizes, begin)
        found = np.empty(len(self.members), np.int64)
        found[self.members] = np.repeat((end - begin) // sizes, sizes)
        for start, lengths in ((first, begin - first), (end, stop - end)):
            which = np.repeat(np.arange(len(sizes)), lengths)
            turns = np.arange(len(which)) + np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
            for place in range(0, len(which), _BLOCK):
                part = slice(place, place + _BLOCK)
                np.add.at(found, self._of_all_turns(which[part], turns[part]), 1)
        return found

    @property
    def digest(self) -> str:
        """The identity of the epochs: 16 hexadecimal digits."""
        return _digest(self.members, self.sizes, self.class_counts)

    def _of_all_turns(self, which: NDArray[np.int64], turns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The record of each turn of a class, counted from the first epoch, int64 `[n]`."""
        sizes = self.sizes[which]
        rounds, own = np.divmod(turns, sizes)
        places = self._starts[which] + permute_each(own, sizes, _keys("class", which, rounds))
        found: NDArray[np.int64] = self.members[places].astype(np.int64)
        return found


class Weighted:
    """Each record in proportion to its weight: in an epoch of `records` positions as often as that says, rounded down
    or up, and over many epochs on average exactly.

    This is systematic sampling (Madow, 1949, "On the theory of systematic sampling, II"): the weights lie one after the
    other on a line, and equally spaced points on it name the records. The points of each epoch are shifted by a
    multiple of the golden ratio.

    Args:
        ends: the end of each record on the line, in parts of a distance between two points, int64 `[n]`.
        records: the number of positions in an epoch, below 2**48.
    """

    def __init__(self, ends: NDArray[np.int64], records: int) -> None:
        self.ends, self.records, self._bits = ends, records, _GRID - records.bit_length()

    @classmethod
    def of(cls, weights: NDArray[np.float64], records: int) -> Weighted:
        """The sampling by weights, float64 `[n]`, finite, from 0 on, and not all 0."""
        return cls(_ends(weights, records, _GRID - records.bit_length()), records)

    def at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The record at each place, int64 `[n]`."""
        return _intervals(self.ends, (places << self._bits) + self._shift(epoch))

    def counts(self, epoch: int) -> NDArray[np.int64]:
        """The number of times that each record comes in an epoch, int64 `[n]`."""
        # Of points 0, 1, 2, ... so many are before the end of each record.
        before = (self.ends - self._shift(epoch) + (1 << self._bits) - 1) >> self._bits
        return np.diff(before.clip(0, self.records), prepend=0)

    @property
    def digest(self) -> str:
        """The identity of the epochs: 16 hexadecimal digits."""
        return _digest(self.ends, np.array([self.records]))

    def _shift(self, epoch: int) -> int:
        """The place of the first point, in parts of the distance between two points."""
        return ((epoch + 1) * _STEP & ((1 << 64) - 1)) >> (64 - self._bits)


class SampledOrder(PaddedAtEnd):
    """The line of a sampling, shuffled.

    Args:
        sampling: the records of an epoch.
        options: the options of the stream.
        shard_records: the number of records of each shard, for a window shuffle.
    """

    # In stored order and with windows, each record stands beside its repetitions. That needs the counts of all records,
    # in memory while the epoch lasts.

    def __init__(self, sampling: Sampling, options: OrderOptions, shard_records: NDArray[np.int64] | None) -> None:
        self._sampling, self._options, self.records = sampling, options, sampling.records
        self._shard_ends = None if shard_records is None else np.cumsum(shard_records)
        self._kept: LastEpochs[tuple[NDArray[np.int64], WindowShuffle | None]] = LastEpochs()

    @property
    def lanes(self) -> int:
        """As of the window shuffle; 0 without one."""
        return self._options.lanes if self._options.shuffle == "window" else 0

    @property
    def block(self) -> int:
        """As of the window shuffle of the first epoch; without one as of a shuffle of all, or none."""
        if self._options.shuffle == "window":
            return self._windows(0).block
        return self.records if self._options.shuffle == "full" else 0

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        positions = positions % self.records if self._options.shuffle != "window" else positions
        if self._options.shuffle == "full":
            return self._sampling.at(epoch, permute(positions, self.records, self._options.seed, epoch))
        places = positions if self._options.shuffle == "none" else self._windows(epoch).at(epoch, positions)
        return _intervals(self._repeated(epoch), places)

    def identity(self) -> Mapping[str, Any]:
        return self._windows(0).identity() if self._options.shuffle == "window" else {"shuffle": self._options.shuffle}

    def _repeated(self, epoch: int) -> NDArray[np.int64]:
        """The place after each record, with its repetitions, in stored order, int64 `[n]`."""
        return self._kept.of(epoch, self._of_epoch)[0]

    def _windows(self, epoch: int) -> WindowShuffle:
        """The shuffle of shards, each with as many records as come of it in the epoch."""
        windows = self._kept.of(epoch, self._of_epoch)[1]
        assert windows is not None
        return windows

    def _of_epoch(self, epoch: int) -> tuple[NDArray[np.int64], WindowShuffle | None]:
        ends = np.cumsum(self._sampling.counts(epoch))
        if self._shard_ends is None:
            return ends, None
        sizes = np.diff(np.concatenate([np.zeros(1, np.int64), ends])[self._shard_ends], prepend=0)
        seed, lanes, window = self._options.seed, self._options.lanes, self._options.window
        return ends, WindowShuffle(sizes.tolist(), seed=seed, lanes=lanes, window=window, by_mean=True)


class StratifiedOrder(PaddedAtEnd):
    """The line of balanced classes, shuffled so that each batch has the share of every class, within one record.

    So has the part of each rank of a whole batch, since a rank takes places at equal distances of the batch.

    Places at equal distances on the line make a batch, so that the stretch of a class has as many places in each batch
    as in any other one, or one more. The records of a last batch that is smaller are taken out at equal distances
    before.

    Args:
        sampling: the records of an epoch.
        options: the options of the stream.
    """

    def __init__(self, sampling: Balanced, options: OrderOptions) -> None:
        self._sampling, self._size, self._seed = sampling, options.batch_size, options.seed
        self.records = self.block = sampling.records
        self.lanes = 0
        self._batches, self._rest = divmod(self.records, self._size)

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        whole = self._batches * self._size
        places = np.empty_like(positions)
        in_whole = positions < whole
        places[in_whole] = self._in_whole(epoch, positions[in_whole])
        places[~in_whole] = self._in_rest(epoch, positions[~in_whole] - whole)
        # The classes of a batch would otherwise be the same neighbours on the line in each epoch.
        count = len(self._sampling.class_counts)
        classes, turns = self._sampling.turns(places, permute(np.arange(count), count, self._seed, epoch, "classes"))
        return self._sampling.of_turns(epoch, classes, self._turned(epoch, classes, turns))

    def identity(self) -> Mapping[str, Any]:
        return {"shuffle": "full"}

    def _turned(self, epoch: int, classes: NDArray[np.int64], turns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turns that are rotated within pieces as long as the number of batches, each by a number of its own."""
        # A batch has places at equal distances, which the permutations of a class keep: without this, the batches of
        # every epoch would have the same groups of records.
        length = max(1, self._batches)
        pieces, own = np.divmod(turns, length)
        lengths = np.minimum(length, self._sampling.class_counts[classes] - pieces * length)
        keys = _keys(f"{self._seed}/{epoch}/turned", classes, pieces)
        shifts = (keys % lengths.astype(np.uint64)).astype(np.int64)
        rotated: NDArray[np.int64] = pieces * length + (own + shifts) % lengths
        return rotated

    def _in_whole(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places on the line of positions in whole batches."""
        if len(positions) == 0:
            return positions
        batches, own = np.divmod(positions, self._size)
        sizes = np.full_like(own, self._size)
        own = permute_each(own, sizes, _keys(f"{self._seed}/{epoch}/batch", batches, np.zeros_like(batches)))
        places = own * self._batches + permute(batches, self._batches, self._seed, epoch, "batches")
        rest = self._taken_out(epoch)
        return places + np.searchsorted(rest - np.arange(len(rest)), places, "right")

    def _in_rest(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places on the line of positions in the last batch, counted from its first one."""
        if len(positions) == 0:
            return positions
        # Without a rest, only padding is asked for; any record will do.
        size = self._rest or self._size
        own = permute(positions % size, size, self._seed, epoch, "rest")
        return self._taken_out(epoch)[own] if self._rest else own % self.records

    def _taken_out(self, epoch: int) -> NDArray[np.int64]:
        """The places on the line of the last batch, rising."""
        shift = key(self._seed, epoch, "taken out") % self.records
        return (np.arange(self._rest) * self.records + shift) // max(1, self._rest)


def largest_remainders(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers in proportion to shares, which sum to `total`, by the method of largest remainders."""
    exact = shares / shares.sum() * total
    parts: NDArray[np.int64] = exact.astype(np.int64)
    by_rest = np.argsort(parts - exact, kind="stable")
    parts[by_rest[: total - int(parts.sum())]] += 1
    return parts


def _ends(weights: NDArray[np.float64], records: int, bits: int) -> NDArray[np.int64]:
    """The end of each record on the line, in parts of 2**bits of a place, int64 `[n]`."""
    total = float(weights.sum())
    is_whole = total < 1 << 53 and bool(np.all(weights == np.floor(weights)))
    if not is_whole or int(total) * records >= 1 << 62:
        # The largest weight is 1, so that no sum is infinite.
        sums = np.cumsum(weights / weights.max())
        ends = np.minimum(sums * (records / sums[-1]), records)
        places = ends.astype(np.int64)
        found: NDArray[np.int64] = (places << bits) + ((ends - places) * (1 << bits)).astype(np.int64)
        # A record of weight 0 at the end has nothing of what rounding left.
        found[found == found[-1]] = records << bits
        return found
    # Exactly, by long division, since a float rounds the ends, and a record of weight 1 would come twice.
    whole = int(total)
    found, rest = np.divmod(np.cumsum(weights.astype(np.int64)) * records, whole)
    while bits:
        step = min(bits, 62 - whole.bit_length())
        digit, rest = np.divmod(rest << step, whole)
        found, bits = (found << step) + digit, bits - step
    return found


def _intervals(ends: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the interval of each value, between rising ends, int64 `[n]`."""
    # In the order of the values, neighbours are found in the same part of the memory: in a third of the time for a
    # million ends, the sort included.
    by_value = np.argsort(values)
    found = np.empty_like(by_value)
    found[by_value] = np.searchsorted(ends, values[by_value], "right")
    return found


def _keys(purpose: str, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A key for each pair of numbers, uint64 `[n]`."""
    step, base = np.uint64(_STEP), np.uint64(key(0, 0, purpose))
    return mix64(mix64(one.astype(np.uint64) * step + base) + other.astype(np.uint64) * step)


def _digest(*arrays: NDArray[Any]) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.astype("<i8").tobytes())
    return content.hexdigest()[:16]
