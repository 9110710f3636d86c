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
from beam_jobs.generations.relabeled.indexes import write_index
from beam_jobs.generations.relabeled.match import Types, number_in
from beam_jobs.generations.relabeled.table import LABEL, OBJECT_LABEL
from beam_jobs.metadata.parquet import write_changes
from beam_jobs.plan.schema.columns import converted, type_text
from shard_reader.dataset.dataset import Dataset, shards_of_split
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Manifest, Shard, ShardTable, Split, canonical_json
from shard_reader.printable import printable
from shard_reader.remote.client import StoreClient
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
        by_row = {
            name: {int(rows[number]): value for number, value in values.items()}
            for name, values in changes.rows.items()
        }
        both = plan.manifest.fields, plan.types.fields
        made = {
            format: write_index(files, files, task.indexes[format], file, task.shard.records, both, format, by_row)
            for format, file in task.shard.files.items()
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
