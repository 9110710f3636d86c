"""The records of a dataset with the same bytes, and those that look alike: the lines of `duplicates.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.external_sort import find_equal_hashes
from beam_jobs.parallel import in_order, readers_of
from beam_jobs.plan.near_duplicates import NearDuplicates, distance, find_near_duplicates
from shard_reader.format import index
from shard_reader.format.fields import Field, extent_columns
from shard_reader.format.manifest import Manifest, ShardFile
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory

__all__ = [
    "LABELS",
    "MOST_IN_GROUP",
    "Contradictions",
    "Labels",
    "crowd_lines",
    "list_duplicates",
    "list_near_duplicates",
    "named_labels",
    "sorted_labels",
]

MOST_IN_GROUP = 1000
"""The most images of a group of near-duplicates that is acted on: larger ones are seldom copies."""

Labels = tuple[int, ...]
LABELS = ("label", "objects/label")


class Contradictions:
    """Finds inputs whose labels differ from those of an earlier input with the same bytes.

    An input without labels contradicts none.
    """

    def __init__(self) -> None:
        self._said: dict[int, Labels] = {}  # the first labels of bytes whose first input has none

    def has(self, first: int, first_labels: Labels, labels: Labels) -> bool:
        """Whether labels differ from the earlier ones. `first` is the place of the first input with these bytes."""
        return bool(labels) and labels != (first_labels or self._said.setdefault(first, labels))


def sorted_labels(values: Iterable[Any], *, named: bool) -> Labels:
    """Whole numbers, and those of lists, sorted. Where labels have names, -1 is no label."""
    listed = (value if isinstance(value, list) else [value] for value in values)
    numbers = (label for labels in listed for label in labels if isinstance(label, int))
    return tuple(sorted(label for label in numbers if label >= 0 or not named))


def named_labels(labels: Labels, class_names: Sequence[str] | None) -> list[int | str]:
    return [class_names[label] for label in labels] if class_names is not None else list(labels)


def crowd_lines(near: NearDuplicates, id_of: Callable[[int], str]) -> list[str]:
    """A sentence for each group that is too large to act on, and for hashes of which too many are alike."""
    lines = [
        f"{len(group):,} images look alike, as {printable(id_of(int(group[0])))} and"
        f" {printable(id_of(int(group[1])))}: more than {MOST_IN_GROUP:,} are neither listed nor moved nor dropped as"
        " near-duplicates; look at them"
        for group in near.groups()
        if len(group) > MOST_IN_GROUP
    ]
    if near.crowded:
        lines.append(f"near-duplicates: {near.crowded:,} pairs of similar hashes were not compared; some are missing")
    return lines


def list_near_duplicates(
    manifest: Manifest, output: Directory, scratch: Path, most: int, warn: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record that looks like an earlier one, and has other bytes than all.

    Args:
        manifest: the manifest of the dataset.
        output: the directory of its files.
        scratch: a folder for temporary files.
        most: the most bits in which the hashes of two of them differ.
        warn: is called with a sentence about groups that are too large.
    """
    records = _Records(manifest, output)
    near = find_near_duplicates(records.hashes("phash", "dhash"), most, scratch)
    for line in crowd_lines(near, lambda place: records.at(place).id):
        warn(line)
    for group in near.groups():
        if len(group) <= MOST_IN_GROUP:
            first = records.at(int(group[0]))
            inputs = {first.content_hash}
            for record in map(records.at, group[1:].tolist()):
                if record.content_hash not in inputs:
                    inputs.add(record.content_hash)
                    yield _line(record, first, manifest.class_names, near=True)


def list_duplicates(manifest: Manifest, output: Directory, scratch: Path) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record whose input has the bytes of an earlier one.

    Args:
        manifest: the manifest of the dataset.
        output: the directory of its files.
        scratch: a folder for temporary files.
    """
    records, contradictions = _Records(manifest, output), Contradictions()
    found = find_equal_hashes(records.hashes("content_hash"), scratch)
    for place, first in zip(found.places.tolist(), found.firsts.tolist(), strict=True):
        one, other = records.at(place), records.at(first)
        contradiction = contradictions.has(first, other.labels, one.labels)
        yield _line(one, other, manifest.class_names) | {"contradiction": contradiction}


@dataclass(frozen=True, slots=True)
class _Record:
    """The values of a record that a line of `duplicates.jsonl` needs."""

    id: str
    split: str
    labels: Labels
    content_hash: int
    phash: int


def _line(one: _Record, first: _Record, class_names: Sequence[str] | None, *, near: bool = False) -> dict[str, Any]:
    return {
        "id": one.id,
        "split": one.split,
        "labels": named_labels(one.labels, class_names),
        "first_id": first.id,
        "first_split": first.split,
        "first_labels": named_labels(first.labels, class_names),
        "leak": one.split != first.split,
        "contradiction": bool(one.labels and first.labels) and one.labels != first.labels,
        "near": near,
        "distance": distance(one.phash, first.phash) if near else 0,
    }


class _Records:
    """The records of a dataset, by their place in the shards of all splits."""

    # All formats have the same records: one of them is read.
    def __init__(self, manifest: Manifest, output: Directory) -> None:
        self._output, self._format = output, manifest.formats[0]
        self._fields, self._named = manifest.fields, manifest.class_names is not None
        self._files = [
            (name, shard.files[self._format], shard.records)
            for name, split in manifest.splits.items()
            for shard in split.shards
        ]
        self._ends = np.cumsum([records for _, _, records in self._files], dtype=np.uint64)

    def hashes(self, *names: str) -> Iterator[NDArray[np.uint64]]:
        """Two columns of hashes of each shard, uint64 `[n, 2]`; of a single column the second one is of ones."""

        def read(described: tuple[str, ShardFile, int]) -> NDArray[np.uint64]:
            _, file, records = described
            return _hashes(self._output, file, records, self._fields, names)

        return in_order(read, self._files, readers_of(self._output))

    def at(self, place: int) -> _Record:
        """The values of a record."""
        number = int(np.searchsorted(self._ends, place, "right"))
        split, file, records = self._files[number]
        row = self._row(file, records, place + records - int(self._ends[number]))
        start = int(row["id_offset"])
        id = self._output.read(file.path, start, start + int(row["id_length"])).decode()
        values = (self._value(file, records, row, name) for name in LABELS if name in self._fields)
        labels = sorted_labels(values, named=self._named)
        return _Record(id, split, labels, int(row["content_hash"]), int(row["phash"]))

    def _row(self, file: ShardFile, records: int, number: int) -> np.void:
        start, _, dtype = index.extent(records, self._fields)
        start += number * dtype.itemsize
        row: np.void = np.frombuffer(self._output.read(file.index, start, start + dtype.itemsize), dtype)[0]
        return row

    def _value(self, file: ShardFile, records: int, row: np.void, name: str) -> Any:
        field = self._fields[name]
        if field.in_index:
            return row[name].tolist()
        offset, length, _ = extent_columns(name)
        path, start = file.path, int(row[offset])
        if start >= file.bytes and row[length]:  # a value that the index has
            path, start = file.index, start - file.bytes + index.size(file, records, self._fields) - file.index_values
        data = np.frombuffer(self._output.read(path, start, start + int(row[length])), np.uint8)
        return np.ravel(SHARD_FORMATS[self._format].value(data, field)).tolist()


def _hashes(
    output: Directory, file: ShardFile, records: int, fields: Mapping[str, Field], names: Sequence[str]
) -> NDArray[np.uint64]:
    # 64 bits are enough for a list: among ten million inputs, two have the same by chance once in 370,000 datasets.
    # Inputs that are left out are compared by 128 bits.
    start, end, dtype = index.extent(records, fields)
    rows = np.frombuffer(output.read(file.index, start, end) if records else b"", dtype)
    columns = [rows[name].astype(np.int64).view(np.uint64) for name in names]
    # Ones, since a hash of zeros would count as missing.
    return np.stack([*columns, np.ones(records, np.uint64)][:2], 1)
