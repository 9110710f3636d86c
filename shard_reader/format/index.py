"""The index of a shard: made from the shard, written beside it, read back as a memory map."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError, DatasetError
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import Field, extent_columns, extent_fields, index_dtype
from shard_reader.format.manifest import MANIFEST_NAME, ShardFile, index_name
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.system.memory_map import map_file

__all__ = ["build", "load", "read", "size", "to_bytes"]

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
    return rows


def to_bytes(rows: NDArray[np.void]) -> bytes:
    """The bytes of the index file; equal rows give equal bytes."""
    return _header(rows.dtype, len(rows)) + rows.tobytes()


def load(directory: Path, shard: ShardFile, records: int, fields: Mapping[str, Field]) -> NDArray[np.void]:
    """The index of a shard as a read-only memory map, checked against the manifest.

    Raises:
        CorruptionError: the index is missing, does not match the manifest, or points outside the shard.
        DatasetError: the index is of a development version, before strings and lists had checksums.
    """
    path = directory / index_name(shard.path)
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
    dtype = np.dtype(index_dtype(fields))
    header = _header(dtype, records)
    # The header is compared, not parsed: it follows from the manifest. NumPy's parser calls `ast.literal_eval`,
    # which fails in Python 3.11 when several threads call it at the same time ("recursion depth mismatch").
    if data[: len(header)].tobytes() != header or data.size != len(header) + records * dtype.itemsize:
        old = _header_without_checksums(dtype, fields, records)
        if data[: len(old)].tobytes() == old:
            raise DatasetError(_outdated(path, fields))
        raise CorruptionError(f"{path}: is not an index of {records} rows of {dtype.names}")
    rows = np.frombuffer(data, dtype, records, len(header))
    for name in {"id": None, **dict.fromkeys(extent_fields(fields))}:
        start, length, _ = extent_columns(name)
        # A subtraction, because offset + length of a damaged index could wrap around.
        if np.any(rows[start] > shard.bytes) or np.any(rows[length] > shard.bytes - rows[start]):
            raise CorruptionError(f"{path}: {start} points outside the shard of {shard.bytes} bytes")
    return rows


def size(records: int, fields: Mapping[str, Field]) -> int:
    """The size of an index, in bytes."""
    dtype = np.dtype(index_dtype(fields))
    return len(_header(dtype, records)) + records * dtype.itemsize


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
