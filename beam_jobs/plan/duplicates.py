"""Inputs with the same bytes: found by their hashes, in memory of one bucket of them.

Hashes come in blocks, in order; each is spilled with its place to one of 256 files by its first byte. A
bucket is then sorted by hash and place, and whatever follows an equal hash is a duplicate of the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.manifest import Field, Shard, ShardFile, index_dtype, index_name
from shard_reader.storage.directory import Directory

__all__ = ["Found", "find", "list_duplicates"]

_BUCKETS = 256
_ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])


@dataclass(frozen=True, slots=True)
class Found:
    """Places whose hash is that of an earlier place, rising, and for each the first place of its hash."""

    places: NDArray[np.uint64]
    firsts: NDArray[np.uint64]


def find(blocks: Iterable[NDArray[np.uint64]], scratch: Path) -> Found:
    """Find equal hashes.

    Args:
        blocks: of hashes, `[n, 2]`, in the order of their places. All zero is no hash.
        scratch: a folder for files, which its owner removes.
    """
    first = 0
    for block in blocks:
        rows = np.zeros(len(block), _ROW)
        rows["high"], rows["low"] = block[:, 0], block[:, 1]
        rows["place"] = np.arange(first, first + len(block), dtype=np.uint64)
        first += len(block)
        _spill(rows, scratch)
    found = [_in_bucket(scratch / f"hashes-{number:03d}") for number in range(_BUCKETS)]
    places = np.concatenate([places for places, _ in found])
    order = np.argsort(places)
    return Found(places[order], np.concatenate([firsts for _, firsts in found])[order])


def _spill(rows: NDArray[np.void], scratch: Path) -> None:
    bucket = rows["high"] >> np.uint64(56)
    order = np.argsort(bucket, kind="stable")
    ends = np.searchsorted(bucket[order], np.arange(_BUCKETS + 1, dtype=np.uint64))
    for number in range(_BUCKETS):
        part = rows[order[ends[number] : ends[number + 1]]]
        if len(part):
            with open(scratch / f"hashes-{number:03d}", "ab") as file:
                file.write(part.tobytes())


def _in_bucket(path: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    none = np.empty(0, np.uint64)
    if not path.exists():
        return none, none
    rows = np.fromfile(path, _ROW)
    path.unlink()
    rows = rows[(rows["high"] != 0) | (rows["low"] != 0)]
    rows = rows[np.lexsort((rows["place"], rows["low"], rows["high"]))]
    same = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~same]))  # of each run of equal hashes
    first = np.repeat(rows["place"][starts], np.diff(np.append(starts, len(rows)))) if len(rows) else none
    again = np.flatnonzero(np.concatenate([[False], same])) if len(rows) else np.empty(0, np.int64)
    return rows["place"][again], first[again]


def list_duplicates(
    splits: Mapping[str, Iterable[Shard]], fields: Mapping[str, Field], format: str, output: Directory, scratch: Path
) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record whose input has the bytes of an earlier one.

    Args:
        splits: the shards of each split, in order.
        fields: of a record.
        format: which files to read; both have the same records.
        output: where they are.
        scratch: a folder for files, which its owner removes.
    """
    files = [(split, shard.files[format], shard.records) for split, shards in splits.items() for shard in shards]
    ends = np.cumsum([records for _, _, records in files], dtype=np.uint64)
    dtype = np.dtype(index_dtype(fields))
    found = find((_hashes(output, file, records, dtype) for _, file, records in files), scratch)

    def name(place: int) -> tuple[str, str]:
        number = int(np.searchsorted(ends, place, "right"))
        split, file, records = files[number]
        return _id(output, file, dtype, records, place - int(ends[number]) + records), split

    for place, first in zip(found.places.tolist(), found.firsts.tolist(), strict=True):
        (id, split), (first_id, first_split) = name(place), name(first)
        yield {
            "id": id,
            "split": split,
            "first_id": first_id,
            "first_split": first_split,
            "leak": split != first_split,
        }


def _hashes(output: Directory, file: ShardFile, records: int, dtype: np.dtype[Any]) -> NDArray[np.uint64]:
    """The hashes in an index: 64 bits of each, which is enough to list what is the same."""
    data = output.read(index_name(file.path))
    rows = np.frombuffer(data, dtype, records, len(data) - records * dtype.itemsize)
    high = rows["content_hash"].astype(np.int64).view(np.uint64)
    return np.stack([high, np.ones_like(high)], 1)  # the ones, so that no hash is all zero


def _id(output: Directory, file: ShardFile, dtype: np.dtype[Any], records: int, row: int) -> str:
    with output.open(index_name(file.path)) as index:
        index.seek(-(records - row) * dtype.itemsize, os.SEEK_END)
        extent = np.frombuffer(index.read(dtype.itemsize), dtype)[0]
    start = int(extent["id_offset"])
    return output.read(file.path, start, start + int(extent["id_length"])).decode()
