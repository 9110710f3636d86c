"""The tables and lists of a dataset over its generations: ids of records, rows of `metadata.parquet`, sums of pixels.

`metadata.parquet` and those of later generations together have a row for each record that counts, in the order of each
split. `pixels.jsonl` has a line for each record of the shards, withdrawn ones too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.generations.growth import Growth
from beam_jobs.images.measures.statistics import ChannelSums, statistics_of
from beam_jobs.metadata.parquet import added_columns, each_column, keep_rows, row_count
from beam_jobs.tools.dataset_files import remaining_of
from shard_reader import open_dataset
from shard_reader.format.manifest import PARQUET_NAME, PIXELS_NAME, Manifest, Statistics
from shard_reader.storage.directory import Directory

__all__ = ["each_id", "measured_statistics", "write_table"]

_BLOCK = 1 << 16  # records whose ids are read together


def each_id(growth: Growth) -> Iterator[tuple[str, int, list[str]]]:
    """The ids of all records that count, in blocks: the split, the number of the first, and the ids.

    Raises:
        CorruptionError: a table or a shard is damaged.
    """
    manifest, firsts = growth.manifest, dict.fromkeys(growth.manifest.splits, 0)
    if tables := _whole_tables(growth):
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
    """Write one table of all records that count, without some. False if the dataset has no tables of them.

    Args:
        growth: the dataset.
        name: the name of the new file in the dataset.
        gone: for each split the numbers of records to leave out, among those that count, rising, int64 `[n]`.
    """
    tables = _whole_tables(growth)
    if not tables:
        return False

    def keep(split: str, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ~np.isin(numbers, gone[split]) if split in gone else np.ones(len(numbers), bool)

    # In the folder of the generation, which is removed after a kill.
    local = growth.files.local
    with tempfile.TemporaryDirectory(dir=local and (local / name).parent) as scratch:
        path = Path(scratch) / PARQUET_NAME
        keep_rows(path, _opened(growth.files, tables), _split_column(growth.manifest), keep)
        growth.files.put(path, name)
    return True


def measured_statistics(files: Directory, manifest: Manifest, split: str) -> Statistics | None:
    """The statistics of the records of a split that count, from the sums of each in `pixels.jsonl`.

    Args:
        files: the directory of the dataset.
        manifest: its manifest, also one that is not published yet.
        split: the name of the split that is measured.

    Raises:
        JobError: the lists of sums are not those of the records.
    """
    remaining = remaining_of(files, manifest)[split]
    gone = iter([*remaining.withdrawn.tolist(), -1])
    number, leave_out, sums = 0, next(gone), ChannelSums()
    for name in manifest.lists(PIXELS_NAME):
        for line in files.lines(name):
            if number == leave_out:
                leave_out = next(gone)
            else:
                try:
                    sums += ChannelSums.from_line(line)
                except ValueError as error:
                    raise JobError(f"{files.uri(name)}: {error}") from error
            number += 1
    held = int(manifest.splits[split].shards.records.sum())
    if number != held:
        raise JobError(f"{files.uri(PIXELS_NAME)}: has {number} lines, and {split} {held} records")
    return statistics_of(split, sums)


def _whole_tables(growth: Growth) -> tuple[str, ...]:
    """The tables of a dataset, unless somebody has changed them: they have a row for each record that counts."""
    tables = growth.manifest.lists(PARQUET_NAME)
    rows = sum(row_count(file) for file in _opened(growth.files, tables))
    return tables if rows == growth.manifest.records else ()


def _opened(files: Directory, names: tuple[str, ...]) -> Iterator[BinaryIO]:
    return map(files.open, names)


def _split_column(manifest: Manifest) -> str:
    return added_columns(manifest.fields, manifest.class_names is not None)["split"]
