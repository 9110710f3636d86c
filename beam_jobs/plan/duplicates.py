"""Inputs with the same bytes: the list of them, and the inputs that are left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.external_sort import EqualHashes, find_equal_hashes
from beam_jobs.plan.order import Duplicate, Ordered
from shard_reader.format.fields import Field, index_dtype
from shard_reader.format.manifest import Shard, ShardFile, index_name
from shard_reader.storage.directory import Directory

__all__ = ["DroppedInputs", "list_duplicates"]


@dataclass(frozen=True, slots=True)
class DroppedInputs:
    """The inputs with the bytes of an earlier one, in order. Can be iterated over several times.

    Args:
        equal: the ranks of inputs with equal hashes.
        ordered: all inputs, in one order.
        files: a directory with a copy of the file of that order.
        name: the name of that copy.
    """

    equal: EqualHashes
    ordered: Ordered
    files: Directory
    name: str

    def __iter__(self) -> Iterator[Duplicate]:
        for rank, first in zip(self.equal.places.tolist(), self.equal.firsts.tolist(), strict=True):
            yield Duplicate(rank, self._id(first))

    def _id(self, rank: int) -> str:
        start, end = self.ordered.starts([rank, rank + 1])
        id: str = json.loads(self.files.read(self.name, start, end))[0]
        return id


def list_duplicates(
    splits: Mapping[str, Iterable[Shard]], fields: Mapping[str, Field], format: str, output: Directory, scratch: Path
) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record whose input has the bytes of an earlier one.

    Args:
        splits: the shards of each split, in order.
        fields: the fields of a record.
        format: the format of the files to read; all formats have the same records.
        output: the directory of the files.
        scratch: a folder for temporary files.
    """
    files = [(split, shard.files[format], shard.records) for split, shards in splits.items() for shard in shards]
    ends = np.cumsum([records for _, _, records in files], dtype=np.uint64)
    dtype = np.dtype(index_dtype(fields))
    found = find_equal_hashes((_hashes(output, file, records, dtype) for _, file, records in files), scratch)

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
    """The hashes in an index, as uint64 `[n, 2]` with the stored 64 bits in the first column."""
    # 64 bits are enough for a list: among ten million inputs, two have the same by chance once in 370,000 datasets.
    # Inputs that are left out are compared by 128 bits.
    data = output.read(index_name(file.path))
    rows = np.frombuffer(data, dtype, records, len(data) - records * dtype.itemsize)
    high = rows["content_hash"].astype(np.int64).view(np.uint64)
    return np.stack([high, np.ones_like(high)], 1)  # ones, since a hash of zeros would count as missing


def _id(output: Directory, file: ShardFile, dtype: np.dtype[Any], records: int, row: int) -> str:
    with output.open(index_name(file.path)) as index:
        index.seek(-(records - row) * dtype.itemsize, os.SEEK_END)
        extent = np.frombuffer(index.read(dtype.itemsize), dtype)[0]
    start = int(extent["id_offset"])
    return output.read(file.path, start, start + int(extent["id_length"])).decode()
