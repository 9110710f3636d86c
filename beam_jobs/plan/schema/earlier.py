"""The records of a dataset that a job adds to: those that count, and their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.external_sort import Spill
from beam_jobs.metadata.parquet import added_columns
from beam_jobs.plan.duplicates import Part
from beam_jobs.tools.dataset_files import copy_to_disk, manifest_at
from shard_reader import open_dataset
from shard_reader.format.checksum import sha256_file
from shard_reader.format.manifest import PARQUET_NAME, Manifest
from shard_reader.format.shard_table import withdrawn_from_bytes
from shard_reader.order.remaining import Remaining
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["KNOWN", "REPLACED_NAME", "earlier_part", "known_records", "spilled_by_id", "withdrawn_numbers"]

REPLACED_NAME: Final = "replaced.u8"
"""A file of the plan: two numbers for each record that a new one replaces, that of its split and its own."""
KNOWN: Final = np.dtype(
    [("key", "<u8"), ("check", "<u8"), ("content", "<i8"), ("values", "<i8"), ("split", "<u8"), ("number", "<u8")]
)
"""A record by its id: the hash of the order, another hash, the two hashes of its input, its split and its number."""

_ROWS = 1 << 16
_COLUMNS = ("id", "content_hash", "values_hash")


def withdrawn_numbers(files: Directory, manifest: Manifest) -> dict[str, NDArray[np.int64]]:
    """The numbers of the withdrawn records of each split, rising, int64 `[n]`.

    Raises:
        JobError: a file of them is missing or damaged.
    """
    found = dict[str, NDArray[np.int64]]()
    for name, split in manifest.splits.items():
        if split.withdrawn is not None:
            path, count = split.withdrawn.path, split.withdrawn.records
            try:
                found[name] = withdrawn_from_bytes(files.read(path), count, split.shards, manifest.files[path])
            except (FileNotFoundError, ValueError) as error:
                raise JobError(f"{files.uri(path)}: {getattr(error, 'strerror', None) or error}") from error
    return found


def earlier_part(place: str, replaced: bytes = b"") -> Part:
    """The records of a dataset that count, and that no new one replaces.

    Args:
        place: the path or URL of the dataset.
        replaced: the content of a file `REPLACED_NAME`.

    Raises:
        JobError: a file of the dataset is damaged.
    """
    files, manifest = manifest_at(place)
    gone, pairs = withdrawn_numbers(files, manifest), np.frombuffer(replaced, "<u8").reshape(-1, 2).astype(np.int64)
    for number, name in enumerate(manifest.splits):
        own = pairs[pairs[:, 0] == number, 1]
        gone[name] = np.union1d(gone.get(name, np.empty(0, np.int64)), own)
    return Part(manifest, files, gone)


def known_records(place: str, manifest: Manifest, seed: int, scratch: Path) -> Iterator[NDArray[np.void]]:
    """The records of a dataset that count, in blocks of `KNOWN`.

    Args:
        place: the path or URL of the dataset.
        manifest: the manifest of its newest generation.
        seed: the seed of the order of inputs.
        scratch: a folder for copies of remote tables.

    Raises:
        JobError: a table or a shard is damaged.
    """
    files = directory(place)
    remaining = {name: Remaining(gone) for name, gone in withdrawn_numbers(files, manifest).items()}
    splits, firsts = {name: number for number, name in enumerate(manifest.splits)}, dict.fromkeys(manifest.splits, 0)
    tables = _tables(files, manifest, scratch)
    # The tables have a row for each record that counts, in the order of each split, unless some were replaced.
    is_whole = sum(pq.read_metadata(path).num_rows for path in tables) == manifest.records
    found = _rows_of_tables(tables, manifest) if is_whole else _rows_of_shards(place, manifest)
    for split, ids, content, values in found:
        block = np.zeros(len(ids), KNOWN)
        block["key"], block["check"] = _keys(ids, seed)
        block["content"], block["values"], block["split"] = content, values, splits[split]
        numbers = np.arange(firsts[split], firsts[split] + len(ids))
        block["number"] = remaining[split].numbers(numbers) if split in remaining else numbers
        firsts[split] += len(ids)
        yield block
    for split, count in firsts.items():
        if count != manifest.splits[split].records:
            raise JobError(
                f"{files.uri(PARQUET_NAME)}: has {count} rows of {split}, which has {manifest.splits[split].records}"
                " records"
            )


def spilled_by_id(blocks: Iterator[NDArray[np.void]], folder: Path) -> Spill:
    """The rows of `KNOWN` in buckets of 10 bits of their keys."""
    spill = Spill(folder)
    for block in blocks:
        tops = (block["key"] >> np.uint64(54)).astype(np.int64)
        order = np.argsort(tops, kind="stable")
        rows, tops = block[order], tops[order]
        starts = np.flatnonzero(np.diff(tops, prepend=-1)).tolist()
        for start, end in pairwise([*starts, len(rows)]):
            spill.add(int(tops[start] << 6).to_bytes(2), rows[start:end].tobytes())
    return spill


def _keys(ids: list[str], seed: int) -> tuple[list[int], list[int]]:
    """Two hashes of 64 bits of each id; the first is that of the order of inputs."""
    prefix, blake2b, encoded = b"%d/" % seed, hashlib.blake2b, [id.encode() for id in ids]
    # As `plan.order.scan` has it.
    keys = [int.from_bytes(blake2b(prefix + id, digest_size=8).digest()) for id in encoded]
    return keys, [xxhash.xxh3_64_intdigest(id) for id in encoded]


_Block = tuple[str, list[str], NDArray[Any], NDArray[Any]]
"""A split, and the ids, `content_hash` and `values_hash` of some of its records."""


def _tables(files: Directory, manifest: Manifest, scratch: Path) -> list[Path]:
    """The tables of a dataset, each checked, and on this machine."""
    found = list[Path]()
    for name in manifest.lists(PARQUET_NAME):
        path = (files.local or scratch) / name
        if files.local is None:
            path.parent.mkdir(exist_ok=True)
            copy_to_disk(files, name, scratch)
        try:
            if sha256_file(path) != manifest.files[name]:
                raise JobError(f"{files.uri(name)}: is damaged (SHA-256 mismatch); prepare the dataset again")
        except FileNotFoundError:
            raise JobError(f"{files.uri(name)}: is missing; `image-shards verify` tells what else is") from None
        found.append(path)
    return found


def _rows_of_tables(tables: list[Path], manifest: Manifest) -> Iterator[_Block]:
    split = added_columns(manifest.fields, has_names=manifest.class_names is not None)["split"]
    for path in tables:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(_ROWS, columns=[*_COLUMNS, split]):
                names = np.array(batch.column(split).to_pylist(), object)
                starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)]
                for start, end in pairwise(starts):
                    ids, content, values = (batch.column(name).slice(start, end - start) for name in _COLUMNS)
                    yield names[start], ids.to_pylist(), content.to_numpy(), values.to_numpy()


def _rows_of_shards(place: str, manifest: Manifest) -> Iterator[_Block]:
    for split, found in manifest.splits.items():
        with closing(open_dataset(place, split, generation=manifest.generation)) as data:
            for start in range(0, found.records, _ROWS):
                numbers = np.arange(start, min(start + _ROWS, found.records))
                content, values = (np.asarray(data.column(name, numbers)) for name in _COLUMNS[1:])
                yield split, [id.decode() for id in data.ids(numbers)], content, values
