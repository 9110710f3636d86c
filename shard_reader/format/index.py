"""The index of a shard: made from the shard, written beside it, read back as a memory map."""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError, DatasetError
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import Field, extent_columns, extent_fields, further_images, index_dtype, size_columns
from shard_reader.format.image_codecs.table import codec_of, read_size
from shard_reader.format.manifest import MANIFEST_NAME, ShardFile
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable
from shard_reader.system.memory_map import map_file

__all__ = [
    "BLOCK",
    "LazyIndex",
    "ShardBytes",
    "build",
    "checksums_crc32c",
    "extent",
    "has_values",
    "load",
    "map_lazily",
    "read",
    "size",
    "to_bytes",
    "values_of",
]

BLOCK = 64
"""The rows of a block. Each block has a checksum at the end of the file, so that a few rows can be checked alone."""

_MAGIC = b"\x93NUMPY\x01\x00"
_CHECKED_ROWS = 256  # rows whose fields are checked together: a file is read once, not once for each field


def build(path: Path, format: str, fields: Mapping[str, Field]) -> NDArray[np.void]:
    """The index of a shard file, from the file alone: a row for each record.

    Raises:
        CorruptionError: the file is damaged, or its records lack a field.
    """
    data = map_file(path)
    rows = SHARD_FORMATS[format].rows(path, data, fields)
    extents = [extent_columns(name) for name in extent_fields(fields)]
    for first in range(0, len(rows), _CHECKED_ROWS):
        block = rows[first : first + _CHECKED_ROWS]
        for offset, length, checksum in extents:
            spans = zip(block[offset].tolist(), block[length].tolist(), strict=True)
            block[checksum] = [crc32c(data[start : start + size]) for start, size in spans]
    for name in further_images(fields):
        _fill_sizes(path, rows, data, name, fields[name])
    return rows


def _fill_sizes(path: Path, rows: NDArray[np.void], data: NDArray[np.uint8], name: str, field: Field) -> None:
    """Fill the columns with the size of a further image.

    Raises:
        CorruptionError: an image has no header of its encoding.
    """
    height, width = size_columns(name)
    if codec_of(field).is_raw and not field.is_fixed:
        # Raw pixels have no header. Without a shape of their own, they are of the size of their record's image.
        rows[height], rows[width] = rows["height"], rows["width"]
        return
    offset, length, _ = extent_columns(name)
    for row in range(len(rows)):
        start, size = int(rows[offset][row]), int(rows[length][row])
        try:
            rows[height][row], rows[width][row] = read_size(data[start : start + size], field)
        except ValueError as error:
            raise CorruptionError(f"{path}: row {row}: {printable(name)!r}: {printable(str(error))}") from error


def to_bytes(rows: NDArray[np.void], *, has_checksums: bool = True, values: bytes = b"") -> bytes:
    """The bytes of the index file; equal rows give equal bytes.

    Args:
        has_checksums: whether the checksums of blocks follow the rows. They do not in datasets of earlier versions.
        values: the values that are not in the shard, of an index in place of the one beside it.
    """
    checksums = _checksums(rows).tobytes() if has_checksums else b""
    return b"".join((_header(rows.dtype, len(rows)), rows.tobytes(), checksums, values))


def checksums_crc32c(rows: NDArray[np.void]) -> int:
    """The `index_crc32c` of a manifest: the CRC-32C of the checksums of all blocks."""
    return crc32c(_checksums(rows).tobytes())


class ShardBytes:
    """The bytes of a shard, as an array that goes on with the values that its index has.

    Args:
        data: the bytes of the file, uint8 `[n]`.
        values: the values that the index has, uint8 `[m]`.
    """

    def __init__(self, data: NDArray[np.uint8], values: NDArray[np.uint8]) -> None:
        self._data, self._values = data, values

    @classmethod
    def of(cls, directory: Path, shard: ShardFile) -> ShardBytes:
        """Those of a shard in a directory, whose index was checked."""
        data = map_file(directory / shard.path)
        has_none = not shard.index_values
        return cls(data, data[:0] if has_none else values_of(map_file(directory / shard.index), shard))

    def __getitem__(self, span: slice) -> NDArray[np.uint8]:
        """The bytes of one value, from `span.start` to `span.stop`."""
        size = self._data.size
        if span.start < size:
            return self._data[span]
        return self._values[span.start - size : span.stop - size]


@dataclass(frozen=True, slots=True)
class LazyIndex:
    """An index of which the blocks are checked when their rows are needed.

    Attributes:
        rows: the rows, a structured array. Its blocks may be damaged.
        checksums: the CRC-32C of each block, uint32 `[ceil(rows / BLOCK)]`; None if all rows were checked.
        path: the path of the file, for messages.
        values: the values that are not in the shard, uint8 `[n]`.
    """

    rows: NDArray[np.void]
    checksums: NDArray[np.uint32] | None
    path: str
    values: NDArray[np.uint8]

    def check(self, block: int) -> None:
        """Check the rows of a block.

        Raises:
            CorruptionError: they are damaged.
        """
        if self.checksums is None:
            return
        rows = self.rows[block * BLOCK : (block + 1) * BLOCK]
        if crc32c(rows.view(np.uint8)) != self.checksums[block]:
            first = block * BLOCK
            damaged = f"rows {first} to {first + len(rows) - 1} are damaged (CRC mismatch)"
            raise CorruptionError(f"{self.path}: {damaged}; `image-shards index` makes the index again")


def map_lazily(directory: str, shard: ShardFile, records: int, fields: Mapping[str, Field]) -> LazyIndex:
    """The index of a shard as a read-only memory map, of which only the header and the checksums are checked.

    An index without checksums of its blocks, of an earlier version, is checked as a whole.

    Raises:
        CorruptionError: the index is missing, or does not match the manifest.
        DatasetError: the index is of a development version, before strings and lists had checksums.
    """
    # It is done for each shard of a shuffle, so without `Path`, which takes longer than mapping the file.
    path = f"{directory}/{shard.index}"
    if shard.index_crc32c is None:
        rows = load(Path(directory), shard, records, fields)
        return LazyIndex(rows, None, path, values_of(map_file(path), shard))
    dtype, header = _layout(tuple(fields.items()), records)
    end = len(header) + records * dtype.itemsize
    try:
        data = map_file(path)
    except FileNotFoundError:
        raise CorruptionError(f"{path}: is missing") from None
    if data[: len(header)].tobytes() != header or data.size != size(shard, records, fields):
        raise CorruptionError(f"{path}: is not an index of {records} rows of {dtype.names}")
    checksums = data[end : end + _checksum_bytes(shard, records)]
    if crc32c(checksums) != shard.index_crc32c:
        raise CorruptionError(f"{path}: is damaged or belongs to another dataset (CRC mismatch)")
    return LazyIndex(data[len(header) : end].view(dtype), checksums.view("<u4"), path, values_of(data, shard))


def load(directory: Path, shard: ShardFile, records: int, fields: Mapping[str, Field]) -> NDArray[np.void]:
    """The index of a shard as a read-only memory map, checked against the manifest.

    Raises:
        CorruptionError: the index is missing, does not match the manifest, or points outside the shard.
        DatasetError: the index is of a development version, before strings and lists had checksums.
    """
    path = directory / shard.index
    try:
        data = map_file(path)
    except FileNotFoundError:
        raise CorruptionError(f"{path}: is missing") from None
    return read(data, str(path), shard, records, fields)


def read(
    data: NDArray[np.uint8], path: str, shard: ShardFile, records: int, fields: Mapping[str, Field]
) -> NDArray[np.void]:
    """The rows of an index, as a view of its bytes. `path` is for messages.

    Raises:
        CorruptionError: the index does not match the manifest, or points outside the shard.
        DatasetError: the index is of a development version, before strings and lists had checksums.
    """
    # Extents are checked here, once, against the size of the shard: images are later gathered by address.
    if hashlib.sha256(data.data).hexdigest() != shard.index_sha256:
        raise CorruptionError(f"{path}: is damaged or belongs to another dataset (SHA-256 mismatch)")
    dtype, header = _layout(tuple(fields.items()), records)
    # The header is compared, not parsed: it follows from the manifest. NumPy's parser calls `ast.literal_eval`,
    # which fails in Python 3.11 when several threads call it at the same time ("recursion depth mismatch").
    if data[: len(header)].tobytes() != header or data.size != size(shard, records, fields):
        old = _header_without_checksums(dtype, fields, records)
        if data[: len(old)].tobytes() == old:
            raise DatasetError(_outdated(path, fields))
        raise CorruptionError(f"{path}: is not an index of {records} rows of {dtype.names}")
    rows = np.frombuffer(data, dtype, records, len(header))
    for name in {"id": None, **dict.fromkeys(extent_fields(fields))}:
        start, length, _ = extent_columns(name)
        ends = np.full(records, shard.bytes, np.uint64)
        if has_values(name, fields):
            ends[rows[start] >= shard.bytes] += np.uint64(shard.index_values)
        # A subtraction, because offset + length of a damaged index could wrap around.
        if np.any(rows[start] > ends) or np.any(rows[length] > ends - np.minimum(rows[start], ends)):
            raise CorruptionError(f"{path}: {start} points outside the shard of {shard.bytes} bytes")
    return rows


def has_values(name: str, fields: Mapping[str, Field]) -> bool:
    """Whether values of a field may lie in an index, after its checksums: those of strings, lists and bytes may."""
    return name != "id" and not fields[name].is_image and not fields[name].in_index


def values_of(data: NDArray[np.uint8], shard: ShardFile) -> NDArray[np.uint8]:
    """The values that are not in the shard, uint8 `[n]`, from the bytes of its index, which were checked."""
    return data[data.size - shard.index_values :]


def size(shard: ShardFile, records: int, fields: Mapping[str, Field]) -> int:
    """The size of the index of a shard, in bytes."""
    dtype, header = _layout(tuple(fields.items()), records)
    return len(header) + records * dtype.itemsize + _checksum_bytes(shard, records) + shard.index_values


def extent(records: int, fields: Mapping[str, Field]) -> tuple[int, int, np.dtype[Any]]:
    """Where the rows of an index begin and end in its file, and their dtype."""
    dtype, header = _layout(tuple(fields.items()), records)
    return len(header), len(header) + records * dtype.itemsize, dtype


def _checksum_bytes(shard: ShardFile, records: int) -> int:
    """The bytes of the checksums after the rows."""
    return 0 if shard.index_crc32c is None else 4 * -(-records // BLOCK)


def _checksums(rows: NDArray[np.void]) -> NDArray[np.uint32]:
    data, size = rows.view(np.uint8), BLOCK * rows.dtype.itemsize
    return np.array([crc32c(data[start : start + size]) for start in range(0, len(data), size)], "<u4")


@functools.lru_cache(maxsize=256)
def _dtype(fields: tuple[tuple[str, Field], ...]) -> np.dtype[Any]:
    """The dtype of the rows: one object for all shards of a dataset, so that it is compared by identity."""
    return np.dtype(index_dtype(dict(fields)))


@functools.lru_cache(maxsize=256)  # of the sizes of shards, of which there are a few in a split
def _layout(fields: tuple[tuple[str, Field], ...], records: int) -> tuple[np.dtype[Any], bytes]:
    """The dtype of the rows, and the header."""
    dtype = _dtype(fields)
    return dtype, _header(dtype, records)


def _header(dtype: np.dtype[Any], records: int) -> bytes:
    """The header of a `.npy` file (NumPy Enhancement Proposal 1), padded to 64 bytes."""
    # Not written by NumPy either, whose padding depends on its version: equal rows must give equal bytes.
    text = f"{{'descr': {dtype.descr!r}, 'fortran_order': False, 'shape': ({records},), }}"
    encoded = text.encode()
    # Version 1.0 has 16 bits for the length, and Latin-1; version 3.0 has 32, and UTF-8.
    start, length = (_MAGIC, "<H") if text.isascii() and len(text) < 65_000 else (b"\x93NUMPY\x03\x00", "<I")
    padding = -(len(start) + struct.calcsize(length) + len(encoded) + 1) % 64
    return start + struct.pack(length, len(encoded) + padding + 1) + encoded + b" " * padding + b"\n"


def _header_without_checksums(dtype: np.dtype[Any], fields: Mapping[str, Field], records: int) -> bytes:
    """The header of a development version, whose indexes had a checksum of the image alone."""
    checksums = {"id_crc32c", *(extent_columns(name)[2] for name in extent_fields(fields) if not fields[name].is_image)}
    return _header(np.dtype([column for column in dtype.descr if column[0] not in checksums]), records)


def _outdated(path: str, fields: Mapping[str, Field]) -> str:
    if fields["image"].feature is None:
        remedy = "make the dataset again: `image-shards prepare` with the same arguments, and --overwrite"
    else:
        remedy = f"remove {MANIFEST_NAME} beside it, and index the files again with `image-shards index`"
    return f"{path}: an earlier development version made it, without checksums of strings and lists; {remedy}"
