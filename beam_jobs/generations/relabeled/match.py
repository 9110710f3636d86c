"""The match of a table's rows with records, in memory of one bucket, and the types of the new values."""

from __future__ import annotations

import heapq
import json
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import HASHED, Spill
from beam_jobs.generations.relabeled.table import LABEL, OBJECT_LABEL, ChangeTable, Row, rows_in
from beam_jobs.plan.schema.catalog import check_names
from beam_jobs.plan.schema.columns import INTEGER, Column, Labels, type_text
from beam_jobs.terminal import counted
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Manifest
from shard_reader.printable import printable

__all__ = ["Changes", "Types", "match", "number_in"]

_SHOWN = 5  # ids or names in a message
_HEAD = struct.Struct("<IQI")  # the number of a shard, that of a record in it, and the bytes of its values


@dataclass(frozen=True, slots=True, kw_only=True)
class Types:
    """The types of records after a change, and the classes. `names` gives the number of a class by its name."""

    fields: Mapping[str, Field]
    class_names: tuple[str, ...] | None
    names: Mapping[str, int] | None
    new_fields: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    unknown: int = 0


class Changes(Sequence[list[tuple[int, bytes]]]):
    """The changes of each shard: the number of a record among those that count, and its row as JSON.

    Shards are asked for in order, each once: those of one bucket are in memory. `touched` has the shards with changes.

    Args:
        folder: a folder for the buckets.
        shards: the number of shards.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        folder.mkdir()
        self._spill, self._shards = Spill(folder), shards
        self.touched = np.zeros(shards, bool)
        self._groups: Iterator[tuple[int, list[tuple[int, bytes]]]] | None = None
        self._next: tuple[int, list[tuple[int, bytes]]] | None = None

    def add(self, shard: int, number: int, line: bytes) -> None:
        """Add the change of one record."""
        self.touched[shard] = True
        key = (shard << 16) // self._shards
        self._spill.add(key.to_bytes(2), _HEAD.pack(shard, number, len(line)) + line)

    def __len__(self) -> int:
        return self._shards

    def __getitem__(self, shard: Any) -> Any:
        if not 0 <= shard < self._shards:
            raise IndexError(shard)
        if self._groups is None:
            self._groups = self._read()
            self._next = next(self._groups, None)
        if self._next is None or self._next[0] != shard:
            return []
        found, self._next = self._next[1], next(self._groups, None)
        return found

    def _read(self) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
        for bucket in self._spill.buckets():
            shards: dict[int, list[tuple[int, bytes]]] = {}
            position = 0
            while position < len(bucket):
                shard, number, length = _HEAD.unpack_from(bucket, position)
                position += _HEAD.size
                shards.setdefault(shard, []).append((number, bucket[position : position + length]))
                position += length
            yield from ((shard, sorted(shards[shard])) for shard in sorted(shards))


def match(
    table: ChangeTable, rows: Spill, ids: Spill, ends: NDArray[np.int64], manifest: Manifest, changes: Changes
) -> Types:
    """Find the record of each row.

    Args:
        table: the table.
        rows: its rows in buckets.
        ids: the hashes of the ids of all records that count, in buckets.
        ends: the number of records that count up to the end of each shard, over all splits, int64 `[shards]`.
        manifest: the manifest of the dataset.
        changes: receives the change of each record.

    Raises:
        UsageError: an id has two rows, a new field has no value for some records, or a value is of no type.
    """
    kinds, unknown = _Kinds(table, manifest), _Some()
    for bucket, hashes in zip(rows.buckets(), ids.buckets(), strict=True):
        wanted = _by_id(bucket, table)
        found = np.frombuffer(hashes, HASHED)
        highs = np.array([int.from_bytes(digest[:8], "little") for digest in wanted], np.uint64)
        known = set[bytes]()
        for high, low, place in found[np.isin(found["high"], highs)].tolist():
            digest = high.to_bytes(8, "little") + low.to_bytes(8, "little")
            row = wanted.get(digest)
            if row is None:
                continue
            known.add(digest)
            kinds.add(row)
            shard = int(np.searchsorted(ends, place, "right"))
            line = json.dumps([row.where, row.id, row.values]).encode()
            changes.add(shard, place - (int(ends[shard - 1]) if shard else 0), line)
        for digest, row in wanted.items():
            if digest not in known:
                unknown.add(row.number, f"{row.id!r} ({row.where})")
    return replace(kinds.types(int(ends[-1]) if len(ends) else 0, unknown), unknown=unknown.count)


def number_in(names: Mapping[str, int] | None, label: Any) -> int:
    """The number of a class.

    Raises:
        ValueError: it is no whole number of 64 bits.
    """
    if names is not None:
        return names[str(label)]
    number = int(label) if isinstance(label, int) or INTEGER.fullmatch(label) else float(label)
    if int(number) != number or not -(1 << 63) <= number < 1 << 63:
        raise ValueError("no whole number of 64 bits")
    return int(number)


class _Some:
    """The number of some things, and the first few of them by their numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, number: int, text: str) -> None:
        self.count += 1
        heapq.heappush(self._first, (-number, text))
        if len(self._first) > _SHOWN:
            heapq.heappop(self._first)

    def __str__(self) -> str:
        shown = ", ".join(printable(text) for _, text in sorted(self._first, reverse=True))
        return shown + (", ..." if self.count > len(self._first) else "")


def _by_id(bucket: bytes, table: ChangeTable) -> dict[bytes, Row]:
    """The row of each id in a bucket."""
    found: dict[bytes, Row] = {}
    for digest, row in rows_in(bucket):
        first = found.setdefault(digest, row)
        if repr(first.values) != repr(row.values):
            raise table.refused(f"{row.where}: the id {row.id!r} is that of {first.where}, with other values")
    return found


class _Kinds:
    """The kinds of the values that records get."""

    def __init__(self, table: ChangeTable, manifest: Manifest) -> None:
        self._table, self._manifest = table, manifest
        self._labels, self._counts = Labels(), Counter[str]()
        self._new = {name: Column(name) for name in table.names if name not in (*manifest.fields, LABEL)}

    def add(self, row: Row) -> None:
        """Take note of the values of a record."""
        for name, value in row.values.items():
            self._counts[name] += 1
            if name == LABEL:
                self._labels.add(self._named(value))
            elif name == OBJECT_LABEL and isinstance(value, list):
                self._labels.add([self._named(one) for one in value])
            if name in self._new:
                self._new[name].add(value)

    def _named(self, value: Any) -> Any:
        """A label, of a dataset whose classes have names, as a name."""
        if isinstance(value, list):
            return [self._named(one) for one in value]
        return str(value) if self._manifest.class_names is not None else value

    def types(self, records: int, unknown: _Some) -> Types:
        """The types of all records. `records` is the number of those that count."""
        table, before = self._table, self._manifest
        if unknown.count and not table.ignore_unknown:
            raise table.refused(
                f"no record has the ids of {counted(unknown.count, 'row')}: {unknown}; leave them out, or count them"
                " with --ignore-unknown"
            )
        fields, names = dict(before.fields), self._class_names()
        if LABEL in table.names and LABEL not in fields:
            self._new[LABEL] = Column(LABEL)
            fields[LABEL] = Field(dtype="int64", shape=(None,) if self._labels.several else ())
        declared = table.declared([name for name in self._new if name != LABEL])
        for name, column in self._new.items():
            if self._counts[name] < records:
                raise table.refused(
                    f"{printable(name)!r} is a new field, and {records - self._counts[name]} of {records} records have"
                    " no value of it"
                )
            if name not in fields:
                fields[name] = declared.get(name) or column.field(table.untyped)
            self._check_new(name, fields[name])
        check_names({name: field for name, field in fields.items() if not field.is_payload}, {})
        return Types(
            fields=fields,
            class_names=names,
            names=None if names is None else {name: number for number, name in enumerate(names)},
            new_fields=tuple(self._new),
            new_classes=(names or ())[len(before.class_names or ()) :],
        )

    def _check_new(self, name: str, field: Field) -> None:
        if name.startswith("objects/") and field.is_fixed:
            raise self._table.refused(
                f"{printable(name)!r} is {type_text(field)}: objects have a list, of one for each"
            )

    def _class_names(self) -> tuple[str, ...] | None:
        """The names of the classes after the change: new ones come behind those that are there."""
        before, labels = self._manifest, self._labels
        has_label = LABEL in before.fields or OBJECT_LABEL in before.fields
        if before.class_names is None:
            numbers = labels.are_numbers(self._table.untyped) if labels.any else True
            if has_label and not numbers:
                raise self._table.refused(
                    f"the labels of this dataset are numbers without names, and {min(labels.names)!r} is a name"
                )
            return None if numbers else tuple(sorted(labels.names))
        new = sorted(labels.names.difference(before.class_names))
        number = next((name for name in new if INTEGER.fullmatch(name)), None)
        if number is not None and not any(INTEGER.fullmatch(name) for name in before.class_names):
            raise self._table.refused(f"the label {number} is a number: give the names of classes")
        for name in new:
            if len(name.splitlines()) != 1:
                raise UsageError(f"the class {name!r} has a line break in its name, or none; rename it")
        return (*before.class_names, *new)
