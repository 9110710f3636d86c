"""The bytes that records need of remote shards, on their way into memory."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.remote.client import PIECE
from shard_reader.remote.ranges import Extents, Range, ranges
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shard import RemoteShard

__all__ = ["Fetch", "fetch", "needed_bytes"]

# Whole pieces are fetched where they have at most so many times the bytes that were asked for: few requests, and the
# other bytes are there for the next lookup.
_DENSE = 1.5
_NEAR = 1 << 10  # the most bytes between the values of neighbours: a little more than the frame of a record

Data = Future[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ranges of bytes under way, and the records that need them.

    Attributes:
        parts: the ranges, as futures.
        part_of: the part of each value, int64 `[n]`.
        places: the record of each value, int64 `[n]`.
        of_shards: the parts of each shard, by its URI, in the order of the file.
    """

    parts: Sequence[Data]
    part_of: NDArray[np.int64]
    places: NDArray[np.int64]
    of_shards: Mapping[str, Sequence[tuple[Range, Data]]]

    def wait(self, places: range) -> float:
        """Wait until the bytes of some records are there, or have failed to come; the seconds that took."""
        needed = (self.places >= places.start) & (self.places < places.stop)
        missing = [part for part in map(self.parts.__getitem__, np.unique(self.part_of[needed])) if not part.done()]
        if not missing:
            return 0.0
        began = time.perf_counter()
        for part in missing:
            # Errors are raised when the values are read, where it is known which record they belong to.
            with contextlib.suppress(CancelledError):
                part.exception()
        return time.perf_counter() - began

    def cancel(self) -> None:
        """Drop all of it. Threads that wait for a part are woken at once."""
        for part in self.parts:
            part.cancel()


def fetch(
    located: Located,
    names: Sequence[str],
    *,
    wanted: NDArray[np.bool_] | None = None,
    previous: Fetch | None = None,
    most_bytes: int | None = None,
) -> tuple[Located, Fetch | None]:
    """Have threads fetch some fields of records.

    Args:
        wanted: the records to fetch, bool `[n]`; by default all.
        previous: requests under way for other records; bytes that are among them are not requested again.
        most_bytes: ranges of more bytes are split into more requests, for fewer bytes that nobody asked for.

    Returns:
        The records, in shards that wait for the bytes asked of them, and the requests; None where all are local.
    """
    missing: dict[int, Extents] = {}
    parts: dict[int, list[tuple[Range, Data]]] = {}
    for number, places in _by_shard(located):
        shard = located.shards[number]
        if isinstance(shard, RemoteShard):
            places = places if wanted is None else places[wanted[places]]
            extents = shard.extents(located.rows[places], places, names)
            under_way = previous.of_shards.get(shard.uri, ()) if previous else ()
            parts[number], missing[number] = _reused(shard, extents, under_way)
    reused_bytes = sum(one.end - one.start for copies in parts.values() for one, _ in copies)
    # From few requests to few bytes: the first choice that fits into memory.
    for choose in (_dense, ranges, _near):
        needed = [(number, one) for number, extents in missing.items() for one in choose(extents)]
        if most_bytes is None or reused_bytes + sum(one.end - one.start for _, one in needed) <= most_bytes:
            break
    # In the order in which batches need them: the pool's threads take the requests in the order of submission.
    for number, one in sorted(needed, key=lambda item: (int(item[1].extents.places.min()), item[0])):
        shard = located.shards[number]
        assert isinstance(shard, RemoteShard)  # as above
        parts[number].append((one, shard.submit(one)))
    if not parts:
        return located, None
    shards: list[Any] = list(located.shards)
    of_shards = {}
    for number, found in parts.items():
        found.sort(key=lambda part: part[0].start)
        of_shards[shards[number].uri] = found
        shards[number] = shards[number].fetched(found)
    ordered = [part for found in of_shards.values() for part in found]
    part_of = np.repeat(np.arange(len(ordered)), [len(one.extents.places) for one, _ in ordered])
    places = np.concatenate([np.empty(0, np.int64), *(one.extents.places for one, _ in ordered)])
    return replace(located, shards=shards), Fetch([data for _, data in ordered], part_of, places, of_shards)


def _dense(extents: Extents) -> Iterable[Range]:
    """Ranges of a shard without gaps, unless that takes many more bytes."""
    found = list(ranges(extents, PIECE))
    is_dense = sum(one.end - one.start for one in found) <= _DENSE * int(extents.lengths.sum())
    return found if is_dense else ranges(extents)


def _near(extents: Extents) -> Iterable[Range]:
    """Ranges of a shard with as few other bytes as possible."""
    return ranges(extents, _NEAR)


def _reused(
    shard: RemoteShard, extents: Extents, parts: Sequence[tuple[Range, Data]]
) -> tuple[list[tuple[Range, Data]], Extents]:
    """Copies of the values in parts that are there or under way, and the extents of the other values."""
    if not parts:
        return [], extents
    of_value = np.full(len(extents.starts), -1)
    is_single = np.array([len(one.extents.starts) == 1 for one, _ in parts])
    # Apart, since a part of one value may lie inside a range, and a search by start needs parts that do not overlap.
    for kind in (is_single, ~is_single):
        numbers = np.flatnonzero(kind)
        if len(numbers):
            found = [parts[number][0] for number in numbers.tolist()]
            starts, ends = (np.array([getattr(one, name) for one in found]) for name in ("start", "end"))
            preceding = np.searchsorted(starts, extents.starts, "right") - 1
            fits = (preceding >= 0) & (extents.starts + extents.lengths <= ends[preceding])
            of_value[fits] = numbers[preceding[fits]]
    is_there = of_value >= 0
    copies = []
    for value in np.flatnonzero(is_there).tolist():
        start, length = int(extents.starts[value]), int(extents.lengths[value])
        whole, data = parts[of_value[value]]
        one = Range(start, start + length, extents[value : value + 1])
        copies.append((one, _copied(data, whole, one, shard)))
    return copies, extents[np.flatnonzero(~is_there)]


def _copied(data: Data, whole: Range, one: Range, shard: RemoteShard) -> Data:
    """A copy of some bytes of a range, once they are there. The rest of the range need not stay in memory."""
    copy: Data = Future()
    # A future keeps its callbacks: one that led back to the future would keep both alive for ever.
    data.add_done_callback(functools.partial(_copy_values, copy, shard, one, one.start - whole.start, False))
    return copy


def _copy_values(copy: Data, shard: RemoteShard, one: Range, start: int, is_checked: bool, found: Data) -> None:
    with contextlib.suppress(InvalidStateError):  # the copy was cancelled
        if found.cancelled():
            copy.cancel()
        elif (error := found.exception()) is not None:
            copy.set_exception(error)
        else:
            values = found.result()[start : start + one.end - one.start].copy()
            if is_checked or one.is_sound(values):
                copy.set_result(values)
                return
            try:
                # The range was checked only for its own values; this one lay between them, and is damaged.
                second = shard.submit(one)
            except RuntimeError:  # the store was closed
                copy.cancel()
            else:
                second.add_done_callback(functools.partial(_copy_values, copy, shard, one, 0, True))


def needed_bytes(located: Located, names: Sequence[str]) -> NDArray[np.int64]:
    """The number of remote bytes of each record, `[n]`."""
    needed = np.zeros(len(located.rows), np.int64)
    for number, places in _by_shard(located):
        shard = located.shards[number]
        if isinstance(shard, RemoteShard):
            extents = shard.extents(located.rows[places], places, names)
            np.add.at(needed, extents.places, extents.lengths)
    return needed


def _by_shard(located: Located) -> list[tuple[int, NDArray[np.intp]]]:
    """Each shard's number, and the places of its records."""
    order = np.argsort(located.which, kind="stable")
    changes = np.flatnonzero(np.diff(located.which[order])) + 1
    return [(int(located.which[part[0]]), part) for part in np.split(order, changes) if len(part)]
