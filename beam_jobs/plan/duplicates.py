"""The records of a dataset with the same bytes, and those that look alike: the lines of `duplicates.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

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
    "Part",
    "Record",
    "Records",
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
    records: Records, scratch: Path, most: int, warn: Callable[[str], None], first: int = 0
) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record that looks like an earlier one, and has other bytes than all.

    Args:
        records: the records of the dataset.
        scratch: a folder for temporary files.
        most: the most bits in which the hashes of two of them differ.
        warn: is called with a sentence about groups that are too large.
        first: the place of the first record that may have a line. It is compared with the first of its group, or with
            an earlier record in another split, if there is one before `first`.
    """
    near = find_near_duplicates(records.hashes("phash", "dhash"), most, scratch).since(first)
    for line in crowd_lines(near, lambda place: records.at(place).id):
        warn(line)
    for group in near.groups():
        if len(group) <= MOST_IN_GROUP:
            original = records.at(int(group[0]))
            inputs, earlier = {original.content_hash}, [original]
            for place in group[1:].tolist():
                record = records.at(place)
                if place < first:
                    earlier.append(record)
                elif record.content_hash not in inputs:
                    # It may link earlier ones in several splits, which have no line: a leak.
                    other = next((one for one in earlier if one.split != record.split), original)
                    yield _line(record, other, records.class_names, near=True)
                inputs.add(record.content_hash)


def list_duplicates(records: Records, scratch: Path, first: int = 0) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record whose input has the bytes of an earlier one.

    Args:
        records: the records of the dataset.
        scratch: a folder for temporary files.
        first: the place of the first record that may have a line.
    """
    contradictions = Contradictions()
    found = find_equal_hashes(records.hashes("content_hash"), scratch)
    start = int(np.searchsorted(found.places, first))
    for place, original in zip(found.places[start:].tolist(), found.firsts[start:].tolist(), strict=True):
        one, other = records.at(place), records.at(original)
        contradiction = contradictions.has(original, other.labels, one.labels)
        yield _line(one, other, records.class_names) | {"contradiction": contradiction}


@dataclass(frozen=True, slots=True)
class Record:
    """The values of a record that a line of `duplicates.jsonl` needs."""

    id: str
    split: str
    labels: Labels
    content_hash: int
    phash: int


def _line(one: Record, first: Record, class_names: Sequence[str] | None, *, near: bool = False) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class Part:
    """A dataset whose records are compared, but for those that no longer count: of each split rising numbers."""

    manifest: Manifest
    files: Directory
    gone: Mapping[str, NDArray[np.int64]]


class _Shard(NamedTuple):
    """A shard of a part, and the numbers of the rows that no longer count."""

    split: str
    file: ShardFile
    records: int
    part: Part
    gone: NDArray[np.int64]


class Records:
    """The records of a dataset, or of several, by their place in the shards of all splits.

    Args:
        parts: the datasets. Their classes are those of the last one.
    """

    # All formats have the same records: one of them is read.
    def __init__(self, parts: Sequence[Part]) -> None:
        self.class_names = parts[-1].manifest.class_names
        self._format = parts[-1].manifest.formats[0]
        self._shards = [shard for part in parts for shard in _shards(part, self._format)]
        self._ends = np.cumsum([shard.records for shard in self._shards], dtype=np.uint64)
        self.starts = [0, *np.cumsum([_held(part.manifest) for part in parts]).tolist()]
        """The place of the first record of each part, and the number of all."""

    def hashes(self, *names: str) -> Iterator[NDArray[np.uint64]]:
        """Two columns of hashes of each shard, uint64 `[n, 2]`; of a single column the second one is of ones.

        Those of records that no longer count are zeros, which stand for a missing hash.
        """

        def read(shard: _Shard) -> NDArray[np.uint64]:
            if not set(names) <= shard.part.manifest.fields.keys():  # of before, without hashes
                return np.zeros((shard.records, 2), np.uint64)
            found = _hashes(shard.part.files, shard.file, shard.records, shard.part.manifest.fields, names)
            found[shard.gone] = 0
            return found

        return (block for part in self._parts() for block in in_order(read, part, readers_of(part[0].part.files)))

    def at(self, place: int) -> Record:
        """The values of a record."""
        number = int(np.searchsorted(self._ends, place, "right"))
        split, file, records, part, _ = self._shards[number]
        row = _row(part, file, records, place + records - int(self._ends[number]))
        start = int(row["id_offset"])
        id = part.files.read(file.path, start, start + int(row["id_length"])).decode()
        values = (self._value(part, file, records, row, name) for name in LABELS if name in part.manifest.fields)
        labels = sorted_labels(values, named=self.class_names is not None)
        content, phash = (int(row[name]) if name in part.manifest.fields else 0 for name in ("content_hash", "phash"))
        return Record(id, split, labels, content, phash)

    def _parts(self) -> Iterator[list[_Shard]]:
        """The shards of each part."""
        return (list(group) for _, group in groupby(self._shards, lambda shard: id(shard.part)))

    def _value(self, part: Part, file: ShardFile, records: int, row: np.void, name: str) -> Any:
        field = part.manifest.fields[name]
        if field.in_index:
            return row[name].tolist()
        offset, length, _ = extent_columns(name)
        path, start = file.path, int(row[offset])
        if start >= file.bytes and row[length]:  # a value that the index has
            size = index.size(file, records, part.manifest.fields)
            path, start = file.index, start - file.bytes + size - file.index_values
        data = np.frombuffer(part.files.read(path, start, start + int(row[length])), np.uint8)
        return np.ravel(SHARD_FORMATS[self._format].value(data, field)).tolist()


def _shards(part: Part, format: str) -> Iterator[_Shard]:
    for split, found in part.manifest.splits.items():
        gone, first = part.gone.get(split, np.empty(0, np.int64)), 0
        for shard in found.shards:
            start, end = np.searchsorted(gone, (first, first + shard.records))
            yield _Shard(split, shard.files[format], shard.records, part, gone[start:end] - first)
            first += shard.records


def _held(manifest: Manifest) -> int:
    """The number of records in all shards."""
    return sum(int(split.shards.records.sum()) for split in manifest.splits.values())


def _row(part: Part, file: ShardFile, records: int, number: int) -> np.void:
    start, _, dtype = index.extent(records, part.manifest.fields)
    start += number * dtype.itemsize
    row: np.void = np.frombuffer(part.files.read(file.index, start, start + dtype.itemsize), dtype)[0]
    return row


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
