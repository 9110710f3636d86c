"""The tables and lists of a dataset over its generations: ids of records, rows of `metadata.parquet`, sums of pixels.

`metadata.parquet` and those of later generations together have a row for each record that counts, in the order of each
split. `pixels.jsonl` has a line for each record of the shards, withdrawn ones too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_jobs.generations.growth import Growth
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.metadata.parquet import added_columns, each_column, keep_rows
from shard_reader import open_dataset
from shard_reader.format.manifest import PARQUET_NAME, Manifest
from shard_reader.order.remaining import Remaining
from shard_reader.storage.directory import Directory

__all__ = ["PIXELS_NAME", "each_id", "remaining_sums", "write_table"]

PIXELS_NAME = "pixels.jsonl"
_BLOCK = 1 << 16  # records whose ids are read together


def each_id(growth: Growth) -> Iterator[tuple[str, int, list[str]]]:
    """The ids of all records that count, in blocks: the split, the number of the first, and the ids.

    Raises:
        CorruptionError: a table or a shard is damaged.
    """
    manifest, firsts = growth.manifest, dict.fromkeys(growth.manifest.splits, 0)
    if tables := manifest.lists(PARQUET_NAME):
        # Of a table, ids are a column; of shards, they lie between the images.
        for split, ids in each_column(_opened(growth.files, tables), _split_column(manifest), "id"):
            yield split, firsts[split], ids.to_pylist()
            firsts[split] += len(ids)
        return
    for split, found in manifest.splits.items():
        with closing(open_dataset(growth.place, split, generation=manifest.generation)) as data:
            for start in range(0, found.records, _BLOCK):
                numbers = np.arange(start, min(start + _BLOCK, found.records))
                yield split, start, [id.decode() for id in data.ids(numbers)]


def write_table(growth: Growth, name: str, gone: Mapping[str, NDArray[np.int64]]) -> bool:
    """Write one table of all records that count, without some. False if the dataset has no tables.

    Args:
        growth: the dataset.
        name: the name of the new file in the dataset.
        gone: for each split the numbers of records to leave out, among those that count, rising, int64 `[n]`.
    """
    tables = growth.manifest.lists(PARQUET_NAME)
    if not tables:
        return False

    def keep(split: str, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ~np.isin(numbers, gone[split]) if split in gone else np.ones(len(numbers), bool)

    with tempfile.TemporaryDirectory(dir=growth.files.local, prefix="_spill-") as scratch:
        path = Path(scratch) / PARQUET_NAME
        keep_rows(path, _opened(growth.files, tables), _split_column(growth.manifest), keep)
        growth.files.put(path, name)
    return True


def remaining_sums(files: Directory, manifest: Manifest, remaining: Remaining) -> ChannelSums | None:
    """The exact sums over the pixels of the records that remain of the split that is measured.

    Returns:
        None if the dataset has no sums of its records, as those of earlier versions.
    """
    lists = manifest.lists(PIXELS_NAME)
    if not lists:
        return None
    gone = iter([*remaining.withdrawn.tolist(), -1])
    number, leave_out, sums = 0, next(gone), ChannelSums()
    for name in lists:
        for line in files.lines(name):
            if number == leave_out:
                leave_out = next(gone)
            else:
                pixels, peak, total, squares = json.loads(line)
                sums += ChannelSums(pixels, tuple(total), tuple(squares), peak)
            number += 1
    return sums


def _opened(files: Directory, names: tuple[str, ...]) -> Iterator[BinaryIO]:
    return map(files.open, names)


def _split_column(manifest: Manifest) -> str:
    return added_columns(manifest.fields, manifest.class_names is not None)["split"]
