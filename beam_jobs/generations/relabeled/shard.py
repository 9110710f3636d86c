"""The new indexes of one shard: its records as the reader gives them, with the changes of a table."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.generations.relabeled.match import Types, number_in
from beam_jobs.generations.relabeled.table import LABEL, OBJECT_LABEL
from beam_jobs.metadata.parquet import write_changes
from beam_jobs.plan.schema.columns import converted, type_text
from shard_reader.dataset.dataset import Dataset, shards_of_split
from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import Field, extent_columns, extent_fields
from shard_reader.format.manifest import Manifest, Shard, ShardFile, ShardTable, Split, canonical_json
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable
from shard_reader.remote.client import StoreClient
from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory, local_path

__all__ = ["Relabeled", "ShardOf", "ShardPlan", "dataset_of", "relabel_shard"]

_RETRY_FOR = 300.0
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOf:
    """A shard of a split, the rows of it that do not count, int64 `[n]`, and the names of its new indexes.

    `first` is the number of its first record among those of the split that count.
    """

    split: str
    shard: Shard
    first: int
    withdrawn: NDArray[np.int64]
    indexes: Mapping[str, str]

    @property
    def records(self) -> int:
        """The number of records that count."""
        return self.shard.records - len(self.withdrawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """The values that all shards have in common.

    `manifest` has no split, and the fields before the change. `names` are the fields that the `table` changes, and
    `parts` is the folder for rows of `metadata.parquet`; None for a dataset without such a table.
    """

    place: str
    manifest: Manifest
    types: Types
    table: str
    names: tuple[str, ...]
    parts: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabeled:
    """A shard after the change.

    Attributes:
        shard: the shard, with its new indexes; None if nothing in it changes.
        records: the number of records that changed.
        fields: the number of records in which each field changed.
        classes: the change of the number of records, or of objects, of each class.
        digest: a sum over the changed records.
        part: the file with the new values of its changed records, for `metadata.parquet`.
    """

    shard: Shard | None
    records: int
    fields: Counter[str]
    classes: Counter[int]
    digest: int
    part: Path | None


def dataset_of(place: str, manifest: Manifest, task: ShardOf, format: str | None = None) -> Dataset:
    """The records of one shard that count, as a dataset of their own."""
    format = format or manifest.formats[0]
    split = Split(records=task.records, shards=ShardTable.of([task.shard]))
    manifest = replace(manifest, splits={task.split: split})
    local, store = local_path(place), _store(place)
    shards = shards_of_split(local or place, manifest, task.split, format, store, None)
    return Dataset(local or place, manifest, task.split, format, shards, _MOST_BYTES, task.withdrawn)


def relabel_shard(plan: ShardPlan, item: tuple[int, ShardOf, Sequence[tuple[int, bytes]]]) -> Relabeled:
    """Write the new indexes of a shard, unless nothing in it changes.

    Raises:
        UsageError: a value is of another type than its field.
        CorruptionError: the shard is damaged.
    """
    number, task, lines = item
    data = dataset_of(plan.place, plan.manifest, task)
    changes = _Changes(plan, data)
    changes.read(lines)
    has_new = bool(plan.types.new_fields) and task.shard.records > 0
    shard = None
    if changes.rows or has_new:
        files, rows = directory(plan.place), data.locate(np.arange(len(data))).rows if len(data) else np.arange(0)
        made = {
            format: _new_index(plan, files, task, format, changes.rows, rows, task.indexes[format])
            for format in task.shard.files
        }
        shard = replace(task.shard, files=made)
    numbers = np.array(sorted({number for values in changes.rows.values() for number in values}), np.int64)
    part = None
    if plan.parts is not None and shard is not None and len(numbers):
        # By the reader, from the new index.
        part = plan.parts / f"{number:08d}.arrow"
        changed = replace(plan.manifest, fields=plan.types.fields)
        after = dataset_of(plan.place, changed, replace(task, shard=shard))
        values = {name: after.column(name, numbers) for name in plan.names}
        write_changes(part, task.first + numbers, values, plan.types.fields)
    counts = Counter({name: len(values) for name, values in changes.rows.items()})
    return Relabeled(
        shard=shard, records=len(numbers), fields=counts, classes=changes.classes, digest=changes.digest, part=part
    )


class _Changes:
    """The changes of a shard: in `rows`, the new values of each field, by the numbers of records that count."""

    def __init__(self, plan: ShardPlan, data: Dataset) -> None:
        self._plan, self._data = plan, data
        self.rows: dict[str, dict[int, Any]] = {}
        self.classes, self.digest = Counter[int](), 0
        self._where: dict[int, str] = {}
        self._ids: dict[int, str] = {}

    def read(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Take the values of a table that differ from those of the shard."""
        wanted: dict[str, dict[int, Any]] = {}
        for number, line in lines:
            where, id, values = json.loads(line)
            self._where[number], self._ids[number] = where, id
            for name, value in values.items():
                wanted.setdefault(name, {})[number] = self._converted(name, value, where)
        self._check_objects(wanted)
        for name, values in wanted.items():
            self._keep_different(name, values)
        for name in sorted(self.rows):
            for number, value in self.rows[name].items():
                self._add_to_digest(name, number, value)

    def _add_to_digest(self, name: str, number: int, value: Any) -> None:
        # A sum, so that it does not depend on shards and their order.
        plain = value if isinstance(value, str | list) else [value.shape, value.tobytes().hex()]
        text = canonical_json([self._ids[number], name, plain])
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self.digest = (self.digest + int.from_bytes(digest)) % (1 << 128)

    def _converted(self, name: str, value: Any, where: str) -> Any:
        """A value as the reader gives it: text as str, lists of texts as lists, all others as arrays."""
        types = self._plan.types
        field = types.fields[name]
        try:
            if name == LABEL:
                value = _label(value, field, types.names)
            elif name == OBJECT_LABEL and field.dtype == "int64" and isinstance(value, list):
                value = [number_in(types.names, one) for one in value]
            if bool(field.shape) != isinstance(value, list):
                raise ValueError("a list, or none")
            found = converted(value, field)
        except (ValueError, TypeError, OverflowError, KeyError):
            shown = f"{printable(name)} is {value!r:.80}, no {type_text(field)}"
            raise UsageError(f"TABLE {self._plan.table}: {where}: {shown}") from None
        if field.dtype == "string":
            return found
        return np.array(found, field.dtype).reshape([-1 if size is None else size for size in field.shape])

    def _check_objects(self, wanted: Mapping[str, Mapping[int, Any]]) -> None:
        """Check that lists about objects keep their number of elements."""
        names = [name for name in wanted if name.startswith("objects/")]
        numbers = np.array(sorted({number for name in names for number in wanted[name]}), np.int64)
        own = next(
            (name for name in self._data.fields if name.startswith("objects/") and _is_list(self._data, name)), None
        )
        counts: dict[int, int] = {}
        if own is not None and len(numbers):
            counts = dict(zip(numbers.tolist(), map(len, self._data.column(own, numbers)), strict=True))
        for name in names:
            for number, value in wanted[name].items():
                expected = counts.setdefault(number, len(value))
                if len(value) != expected:
                    raise UsageError(
                        f"TABLE {self._plan.table}: {self._where[number]}: {printable(name)} has {len(value)} elements,"
                        f" the record has {expected} objects"
                    )

    def _keep_different(self, name: str, values: dict[int, Any]) -> None:
        """Keep the values that differ from those of the records, and count classes."""
        is_label = name in (LABEL, OBJECT_LABEL) and self._plan.types.fields[name].dtype == "int64"
        olds: Sequence[Any] = [None] * len(values)
        if name in self._data.fields:
            olds = self._data.column(name, np.array(list(values), np.int64))  # type: ignore[assignment]
        kept: dict[int, Any] = {}
        for (number, value), old in zip(values.items(), olds, strict=True):
            if old is not None and _is_same(value, old):
                continue
            kept[number] = value
            if is_label:
                self.classes.update(np.ravel(value).tolist())
                self.classes.subtract([] if old is None else np.ravel(old).tolist())
        if kept:
            self.rows[name] = kept


class _Values:
    """The values that an index has: each once, however many records have it."""

    def __init__(self, start: int) -> None:
        self._start, self._places = start, dict[bytes, int]()
        self.data = bytearray()

    def extent(self, value: bytes) -> tuple[int, int, int]:
        """The offset, the length and the CRC-32C of a value."""
        if not value:
            return 0, 0, 0
        place = self._places.get(value)
        if place is None:
            place = self._places[value] = self._start + len(self.data)
            self.data += value
        return place, len(value), crc32c(value)


def _new_index(
    plan: ShardPlan,
    files: Directory,
    task: ShardOf,
    format: str,
    changes: Mapping[str, Mapping[int, Any]],
    rows_of: NDArray[np.int64],
    name: str,
) -> ShardFile:
    """Write the index of one file in place of that of before."""
    file, before, after = task.shard.files[format], plan.manifest.fields, plan.types.fields
    old, old_values = _stored_index(files, file, task.shard.records, before)
    rows = np.zeros(len(old), index.extent(len(old), after)[2])
    for column in old.dtype.names or ():
        rows[column] = old[column]
    values = _Values(file.bytes)
    for field in (name for name in extent_fields(before) if index.has_values(name, before)):
        columns = extent_columns(field)
        # Values of an earlier `relabel` move, those that change now, too: nothing points to the latter afterwards.
        changed = {int(rows_of[number]) for number in changes.get(field, {})}
        for row in np.flatnonzero((old[columns[0]] >= file.bytes) & (old[columns[1]] > 0)).tolist():
            if row not in changed:
                start = int(old[columns[0]][row]) - file.bytes
                value = old_values[start : start + int(old[columns[1]][row])].tobytes()
                for column, number in zip(columns, values.extent(value), strict=True):
                    rows[column][row] = number
    for field in (name for name in after if name in changes):  # in one order, whatever that of the table is
        for number, value in sorted(changes[field].items()):
            row = int(rows_of[number])
            if after[field].in_index:
                rows[field][row] = value
            else:
                extent = values.extent(_encoded(value, after[field], format))
                for column, part in zip(extent_columns(field), extent, strict=True):
                    rows[column][row] = part
    has_checksums = file.index_crc32c is not None
    data = index.to_bytes(rows, has_checksums=has_checksums, values=bytes(values.data))
    files.write(name, [data])
    return replace(
        file,
        replaced_index=name,
        index_values=len(values.data),
        index_sha256=hashlib.sha256(data).hexdigest(),
        index_crc32c=index.checksums_crc32c(rows) if has_checksums else None,
    )


def _stored_index(
    files: Directory, file: ShardFile, records: int, fields: Mapping[str, Field]
) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
    try:
        data = np.frombuffer(files.read(file.index), np.uint8)
    except FileNotFoundError:
        raise CorruptionError(f"{files.uri(file.index)}: is missing") from None
    return index.read(data, files.uri(file.index), file, records, fields), index.values_of(data, file)


def _encoded(value: Any, field: Field, format: str) -> bytes:
    return SHARD_FORMATS[format].list_bytes(value, field) if field.shape else value.encode()


def _label(value: Any, field: Field, names: Mapping[str, int] | None) -> Any:
    if not field.shape:
        return number_in(names, value)
    return sorted({number_in(names, one) for one in (value if isinstance(value, list) else [value])})


def _is_list(data: Dataset, name: str) -> bool:
    return not data.fields[name].is_fixed and not data.fields[name].is_image


def _is_same(value: Any, old: Any) -> bool:
    """Whether a value is that of the record. Bytes are compared, since a NaN is not equal to itself."""
    if isinstance(value, str):
        return value.encode() == bytes(old)
    if isinstance(value, list):
        return [text.encode() for text in value] == list(old)
    old = np.asarray(old, value.dtype)
    return bool(value.shape == old.shape and value.tobytes() == old.tobytes())


@functools.lru_cache(4)
def _store(place: str) -> StoreClient | None:
    return None if local_path(place) is not None else StoreClient(place, _RETRY_FOR)
