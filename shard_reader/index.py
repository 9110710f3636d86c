"""The index of a shard: made from the shard, written beside it, read back as a memory map."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader import example, tfrecord
from shard_reader.checksum import crc32c
from shard_reader.errors import CorruptionError
from shard_reader.format import Field, ShardFile, index_dtype, index_name
from shard_reader.storage import map_file

__all__ = ["build", "load", "to_bytes"]

_MAGIC = b"\x93NUMPY\x01\x00"


def build(path: Path, format: str, fields: Mapping[str, Field]) -> NDArray[np.void]:
    """The index of a shard file, from the file alone: a row for each record.

    Raises:
        CorruptionError: the file is damaged, or its records lack a field.
    """
    data = map_file(path)
    rows = _tfrecord_rows(path, data, fields) if format == "tfrecord" else _hdf5_rows(path, data, fields)
    for row in rows:
        start = int(row["offset"])
        row["crc32c"] = crc32c(data[start : start + int(row["length"])])
    return rows


def to_bytes(rows: NDArray[np.void]) -> bytes:
    """The bytes of the index file; equal rows give equal bytes."""
    return _header(rows.dtype, len(rows)) + rows.tobytes()


def load(directory: Path, shard: ShardFile, records: int, fields: Mapping[str, Field]) -> NDArray[np.void]:
    """The index of a shard as a read-only memory map, checked against the manifest.

    Raises:
        CorruptionError: it is missing, not the one of the manifest, or points outside the shard.
    """
    path = directory / index_name(shard.path)
    try:
        data = map_file(path)
    except FileNotFoundError:
        raise CorruptionError(f"{path}: is missing") from None
    if hashlib.sha256(data.data).hexdigest() != shard.index_sha256:
        raise CorruptionError(f"{path}: is damaged or belongs to another dataset (SHA-256 mismatch)")
    dtype = np.dtype(index_dtype(fields))
    header = _header(dtype, records)
    if data[: len(header)].tobytes() != header or data.size != len(header) + records * dtype.itemsize:
        raise CorruptionError(f"{path}: is not an index of {records} rows of {dtype.names}")
    rows = np.frombuffer(data, dtype, records, len(header))
    for start, length in (("offset", "length"), ("id_offset", "id_length")):
        # Checked in this way because offset + length of a damaged index could wrap around.
        if np.any(rows[start] > shard.bytes) or np.any(rows[length] > shard.bytes - rows[start]):
            raise CorruptionError(f"{path}: {start} points outside the shard of {shard.bytes} bytes")
    return rows


def _header(dtype: np.dtype[Any], records: int) -> bytes:
    """The header of a `.npy` 1.0 file (NumPy Enhancement Proposal 1), padded to 64 bytes.

    Not NumPy's own: its padding depends on its version, and its parser fails when several threads of
    Python 3.11 use it at a time (`ast.literal_eval`: "recursion depth mismatch").
    """
    text = f"{{'descr': {dtype.descr!r}, 'fortran_order': False, 'shape': ({records},), }}"
    padding = -(len(_MAGIC) + 2 + len(text) + 1) % 64
    return _MAGIC + struct.pack("<H", len(text) + padding + 1) + text.encode() + b" " * padding + b"\n"


def _tfrecord_rows(path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
    dtype = np.dtype(index_dtype(fields))
    scalars = [name for name, field in fields.items() if field.dtype == "int64"]
    rows = [
        _example_row(path, offset, payload, scalars, dtype)
        for offset, payload in tfrecord.read_records(data, str(path))
    ]
    return np.array(rows, dtype)


def _example_row(
    path: Path, offset: int, payload: NDArray[np.uint8], scalars: list[str], dtype: np.dtype[Any]
) -> tuple[int, ...]:
    try:
        features = example.decode(payload)
    except ValueError as error:
        raise CorruptionError(f"{path}: the record at byte {offset} is no Example: {error}") from error
    row = dict.fromkeys(dtype.names or (), 0)
    for name, start, length in (("image", "offset", "length"), ("id", "id_offset", "id_length")):
        span = _only(path, offset, features, name, slice)
        row[start], row[length] = offset + span.start, span.stop - span.start
    for name in scalars:
        row[name] = _only(path, offset, features, name, int)
    return tuple(row.values())


def _only(path: Path, offset: int, features: Mapping[str, example.Values], name: str, kind: type) -> Any:
    values = features.get(name, [])
    if len(values) != 1 or not isinstance(values[0], kind):
        expected = "one bytes value" if kind is slice else "one integer"
        raise CorruptionError(f"{path}: the record at byte {offset} needs {expected} named {name!r}")
    return values[0]


def _hdf5_rows(path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
    from shard_reader import hdf5  # h5py is an extra: only those who write or index HDF5 need it

    columns = hdf5.read_columns(path, data, fields)
    rows = np.zeros(len(columns["offset"]), index_dtype(fields))
    for name, column in columns.items():
        rows[name] = column
    return rows
