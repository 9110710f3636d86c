"""A shard in use: its memory map, and the record that belongs to a row of its index."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError, ShardsError
from shard_reader.format import index
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import IMAGE, MAX_PIXELS, Field, extent_columns, extent_fields, size_columns
from shard_reader.format.image_codecs.table import decode_image
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable
from shard_reader.system.memory_map import address

__all__ = ["CHECK_SECONDS", "MOST_LOOKED_UP", "MOST_OPEN", "OUTSIDE", "OpenShard"]

OUTSIDE = "its index points outside of it: the index was damaged, or changed after it was opened"

# A shard takes two maps, and the kernel allows a process 65,530 of them. Two lookups of each dataset, of
# `MOST_LOOKED_UP` records in shards of their own, may keep shards alive that are no longer open.
MOST_OPEN = 20_000
MOST_LOOKED_UP = 4_096
CHECK_SECONDS = 1.0  # between two looks at the sizes of a mapped shard's files
_NONE: NDArray[np.uint8] = np.empty(0, np.uint8)


class OpenShard:
    """A shard with its index in memory.

    Args:
        uri: path or URL of the file, for messages.
        name: name of the file.
        rows: the index, a structured array with a row for each record.
        data: every byte of the file, uint8, if it is mapped.
        max_pixels: the most pixels of an encoded image.
        file_bytes: the size of the file.
        values: the values that its index has, uint8 `[n]`. Extents from `file_bytes` on are theirs.

    Attributes:
        data_size: bytes of the file in memory; 0 if it is not mapped.
        memory: the address of the index in memory; that of the file, or 0; `data_size`; and a number that shards have
            in common whose rows are of the same dtype. As the bytes of int64: those of many shards become one array.
    """

    # Strings and lists are checked against their checksums whenever they are read, even with verify="never": it costs
    # less than finding out where they are.

    def __init__(
        self,
        uri: str,
        name: str,
        rows: NDArray[np.void],
        fields: Mapping[str, Field],
        format: str,
        data: NDArray[np.uint8] | None = None,
        max_pixels: int = MAX_PIXELS,
        file_bytes: int = 0,
        values: NDArray[np.uint8] = _NONE,
    ) -> None:
        self._file_bytes, self._index_values = file_bytes, values
        self.uri, self.name, self.rows, self.fields, self.format = uri, name, rows, fields, format
        self._data, self.max_pixels = data, max_pixels
        self.data_size = 0 if data is None else data.size
        self.memory = struct.pack(
            "=4q", address(rows), address(data) if data is not None else 0, self.data_size, id(rows.dtype)
        )

    # Views of some columns take longer than mapping a file, and most shards of a shuffle never need them.
    @cached_property
    def _extents(self) -> dict[str, NDArray[np.void]]:
        return {name: self.rows[self._columns(name)] for name in extent_fields(self.fields)}

    def _columns(self, name: str) -> list[str]:
        is_image = self.fields[name].is_image
        return [*extent_columns(name), *(size_columns(name) if is_image else ())]

    @property
    def is_mapped(self) -> bool:
        """Whether the file is in memory as a whole."""
        return self._data is not None

    def stored(self, start: int, length: int) -> NDArray[np.uint8]:
        """Some bytes of the file.

        Raises:
            CorruptionError: they lie outside of the file.
        """
        assert self._data is not None  # shards that are not mapped override this method
        found = self._data[start : start + length]
        if len(found) != length:
            raise CorruptionError(f"{self.uri}: {OUTSIDE}")
        return found

    def refetched(self, start: int, length: int, checksum: int) -> NDArray[np.uint8] | None:
        """Sound bytes in place of damaged ones; None if there is no other source, or it has them damaged, too."""
        del start, length, checksum
        return None

    def holding(self, row: int, fields: Iterable[str]) -> OpenShard:
        """This shard, with some fields of a record in memory."""
        del row, fields
        return self

    def describe(self, row: int) -> str:
        """The place of a record, for error messages: dataset, shard, row and, unless it is damaged, id."""
        try:
            return f"{self.uri}: row {row}, id {self.id(row).decode('utf-8', 'backslashreplace')!r}"
        except ShardsError:
            return f"{self.uri}: row {row}"

    def id(self, row: int) -> bytes:
        """The id of a record as UTF-8; FILE:ROW where records have no ids.

        Raises:
            CorruptionError: the id is damaged.
        """
        if "id" not in self.fields:
            return f"{self.name}:{row}".encode()
        return self._extent("id", row).tobytes()

    def image(self, row: int, name: str = IMAGE) -> NDArray[Any]:
        """The pixels of an image of one record, `[height, width, channels]`; raw ones as a read-only view of the map.

        Raises:
            CorruptionError: the image is damaged.
        """
        *_, height, width = self._extents[name][row].item()
        payload = self.payload(row, name)
        try:
            return decode_image(payload, self.fields[name], height, width, max_pixels=self.max_pixels)
        except (ValueError, OSError) as error:
            raise self.damage(row, error, name) from error

    def payload(self, row: int, name: str = IMAGE) -> NDArray[np.uint8]:
        """The bytes of an image, checked: an encoded file, or raw pixels.

        Raises:
            CorruptionError: the bytes are damaged.
        """
        start, length, checksum, _, _ = self._extents[name][row].item()
        payload: NDArray[np.uint8] | None = self.stored(start, length)
        if payload is None or crc32c(payload) != checksum:
            payload = self.refetched(start, length, checksum)
        if payload is None:
            raise self.damage(row, "is damaged (CRC mismatch)", name)
        return payload

    def damage(self, row: int, reason: object, name: str = IMAGE) -> CorruptionError:
        """The error for an unreadable image."""
        return CorruptionError(f"{self.describe(row)}: {self.called(name)} {reason}")

    @staticmethod
    def called(name: str) -> str:
        """What messages call an image."""
        return "the image" if name == IMAGE else f"the image {printable(name)!r}"

    def value(self, name: str, row: int) -> Any:
        """A field of one record that is no image: a number or an array of the index, `bytes`, or a list.

        Raises:
            CorruptionError: a string or a list is damaged.
        """
        if name == "id":
            return self.id(row)
        field = self.fields[name]
        if field.in_index:
            return self.rows[name][row]
        try:
            return self._decode(self._extent(name, row), field)
        except ValueError as error:
            raise CorruptionError(f"{self.describe(row)}: {name!r} is damaged ({printable(str(error))})") from error

    def _extent(self, name: str, row: int) -> NDArray[np.uint8]:
        """The bytes of a string, of a list, or of a field of bytes.

        Raises:
            CorruptionError: the bytes are damaged.
        """
        start, length, checksum = self._extents[name][row].item()
        data: NDArray[np.uint8] | None
        if self._index_values.size and start >= self._file_bytes and index.has_values(name, self.fields):
            data = self._value(start - self._file_bytes, length)
            data = data if crc32c(data) == checksum else None
        else:
            data = self.stored(start, length)
            if crc32c(data) != checksum:
                data = self.refetched(start, length, checksum)
        if data is None:
            # `describe` reads the id: for a damaged id it would come back here.
            where = f"{self.uri}: row {row}" if name == "id" else self.describe(row)
            raise CorruptionError(f"{where}: {name!r} is damaged (CRC mismatch)")
        return data

    def _value(self, start: int, length: int) -> NDArray[np.uint8]:
        """Some bytes of the values that the index has.

        Raises:
            CorruptionError: they lie outside of these.
        """
        found = self._index_values[start : start + length]
        if len(found) != length:
            raise CorruptionError(f"{self.uri}: {OUTSIDE}")
        return found

    def _decode(self, data: NDArray[np.uint8], field: Field) -> Any:
        """Bytes, a string or a list from its bytes."""
        if not field.shape:
            return data.tobytes()
        return SHARD_FORMATS[self.format].value(data, field)
