"""Arrow's IPC files and streams with images in them, as `datasets.save_to_disk` writes them.

A record batch may be larger than memory, and its images are most of it. So a batch is read into memory of the size that
the file claims, of which only the parts in use take room: the message, and then the buffers of the columns that are
needed. Of images these are the offsets, which give the range of each image in the file. See
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.members import ranges
from beam_jobs.sources.files.tables.image_columns import Column, Group, ImageColumn, checked, values_of
from beam_jobs.sources.files.tables.page_bodies import Damaged, Read
from shard_reader.storage.directory import Directory

__all__ = ["IpcImages"]

_MAGIC = b"ARROW1\0\0"  # of a file; a stream has none, and else the same bytes
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # kinds of messages
_LARGEST_MESSAGE = 1 << 26  # bytes of a message without its body
_LARGEST_BUFFER = 1 << 29  # bytes of one column but the images, or of all dictionaries, as in Parquet
_ROWS = 4096  # at a time
_MESSAGE = struct.Struct("<iI")


@dataclass(frozen=True, slots=True)
class _Message:
    """A message of a stream: its bytes in the file, with the body, and whether its buffers are compressed."""

    kind: int
    start: int
    body: int
    end: int
    compressed: bool


class IpcImages:
    """One Arrow file."""

    kind = "Arrow"
    group = "record batch"

    def __init__(self, directory: Directory, name: str) -> None:
        self._directory, self.name = directory, name

    def refused(self, message: str) -> UsageError:
        """An error that names the file."""
        return UsageError(f"INPUT {self._directory.uri(self.name)}: {message}")

    @property
    def schema(self) -> Any:
        """The schema.

        Raises:
            UsageError: the file is damaged, or of another kind.
        """
        import pyarrow as pa

        with self._directory.open(self.name) as file, self._errors():
            message = next(_messages(ranges(file), file.seek(0, 2)))
            with pa.ipc.open_stream(_Sparse(ranges(file), [message]).buffer) as reader:
                return checked(reader.schema)

    def groups(self, images: Sequence[ImageColumn], columns: Sequence[Column]) -> Iterator[Group]:
        """Every record batch: the values of its rows in these columns, and the places of the images of each of these.

        Raises:
            UsageError: the file is damaged, or compressed.
        """
        with self._directory.open(self.name) as file, self._errors():
            read, kept, number = ranges(file), list[_Message](), 0
            for message in _messages(read, file.seek(0, 2)):
                if message.compressed:
                    raise Damaged("has compressed buffers; write it without compression, or as Parquet")
                if message.kind != _BATCH:
                    kept.append(message)
                    if sum(one.end - one.start for one in kept) > _LARGEST_BUFFER:
                        raise Damaged(f"has dictionaries of more than {_LARGEST_BUFFER:,} bytes")
                    continue
                batch = _Batch(read, [*kept, message])
                yield Group(number, self._rows(batch, columns), [batch.places(image) for image in images])
                number += 1

    def _rows(self, batch: _Batch, columns: Sequence[Column]) -> Iterator[Sequence[Any]]:
        with self._errors():
            yield from batch.rows(columns)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of a damaged file into one line."""
        import pyarrow as pa

        try:
            yield
        except Damaged as error:
            raise self.refused(str(error)) from error
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise self.refused(f"cannot be read as Arrow: {str(error).splitlines()[0]}") from error
        except OSError as error:
            if error.errno is not None or type(error) is not OSError:
                raise
            raise self.refused(f"cannot be read as Arrow: {str(error).splitlines()[0]}") from error


class _Sparse:
    """Messages of a file in memory, one after the other, of which the last one's body is filled as it is needed."""

    def __init__(self, read: Read, messages: Sequence[_Message]) -> None:
        import pyarrow as pa

        self._read = read
        last, size = messages[-1], sum(one.end - one.start for one in messages)
        # Pages that nobody has written to take no memory; the batch may be larger than all of it.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._map = mmap.mmap(-1, size + 8, flags=flags)
        at = 0
        for message in messages:
            end = message.body if message is last else message.end
            self._map[at : at + end - message.start] = self._whole(message.start, end)
            at += message.end - message.start
        self._map[size : size + 8] = _MESSAGE.pack(-1, 0)  # the end of a stream
        self.buffer = pa.py_buffer(self._map)
        self._shift = last.end - size  # from a place in the memory to one in the file
        self._filled: set[int] = set()

    def place(self, buffer: Any) -> int:
        """The first byte of a buffer in the file."""
        return int(buffer.address - self.buffer.address + self._shift)

    def fill(self, buffer: Any) -> None:
        """Read a buffer of the last message."""
        if buffer is None or buffer.address in self._filled or not buffer.size:
            return
        at = buffer.address - self.buffer.address
        if not 0 <= at <= at + buffer.size <= len(self._map):
            raise Damaged("has compressed buffers; write it without compression, or as Parquet")
        if buffer.size > _LARGEST_BUFFER:
            raise Damaged(f"has a column of {buffer.size:,} bytes in a record batch; leave it out with --fields")
        self._filled.add(buffer.address)
        self._map[at : at + buffer.size] = self._whole(at + self._shift, at + self._shift + buffer.size)

    def _whole(self, start: int, end: int) -> bytes:
        data = self._read(start, end)
        if len(data) != end - start:
            raise Damaged("ends too early; copy it again, whole")
        return data


class _Batch:
    """One record batch, with the columns of values and the offsets of images in memory."""

    def __init__(self, read: Read, messages: Sequence[_Message]) -> None:
        import pyarrow as pa

        self._memory = _Sparse(read, messages)
        with pa.ipc.open_stream(self._memory.buffer) as reader:
            self._batch = reader.read_next_batch()
        self._batch.validate()  # of the lengths of arrays and buffers

    def rows(self, columns: Sequence[Column]) -> Iterator[Sequence[Any]]:
        """The values of each row."""
        for column in columns:
            self._fill(column)
        for start in range(0, self._batch.num_rows, _ROWS):
            part = self._batch.slice(start, _ROWS)
            if columns:
                yield from zip(*(values_of(part, column) for column in columns), strict=True)
            else:
                yield from ([] for _ in range(part.num_rows))

    def _fill(self, column: Column) -> None:
        array = self._batch.column(column.top)
        if column.child is None:
            for buffer in array.buffers():
                self._memory.fill(buffer)
            array.validate(full=True)
            return
        if column.is_list:
            lists = _Lists(array, self._memory)
            array = lists.values
        self._memory.fill(array.buffers()[0])
        child = array.field(column.child)
        for buffer in child.buffers():
            self._memory.fill(buffer)
        child.validate(full=True)

    def places(self, image: ImageColumn) -> Iterator[list[Any] | None]:
        """The range of each image in the file; None for null, and for an empty list."""
        array = self._batch.column(image.name)
        lists = _Lists(array, self._memory) if image.is_list else None
        array = lists.values if lists is not None else array
        there = self._valid(array)
        if image.is_struct:
            array = array.field("bytes")
            there &= self._valid(array)
        _, offsets, data = array.buffers()
        self._memory.fill(offsets)
        bounds = _offsets(array, offsets)
        size, start = (data.size, self._memory.place(data)) if data is not None else (0, 0)
        firsts = lists.firsts if lists is not None else np.arange(len(array))
        for first in firsts.tolist():
            if first < 0 or not there[first]:
                yield None
                continue
            begin, end = int(bounds[first]), int(bounds[first + 1])
            if not 0 <= begin <= end <= size:
                raise Damaged(f"an image leaves its column: bytes {begin:,} to {end:,} of {size:,}")
            yield ["", start + begin, end - begin, end - begin, 0, end - begin]

    def _valid(self, array: Any) -> NDArray[np.bool_]:
        self._memory.fill(array.buffers()[0])
        found: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
        return found.copy()


class _Lists:
    """A column of lists: its values, and the first of each list, -1 for an empty one."""

    def __init__(self, array: Any, memory: _Sparse) -> None:
        valid, offsets = array.buffers()[:2]
        memory.fill(valid)
        memory.fill(offsets)
        bounds = _offsets(array, offsets)
        self.values = array.values
        if len(bounds) and (bounds[0] < 0 or bounds[-1] > len(self.values) or (np.diff(bounds) < 0).any()):
            raise Damaged("has lists that leave their column")
        there = array.is_valid().to_numpy(zero_copy_only=False) & (np.diff(bounds) > 0)
        self.firsts = np.where(there, bounds[:-1], -1)


def _offsets(array: Any, buffer: Any) -> NDArray[Any]:
    """The offsets of an array of binary values or of lists."""
    from pyarrow import types

    kind = array.type
    if types.is_binary(kind) or types.is_list(kind):
        dtype: np.dtype[Any] = np.dtype("<i4")
    elif types.is_large_binary(kind) or types.is_large_list(kind):
        dtype = np.dtype("<i8")
    else:
        raise Damaged(f"has images of the type {kind}, which is not read; write them as binary")
    if not len(array):
        return np.zeros(1, dtype)
    if buffer is None or buffer.size < (len(array) + 1) * dtype.itemsize:
        raise Damaged("has a column without offsets")
    return np.frombuffer(buffer, dtype, len(array) + 1)


def _messages(read: Read, size: int) -> Iterator[_Message]:
    """The messages of a stream, or of a file of `size` bytes.

    Raises:
        Damaged: the file is cut off, or has other bytes.
    """
    at = len(_MAGIC) if read(0, len(_MAGIC)) == _MAGIC else 0
    first = True
    while at < size:
        head = read(at, at + 8)
        mark, length = _MESSAGE.unpack(head) if len(head) == 8 else (-1, 0)
        start = at + 8
        if mark != -1:  # before Arrow 0.15
            length, start = mark, at + 4
        if not length:
            break
        if not 0 < length <= min(_LARGEST_MESSAGE, size - start):
            raise Damaged("is no Arrow, or cut off" if first else "ends too early; copy it again, whole")
        kind, body, compressed = _parsed(read(start, start + length))
        end = start + length + body
        if not start + length <= end <= size:
            raise Damaged("ends too early; copy it again, whole")
        if first and kind != _SCHEMA:
            raise Damaged("is no Arrow: it does not begin with a schema")
        yield _Message(kind, at, start + length, end, compressed)
        first, at = False, end
    if first:
        raise Damaged("is empty")


def _parsed(message: bytes) -> tuple[int, int, bool]:
    """The kind of a message, the bytes of its body, and whether the body is compressed.

    A message is a table of FlatBuffers (https://flatbuffers.dev/internals).
    """
    try:
        (root,) = struct.unpack_from("<I", message)
        (kind,) = struct.unpack_from("<B", message, _slot(message, root, 1))
        header = _table(message, root, 2)
        place = _slot(message, root, 3)
        (body,) = struct.unpack_from("<q", message, place) if place else (0,)
        if kind == _DICTIONARY:
            header = _table(message, header, 1)
        compressed = False
        if kind in (_DICTIONARY, _BATCH):
            compressed = _slot(message, header, 3) > 0
            _check_batch(message, header, body)
    except (struct.error, IndexError, ValueError) as error:
        raise Damaged("is no Arrow, or damaged") from error
    return kind, body, compressed


def _check_batch(message: bytes, table: int, body: int) -> None:
    """Check the lengths of a record batch, some of which would end the process in PyArrow."""
    place = _slot(message, table, 0)
    (rows,) = struct.unpack_from("<q", message, place) if place else (0,)
    lengths = [rows]
    for number in (1, 2):  # the length and the number of nulls of each array; the place and the length of each buffer
        if _slot(message, table, number):
            vector = _table(message, table, number)
            (count,) = struct.unpack_from("<I", message, vector)
            lengths += np.frombuffer(message, "<i8", 2 * count, vector + 4).tolist()
    # A row of images takes bytes of offsets, and a value of others takes at least a bit.
    if rows > body or min(lengths) < 0 or max(lengths) > 8 * body:
        raise Damaged("is damaged: a record batch has a column of an impossible length")


def _slot(message: bytes, table: int, number: int) -> int:
    """The place of a field of a table; 0 if it is not there."""
    (back,) = struct.unpack_from("<i", message, table)
    (size,) = struct.unpack_from("<H", message, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", message, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _table(message: bytes, table: int, number: int) -> int:
    """The place of a table that a field of a table refers to."""
    place = _slot(message, table, number)
    (offset,) = struct.unpack_from("<I", message, place)
    return place + int(offset)
