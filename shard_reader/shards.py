"""The shards in use: their memory maps, and what a row of their index means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader import example, index
from shard_reader.checksum import crc32c
from shard_reader.decode import decode_image
from shard_reader.errors import CorruptionError
from shard_reader.format import Field, Shard, ShardFile
from shard_reader.mapping import address, map_file

__all__ = ["MOST_OPEN", "OpenShard", "OpenShards"]

MOST_OPEN = 8_000  # of two maps each, and as many again in use: the kernel allows a process 65,530 maps


class OpenShard:
    """A shard whose file and index are mapped, both checked against the manifest.

    Attributes:
        data: every byte of the file, uint8.
        rows: the index, a structured array with a row for each record.
        data_address, rows_address: where they lie in memory.
    """

    def __init__(self, directory: Path, shard: Shard, fields: Mapping[str, Field], format: str) -> None:
        file: ShardFile = shard.files[format]
        self.path = directory / file.path
        self.fields, self.format = fields, format
        try:
            self.data = map_file(self.path, file.bytes)
        except FileNotFoundError:
            raise CorruptionError(f"{self.path}: is missing") from None
        self.rows = index.load(directory, file, shard.records, fields)
        self._extents = self.rows[["offset", "length", "crc32c", "height", "width"]]
        self.data_address, self.rows_address = address(self.data), address(self.rows)

    def describe(self, row: int) -> str:
        """Where a record is, for error messages: dataset, shard, row and id."""
        return f"{self.path}: row {row}, id {self.id(row).decode('utf-8', 'backslashreplace')!r}"

    def id(self, row: int) -> bytes:
        """The id of a record as UTF-8; FILE:ROW where records have none."""
        if "id" not in self.fields:
            return f"{self.path.name}:{row}".encode()
        return self._extent("id", row).tobytes()

    def image(self, row: int) -> NDArray[Any]:
        """The pixels of one record, `[height, width, channels]`; raw ones as a read-only view of the map.

        Raises:
            CorruptionError: they are damaged.
        """
        start, length, checksum, height, width = self._extents[row].item()
        payload = self.data[start : start + length]
        if crc32c(payload) != checksum:
            raise self.damage(row, "is damaged (CRC mismatch)")
        try:
            return decode_image(payload, self.fields["image"], height, width)
        except (ValueError, OSError) as error:
            raise self.damage(row, error) from error

    def damage(self, row: int, reason: object) -> CorruptionError:
        """The error for a record whose image cannot be read."""
        return CorruptionError(f"{self.describe(row)}: the image {reason}")

    def value(self, name: str, row: int) -> Any:
        """A field of one record that is no image: as the index has it, or bytes, an array, a list of bytes.

        Raises:
            CorruptionError: a list cannot be read.
        """
        if name == "id":
            return self.id(row)
        field = self.fields[name]
        if field.in_index:
            return self.rows[name][row]
        try:
            return self._decode(self._extent(name, row), field)
        except ValueError as error:
            raise CorruptionError(f"{self.describe(row)}: {name!r} is damaged ({error})") from error

    def _extent(self, name: str, row: int) -> NDArray[np.uint8]:
        found = self.rows[row]
        start = int(found[f"{name}_offset"])
        return self.data[start : start + int(found[f"{name}_length"])]

    def _decode(self, data: NDArray[np.uint8], field: Field) -> Any:
        """A string or a list from its bytes, which the two formats have in their own ways."""
        if not field.shape:
            return data.tobytes()
        shape = (-1, *(size or 0 for size in field.shape[1:]))
        if self.format == "hdf5":
            if field.dtype == "string":
                return [text.encode() for text in json.loads(data.tobytes() or b"[]")]
            return np.frombuffer(data, np.dtype(field.dtype).newbyteorder("<")).reshape(shape).copy()
        values = example.values(data, example.Feature(example.KINDS[field.dtype], slice(0, len(data))))
        if field.dtype == "string":
            return [data[span].tobytes() for span in values]  # type: ignore[index]
        return np.array(values, field.dtype).reshape(shape)


class OpenShards:
    """The shards that were touched last, by number; each is checked when it is opened.

    No lock, which a fork could leave locked: two threads may both map a shard, and one map is dropped.
    """

    def __init__(self, directory: Path, shards: Sequence[Shard], fields: Mapping[str, Field], format: str) -> None:
        self._arguments = (directory, shards, fields, format)
        self._open: dict[int, OpenShard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # maps stay in their process

    def __getitem__(self, number: int) -> OpenShard:
        """Shard `number`, opened if it is not open.

        Raises:
            CorruptionError: it, or its index, is missing or is not that of the manifest.
            OSError: it cannot be read.
        """
        shard = self._open.get(number)
        if shard is None:
            directory, shards, fields, format = self._arguments
            shard = self._open[number] = OpenShard(directory, shards[number], fields, format)
            for oldest in list(self._open)[:-MOST_OPEN]:
                self._open.pop(oldest, None)  # whoever uses it keeps it
        return shard

    def close(self) -> None:
        """Drop the maps; those that arrays are views of go with the arrays."""
        self._open.clear()
