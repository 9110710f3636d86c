"""Places of the values of one column of binary values in a Parquet file.

PyArrow reads values of whole pages, which may be as large as a row group. Here only headers of pages, levels and the
lengths of values are read (https://parquet.apache.org/docs/file-format/data-pages/). Headers are structs in Thrift's
compact protocol (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sources.files.tables.page_bodies import Body, Damaged, PlainBody, Read, body_of, varint

__all__ = ["Chunk", "Place", "RowGroup", "chunk_of", "places", "row_groups"]

Place = list[Any]
"""The place of a value, as `page_bodies` has it."""

_HEADER = 1 << 12  # bytes of the header of a page, and the most with statistics in it
_LARGEST_HEADER = 1 << 24
_MOST_VALUES = 1 << 22  # of a page
_MOST_KEPT = 1 << 18  # values of a dictionary, whose places are in memory
_DEEPEST = 16  # levels of structs in a header
_PLAIN, _DICTIONARIES, _RLE = 0, (2, 8), 3
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4 of Hadoop", "ZSTD", "LZ4")
_DATA, _INDEX, _DICTIONARY, _DATA_2 = 0, 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One column of one row group: its bytes in the file, its codec, and the levels of a value that is not null."""

    start: int
    end: int
    codec: str
    definition: int
    repetition: int
    rows: int


class StoredColumn(NamedTuple):
    """A column of a row group, as the footer describes it. `path` is its name in the schema of Parquet."""

    path: str
    codec: str
    size: int
    packed: int
    start: int


class RowGroup(NamedTuple):
    """A row group, as the footer describes it."""

    rows: int
    columns: list[StoredColumn]


def row_groups(read: Read, size: int) -> Iterator[RowGroup]:
    """The row groups of a file of `size` bytes.

    PyArrow gives them, too, but a footer with wrong statistics ends its process there.

    Raises:
        Damaged: the footer is damaged.
    """
    (length,) = struct.unpack("<I", read(size - 8, size - 4).rjust(4, b"\0"))
    data = read(max(0, size - 8 - length), size - 8)
    try:
        footer, _ = _struct(data, 0)
        groups = footer[4]
        for group in groups:
            yield RowGroup(_number(group, 3), [_stored(column[3]) for column in group[1]])
    except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged("has a damaged footer") from error


def _stored(column: dict[int, Any]) -> StoredColumn:
    starts = [_number(column, 9), *([_number(column, 11)] if column.get(11) else [])]
    return StoredColumn(
        path=".".join(part.decode() for part in column[3]),
        codec=_CODECS[_number(column, 4)],
        size=_number(column, 6),
        packed=_number(column, 7),
        start=min(starts),
    )


def chunk_of(group: RowGroup, path: str, levels: Any) -> Chunk:
    """The chunk of a column of binary values, with its levels in the schema of Parquet.

    Raises:
        Damaged: the row group does not have it.
    """
    column = next((column for column in group.columns if column.path == path), None)
    if column is None:
        raise Damaged(f'has a row group without the column "{path}"')
    return Chunk(
        start=column.start,
        end=column.start + column.packed,
        codec=column.codec,
        definition=levels.max_definition_level,
        repetition=levels.max_repetition_level,
        rows=group.rows,
    )


def places(read: Read, chunk: Chunk) -> Iterator[Place | None]:
    """The place of the first value of each row; None if the row has none, or it is null.

    Raises:
        Damaged: the chunk is damaged, or of a form that is not read.
    """
    dictionary: list[Place] = []
    at, rows = chunk.start, 0
    while at < chunk.end and rows < chunk.rows:
        header, at = _header(read, at, chunk.end)
        kind, size, packed = (_number(header, number) for number in (1, 2, 3))
        if packed > chunk.end - at:
            raise Damaged("a page is longer than its column")
        if kind == _DICTIONARY:
            count = _count(_struct_of(header, 7), _MOST_KEPT)
            dictionary = list(_plain(body_of(chunk.codec, read, at, packed, size), 0, count))
        elif kind in (_DATA, _DATA_2):
            page = _Page(read, chunk, header, at)
            for place in page.places(dictionary):
                rows += 1
                yield place
        elif kind != _INDEX:
            raise Damaged(f"has a page of the unknown kind {kind}")
        at += packed
    if rows != chunk.rows:
        raise Damaged(f"has {rows:,} rows instead of {chunk.rows:,}")


class _Page:
    """A data page: its levels, its encoding, and its values."""

    def __init__(self, read: Read, chunk: Chunk, header: dict[int, Any], at: int) -> None:
        size, packed = _number(header, 2), _number(header, 3)
        self._definition = chunk.definition
        if _number(header, 1) == _DATA_2:
            own = _struct_of(header, 8)
            self._count, self._encoding = _count(own), _number(own, 4)
            defined, repeated = _number(own, 5), _number(own, 6)
            above = defined + repeated
            if above > min(size, packed):
                raise Damaged("the levels of a page are longer than the page")
            levels = PlainBody(read, at, packed).read(0, above)
            codec = chunk.codec if own.get(7, True) else "UNCOMPRESSED"
            self._first = self._levels(levels[:repeated], chunk.repetition) == 0
            self._there = self._levels(levels[repeated:], chunk.definition) == chunk.definition
            self._body, self._start = body_of(codec, read, at + above, packed - above, size - above), 0
            return
        own = _struct_of(header, 5)
        self._count, self._encoding = _count(own), _number(own, 2)
        self._body, self._start = body_of(chunk.codec, read, at, packed, size), 0
        self._first = self._prefixed(chunk.repetition, _number(own, 4)) == 0
        self._there = self._prefixed(chunk.definition, _number(own, 3)) == chunk.definition

    def _prefixed(self, most: int, encoding: int) -> NDArray[np.int32]:
        """Levels at the start of the body, after their number of bytes."""
        if not most:
            return np.zeros(self._count, np.int32)
        if encoding != _RLE:
            raise Damaged(f"has levels of the encoding {encoding}")
        (length,) = struct.unpack("<I", self._body.read(self._start, self._start + 4))
        if length > _LARGEST_HEADER:
            raise Damaged(f"has {length:,} bytes of levels in a page")
        levels = self._body.read(self._start + 4, self._start + 4 + length)
        self._start += 4 + length
        return self._levels(levels, most)

    def _levels(self, data: bytes, most: int) -> NDArray[np.int32]:
        return _hybrid(data, most.bit_length(), self._count)

    def places(self, dictionary: list[Place]) -> Iterator[Place | None]:
        """The place of the value at each start of a row; None for null."""
        values = self._values(dictionary, int(self._there.sum()))
        for first, there in zip(self._first.tolist(), self._there.tolist(), strict=True):
            value = next(values) if there else None
            if first:
                yield value

    def _values(self, dictionary: list[Place], count: int) -> Iterator[Place]:
        if self._encoding == _PLAIN:
            yield from _plain(self._body, self._start, count)
        elif self._encoding not in _DICTIONARIES:
            raise Damaged(f"has values of the encoding {self._encoding}; write the file again with PyArrow")
        elif count:
            if self._body.size - self._start > _LARGEST_HEADER:
                raise Damaged("has too many numbers of a dictionary in a page")
            data = self._body.read(self._start, self._body.size)
            numbers = _hybrid(data[1:], data[0] if data else 0, count)
            if numbers.max() >= len(dictionary) or numbers.min() < 0:
                raise Damaged("names a value that is not in the dictionary")
            yield from (dictionary[number] for number in numbers.tolist())


def _plain(body: Body, start: int, count: int) -> Iterator[Place]:
    """The places of values that each follow their number of bytes."""
    for _ in range(count):
        (length,) = struct.unpack("<I", body.read(start, start + 4))
        start += 4
        yield body.place(start, start + length)
        start += length


def _hybrid(data: bytes, width: int, count: int) -> NDArray[np.int32]:
    """Numbers of `width` bits: runs of equal ones, and groups of eight.

    See https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE.
    """
    if not width:
        return np.zeros(count, np.int32)
    if width > 31:
        raise Damaged(f"has numbers of {width} bits")
    found = np.empty(count, np.int32)
    at = done = 0
    while done < count:
        head, at = varint(data, at)
        if head & 1:
            length = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(data[at : at + length], np.uint8), bitorder="little")
            bits = bits[: len(bits) // width * width].reshape(-1, width)[: count - done]
            numbers: Any = bits @ (1 << np.arange(width, dtype=np.int32))
            run = len(numbers)
        else:
            length = -(-width // 8)
            numbers = int.from_bytes(data[at : at + length], "little")
            run = min(head >> 1, count - done)
        if not run or at + (length if not head & 1 else 0) > len(data):
            raise Damaged("has levels that end too early")
        found[done : done + run] = numbers
        done += run
        at += length
    return found


def _header(read: Read, at: int, end: int) -> tuple[dict[int, Any], int]:
    """The header of a page by the numbers of its fields, and the place after it."""
    size = _HEADER
    while True:
        data = read(at, min(end, at + size))
        try:
            header, used = _struct(data, 0)
            return header, at + used
        except (IndexError, struct.error):
            # A header may have the least and the largest value in it.
            if len(data) < size or size >= _LARGEST_HEADER:
                raise Damaged("has a page without a header") from None
        size = min(size * 64, _LARGEST_HEADER)


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    if depth > _DEEPEST:
        raise Damaged("has a header that is too deep")
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        number += head >> 4
        if not head >> 4:
            number, at = _signed(data, at)
        fields[number], at = _value(data, at, head & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (3, 7):
        return None, at + (1 if kind == 3 else 8)
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 8:
        length, at = _unsigned(data, at)
        if at + length > len(data):
            raise IndexError
        return data[at : at + length], at + length
    if kind in (9, 10):
        return _list(data, at, depth)
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise Damaged("has a page without a header")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _unsigned(data, at)
    found: list[Any] = []
    if depth > _DEEPEST:
        raise Damaged("has a header that is too deep")
    for _ in range(count):
        if kind in (1, 2):  # a byte in a list, and none in a struct
            data[at]
            at += 1
            continue
        value, at = _value(data, at, kind, depth + 1)
        found.append(value)
    return found, at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data) - 10 and all(byte >= 128 for byte in data[at:]):
        raise IndexError
    return varint(data, at)


def _signed(data: bytes, at: int) -> tuple[int, int]:
    number, at = _unsigned(data, at)
    return number >> 1 ^ -(number & 1), at


def _struct_of(header: dict[int, Any], number: int) -> dict[int, Any]:
    found = header.get(number)
    if not isinstance(found, dict):
        raise Damaged("has a page without a header")
    return found


def _number(header: dict[int, Any], number: int) -> int:
    found = header.get(number)
    if type(found) is not int or found < 0:
        raise Damaged("has a page without a header")
    return found


def _count(header: dict[int, Any], most: int = _MOST_VALUES) -> int:
    count = _number(header, 1)
    if count > most:
        raise Damaged(f"has {count:,} values in a page")
    return count
