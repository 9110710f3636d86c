"""Inputs with the same bytes: the list of them, and the inputs that are left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.external_sort import EqualHashes, find_equal_hashes
from beam_jobs.plan.order import Duplicate, Ordered
from beam_jobs.sources.files.interface import Reference
from shard_reader.format.fields import extent_columns, index_dtype
from shard_reader.format.manifest import Manifest, ShardFile, index_name
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory

__all__ = ["DroppedInputs", "HashedInputs", "dropped_inputs", "list_duplicates"]

Labels = tuple[int, ...]
_LABELS = ("label", "objects/label")


class _Contradictions:
    """Finds inputs whose labels differ from those of an earlier input with the same bytes.

    An input without labels contradicts none.
    """

    def __init__(self) -> None:
        self._said: dict[int, Labels] = {}  # the first labels of bytes whose first input has none

    def has(self, first: int, first_labels: Labels, labels: Labels) -> bool:
        """Whether labels differ from the earlier ones. `first` is the place of the first input with these bytes."""
        return bool(labels) and labels != (first_labels or self._said.setdefault(first, labels))


@dataclass(frozen=True, slots=True)
class HashedInputs:
    """All inputs in one order, some with the bytes of an earlier one.

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

    def contradicting(self) -> NDArray[np.bool_]:
        """Which of the inputs with the bytes of an earlier one have other labels."""
        contradictions = _Contradictions()
        pairs = zip(self.equal.places.tolist(), self.equal.firsts.tolist(), strict=True)
        found = (contradictions.has(first, self.labels(first), self.labels(place)) for place, first in pairs)
        return np.fromiter(found, bool, len(self.equal.places))

    def id(self, rank: int) -> str:
        """The id of an input."""
        return self._reference(rank).id

    def labels(self, rank: int) -> Labels:
        """The labels of an input, sorted."""
        values = self._reference(rank).values
        return _sorted(values.get(name) for name in _LABELS)

    def _reference(self, rank: int) -> Reference:
        start, end = self.ordered.starts([rank, rank + 1])
        return Reference(*json.loads(self.files.read(self.name, start, end)))


@dataclass(frozen=True, slots=True)
class DroppedInputs:
    """The inputs to leave out, in order. Can be iterated over several times.

    Args:
        inputs: all inputs.
        equal: the ranks of the inputs to leave out, each with that of another input of the same bytes.
        contradicting: which of them are left out of bytes with several labels.
    """

    inputs: HashedInputs
    equal: EqualHashes
    contradicting: NDArray[np.bool_]

    def __iter__(self) -> Iterator[Duplicate]:
        ranks = zip(self.equal.places.tolist(), self.equal.firsts.tolist(), self.contradicting.tolist(), strict=True)
        for rank, other, contradicts in ranks:
            yield Duplicate(rank, self.inputs.id(other), contradicts)


def dropped_inputs(inputs: HashedInputs, rule: str | None, class_names: Sequence[str] | None) -> DroppedInputs:
    """The inputs to leave out, so that one of each remains.

    Args:
        inputs: all inputs.
        rule: of inputs with the same bytes and other labels: "first" keeps the first one, "drop" none.
        class_names: the names of labels, for a message.

    Raises:
        JobError: there are such inputs, and no rule.
    """
    equal, contradicting = inputs.equal, inputs.contradicting()
    if rule is None and contradicting.any():
        raise JobError(_contradiction_text(inputs, contradicting, class_names))
    if rule == "drop":
        groups, where = np.unique(equal.firsts[contradicting], return_index=True)
        places = np.concatenate([equal.places, groups])
        others = np.concatenate([equal.firsts, equal.places[contradicting][where]])
        contradicting = np.concatenate([np.isin(equal.firsts, groups), np.ones(len(groups), bool)])
        order = np.argsort(places)
        equal, contradicting = EqualHashes(places[order], others[order]), contradicting[order]
    return DroppedInputs(inputs, equal, contradicting)


def _contradiction_text(
    inputs: HashedInputs, contradicting: NDArray[np.bool_], class_names: Sequence[str] | None
) -> str:
    place = int(np.flatnonzero(contradicting)[0])
    pair = (int(inputs.equal.firsts[place]), int(inputs.equal.places[place]))
    first, second = (
        f"{printable(inputs.id(rank))} ({', '.join(map(str, _named(inputs.labels(rank), class_names))) or 'no label'})"
        for rank in pair
    )
    return (
        f"--drop-duplicates: {contradicting.sum()} of {len(contradicting)} duplicates have another label than an"
        f" earlier input with the same bytes, as {first} and {second}: correct INPUT, or"
        " give --duplicate-labels first, to keep the first of each, or --duplicate-labels drop, to keep none of these"
    )


def _sorted(values: Iterable[Any]) -> Labels:
    """Whole numbers, and those of lists, sorted."""
    listed = (value if isinstance(value, list) else [value] for value in values)
    return tuple(sorted(label for labels in listed for label in labels if isinstance(label, int)))


def _named(labels: Labels, class_names: Sequence[str] | None) -> list[int | str]:
    return [class_names[label] for label in labels] if class_names is not None else list(labels)


def list_duplicates(manifest: Manifest, output: Directory, scratch: Path) -> Iterator[dict[str, Any]]:
    """A line of `duplicates.jsonl` for each record whose input has the bytes of an earlier one.

    Args:
        manifest: the manifest of the dataset.
        output: the directory of its files.
        scratch: a folder for temporary files.
    """
    records, contradictions = _Records(manifest, output), _Contradictions()
    found = find_equal_hashes(records.hashes(), scratch)
    for place, first in zip(found.places.tolist(), found.firsts.tolist(), strict=True):
        (id, split, labels), (first_id, first_split, first_labels) = records.at(place), records.at(first)
        yield {
            "id": id,
            "split": split,
            "labels": _named(labels, manifest.class_names),
            "first_id": first_id,
            "first_split": first_split,
            "first_labels": _named(first_labels, manifest.class_names),
            "leak": split != first_split,
            "contradiction": contradictions.has(first, first_labels, labels),
        }


class _Records:
    """The records of a dataset, by their place in the shards of all splits."""

    # All formats have the same records: one of them is read.
    def __init__(self, manifest: Manifest, output: Directory) -> None:
        self._output, self._format = output, manifest.formats[0]
        self._fields = manifest.fields
        self._dtype = np.dtype(index_dtype(manifest.fields))
        self._files = [
            (name, shard.files[self._format], shard.records)
            for name, split in manifest.splits.items()
            for shard in split.shards
        ]
        self._ends = np.cumsum([records for _, _, records in self._files], dtype=np.uint64)

    def hashes(self) -> Iterator[NDArray[np.uint64]]:
        """The hashes of each shard."""
        return (_hashes(self._output, file, records, self._dtype) for _, file, records in self._files)

    def at(self, place: int) -> tuple[str, str, Labels]:
        """The id, the split and the labels of a record."""
        number = int(np.searchsorted(self._ends, place, "right"))
        split, file, _ = self._files[number]
        row = self._row(file, int(self._ends[number]) - place)
        start = int(row["id_offset"])
        id = self._output.read(file.path, start, start + int(row["id_length"])).decode()
        return id, split, _sorted(self._value(file, row, name) for name in _LABELS if name in self._fields)

    def _row(self, file: ShardFile, from_end: int) -> np.void:
        with self._output.open(index_name(file.path)) as index:
            index.seek(-from_end * self._dtype.itemsize, os.SEEK_END)
            row: np.void = np.frombuffer(index.read(self._dtype.itemsize), self._dtype)[0]
        return row

    def _value(self, file: ShardFile, row: np.void, name: str) -> Any:
        field = self._fields[name]
        if field.in_index:
            return row[name].tolist()
        offset, length, _ = extent_columns(name)
        start = int(row[offset])
        data = np.frombuffer(self._output.read(file.path, start, start + int(row[length])), np.uint8)
        return np.ravel(SHARD_FORMATS[self._format].value(data, field)).tolist()


def _hashes(output: Directory, file: ShardFile, records: int, dtype: np.dtype[Any]) -> NDArray[np.uint64]:
    """The hashes in an index, as uint64 `[n, 2]` with the stored 64 bits in the first column."""
    # 64 bits are enough for a list: among ten million inputs, two have the same by chance once in 370,000 datasets.
    # Inputs that are left out are compared by 128 bits.
    data = output.read(index_name(file.path))
    rows = np.frombuffer(data, dtype, records, len(data) - records * dtype.itemsize)
    high = rows["content_hash"].astype(np.int64).view(np.uint64)
    return np.stack([high, np.ones_like(high)], 1)  # ones, since a hash of zeros would count as missing
