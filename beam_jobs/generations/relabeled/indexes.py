"""A new index in place of that of a shard: its rows with other values, and the values that are not in the shard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import Field, extent_columns, extent_fields
from shard_reader.format.manifest import ShardFile
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.storage.directory import Directory

__all__ = ["Fields", "write_index"]

Fields = Mapping[str, Field]
Changes = Mapping[str, Mapping[int, Any]]
"""For each field the new values, by their rows: texts as str, lists of texts as lists, all others as arrays."""


def write_index(
    stored: Directory,
    target: Directory,
    name: str,
    file: ShardFile,
    records: int,
    fields: tuple[Fields, Fields],
    format: str,
    changes: Changes,
) -> ShardFile:
    """Write an index in place of that of a shard. Returns the shard with it.

    Args:
        stored: the directory with the shard.
        target: the directory for the index.
        name: the name of the index there.
        file: the shard, with the index of before.
        records: the number of its records.
        fields: the fields of its records before and after the change.
        format: its format.
        changes: the new values.

    Raises:
        CorruptionError: the index of before is missing, or damaged.
    """
    before, after = fields
    old, old_values = _stored_index(stored, file, records, before)
    rows = np.zeros(len(old), index.extent(len(old), after)[2])
    for column in old.dtype.names or ():
        rows[column] = old[column]
    values = _Values(file.bytes)
    _keep_values(rows, values, old_values, before, changes)
    for field in (field for field in after if field in changes):  # in one order, whatever that of the changes is
        for row, value in sorted(changes[field].items()):
            if after[field].in_index:
                rows[field][row] = value
            else:
                _set_extent(rows, field, row, values.extent(_encoded(value, after[field], format)))
    has_checksums = file.index_crc32c is not None
    data = index.to_bytes(rows, has_checksums=has_checksums, values=bytes(values.data))
    target.write(name, [data])
    return replace(
        file,
        replaced_index=name,
        index_values=len(values.data),
        index_sha256=hashlib.sha256(data).hexdigest(),
        index_crc32c=index.checksums_crc32c(rows) if has_checksums else None,
    )


class _Values:
    """The values that an index has: each once, however many records have it."""

    def __init__(self, start: int) -> None:
        self.start, self._places = start, dict[bytes, int]()
        self.data = bytearray()

    def extent(self, value: bytes) -> tuple[int, int, int]:
        """The offset, the length and the CRC-32C of a value."""
        if not value:
            return 0, 0, 0
        place = self._places.get(value)
        if place is None:
            place = self._places[value] = self.start + len(self.data)
            self.data += value
        return place, len(value), crc32c(value)


def _keep_values(
    rows: NDArray[np.void], values: _Values, old_values: NDArray[np.uint8], before: Fields, changes: Changes
) -> None:
    """Move the values of an earlier change that stay what they are."""
    for field in (name for name in extent_fields(before) if index.has_values(name, before)):
        offset, length, _ = extent_columns(field)
        changed = changes.get(field, {})
        for row in np.flatnonzero((rows[offset] >= values.start) & (rows[length] > 0)).tolist():
            if row not in changed:
                start = int(rows[offset][row]) - values.start
                value = old_values[start : start + int(rows[length][row])].tobytes()
                _set_extent(rows, field, row, values.extent(value))


def _set_extent(rows: NDArray[np.void], field: str, row: int, extent: tuple[int, int, int]) -> None:
    for column, number in zip(extent_columns(field), extent, strict=True):
        rows[column][row] = number


def _stored_index(
    files: Directory, file: ShardFile, records: int, fields: Fields
) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
    try:
        data = np.frombuffer(files.read(file.index), np.uint8)
    except FileNotFoundError:
        raise CorruptionError(f"{files.uri(file.index)}: is missing") from None
    return index.read(data, files.uri(file.index), file, records, fields), index.values_of(data, file)


def _encoded(value: Any, field: Field, format: str) -> bytes:
    return SHARD_FORMATS[format].list_bytes(value, field) if field.shape else value.encode()
