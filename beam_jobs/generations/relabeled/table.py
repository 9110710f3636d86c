"""The table of `relabel`: new values by id, in buckets on disk by the hashes of ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from beam_jobs.errors import UsageError
from beam_jobs.external_sort import Spill, bucket_key
from beam_jobs.sources.files.annotations.objects import ObjectColumns
from beam_jobs.sources.files.annotations.payloads import PayloadColumns
from beam_jobs.sources.files.interface import BadInput, SourceOptions
from beam_jobs.sources.tabular.columns import LABEL_COLUMNS, ROW_NUMBERS, RowColumns, column, listed
from beam_jobs.sources.tabular.parts import columns_of_parts, rows_of_parts, table_parts
from shard_reader.format.fields import RESERVED_NAMES, Field
from shard_reader.format.manifest import Manifest
from shard_reader.printable import printable

__all__ = ["LABEL", "OBJECT_LABEL", "ChangeTable", "RelabelOptions", "Row", "id_hash", "rows_in"]

LABEL = "label"
OBJECT_LABEL = "objects/label"

_HEAD = struct.Struct("<16sI")  # the hash of an id, and the bytes of its row as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelOptions:
    """The options of `relabel`. None stands for a column that is recognised.

    `ignore_unknown` counts ids that no record has, which are otherwise an error.
    """

    place: str
    table: str
    id_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    fields: tuple[str, ...] | None = None
    ignore_unknown: bool = False


class Row(NamedTuple):
    """A row of the table: its number among all, its place in words, its id, and the values it has, by field."""

    number: int
    where: str
    id: str
    values: dict[str, Any]


class ChangeTable:
    """A table, and the meaning of its columns.

    Args:
        options: the options.
        manifest: the manifest of the dataset to change.

    Raises:
        UsageError: it is no table, or has a column that no record can take.
    """

    def __init__(self, options: RelabelOptions, manifest: Manifest) -> None:
        self._options, self._fields = options, manifest.fields
        self.place, self.ignore_unknown = options.table, options.ignore_unknown
        with self._reading():
            self._parts = table_parts(options.table, self.refused)
            names = columns_of_parts(self._parts)
        self._columns = self._recognised(names)
        self._names = names
        self.untyped = not self._parts[0].typed
        for name in self.names:
            self._check(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that it changes."""
        return (*([LABEL] if self._columns.label is not None else []), *self._columns.fields)

    def declared(self, names: Sequence[str]) -> Mapping[str, Field]:
        """The types of columns, as far as the file declares them."""
        return self._parts[0].fields(names)

    def refused(self, message: str) -> UsageError:
        """An error that names the table."""
        return UsageError(f"TABLE {self._options.table}: {message}")

    def add_to(self, spill: Spill) -> int:
        """Put all rows into buckets, by the hashes of their ids. The number of rows.

        Raises:
            UsageError: a row is damaged, or has no id.
        """
        with self._reading():
            return self._add_to(spill)

    def _add_to(self, spill: Spill) -> int:
        rows = 0
        for rows, row in enumerate(self._rows(), 1):  # noqa: B007
            digest = id_hash(row.id.encode())
            try:
                line = json.dumps(row).encode()
            except TypeError as error:
                raise self.refused(f"{row.where}: {error}; leave the column out with --fields") from error
            spill.add(bucket_key(int.from_bytes(digest[:8], "little")), _HEAD.pack(digest, len(line)) + line)
        if not rows:
            raise self.refused("has no row")
        return rows

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of a table that is not there, in words."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.refused("does not exist") from error
        except PermissionError as error:
            raise self.refused("may not be read") from error

    def _rows(self) -> Iterator[Row]:
        columns = self._columns
        found = rows_of_parts(self._parts, self._names, columns.wanted)
        for number, (part, own, values) in enumerate(found):
            where = f"{part.name} {part.unit} {own}"
            if isinstance(values, BadInput):
                raise self.refused(f"{where}: {values}")
            row = dict(zip(columns.wanted, values, strict=True))
            try:
                id = columns.id_of(row, "")
                given = {name: row[name] for name in columns.fields if not self._is_missing(name, row[name])}
                if columns.label is not None and (label := self._label(row, where)) is not None:
                    given[LABEL] = label
            except BadInput as bad:
                raise self.refused(f"{where}: {bad}") from bad
            yield Row(number, where, id, given)

    def _label(self, row: Mapping[str, Any], where: str) -> Any:
        assert self._columns.label is not None  # as the caller has seen
        value = row[self._columns.label]
        # With a separator, an empty cell of a text is an image without labels.
        is_list = self._options.label_separator is not None and isinstance(value, str)
        return None if _is_empty(value) and not is_list else self._columns.label_of(row, where)

    def _is_missing(self, name: str, value: Any) -> bool:
        """Whether a row has no value of a field. An empty text of a file with types is a value of a field of texts."""
        field = self._fields.get(name)
        is_text = not self.untyped and value == "" and (field is None or field.dtype == "string")
        return _is_empty(value) and not is_text

    def _recognised(self, names: Sequence[str]) -> RowColumns:
        given = self._options
        own = (*(given.fields or ()), *(name for name in self._fields if name != LABEL))
        options = SourceOptions(input=given.table, label_separator=given.label_separator)
        for name in given.fields or ():
            column("--fields", name, (), names, options)
        id = column("--id-column", given.id_column, ("id",), names, options)
        if id is None:
            raise self.refused(f"which column has the ids of records? give --id-column; it has {listed(names)}")
        free = [name for name in names if name != id and name not in own]
        label = column("--label-column", given.label_column, LABEL_COLUMNS, names, options, free)
        rest = [name for name in names if name not in (id, label) and not ROW_NUMBERS.fullmatch(name)]
        fields = tuple(rest) if given.fields is None else given.fields
        if label is None and given.label_separator is not None:
            raise self.refused(f"--label-separator: no column has labels; give --label-column; it has {listed(names)}")
        if label is None and not fields:
            raise self.refused(f"has no column but ids; it has {listed(names)}")
        return RowColumns(
            options=options,
            image=id,
            id=id,
            label=label,
            split=None,
            objects=ObjectColumns.of(options),
            fields=fields,
            left_out=(),
            payloads=PayloadColumns.of(options),
        )

    def _check(self, name: str) -> None:
        """Check that a column may change records."""
        field, shown = self._fields.get(name), printable(name)
        if name == LABEL and self._columns.label is not None:
            if field is None and OBJECT_LABEL in self._fields:
                raise self.refused(f"the classes of this dataset are those of objects: give a column {OBJECT_LABEL}")
            return
        if name in RESERVED_NAMES or name == "split":
            what = "describes the image, or its place, and stays as it is"
            raise self.refused(f'the column "{shown}" {what}; leave it out with --fields')
        if field is not None and field.is_payload:
            kind = "images" if field.is_image else "bytes"
            raise self.refused(f'the field "{shown}" is of {kind}, which no table changes; leave it out with --fields')


def id_hash(id: bytes) -> bytes:
    """128 bits of an id."""
    return hashlib.blake2b(id, digest_size=16).digest()


def rows_in(bucket: bytes) -> Iterator[tuple[bytes, Row]]:
    """Each row of a bucket, with the hash of its id."""
    position = 0
    while position < len(bucket):
        digest, length = _HEAD.unpack_from(bucket, position)
        position += _HEAD.size
        yield digest, Row(*json.loads(bucket[position : position + length]))
        position += length


def _is_empty(value: Any) -> bool:
    """Whether a cell has nothing in it: pandas writes NaN for a missing value."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
