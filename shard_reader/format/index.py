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
from shard_reader.format import example, tfrecord
from shard_reader.format.checksum import crc32c
from shard_reader.format.images import read_header
from shard_reader.format.manifest import (
    BASE_COLUMNS,
    MANIFEST_NAME,
    Field,
    ShardFile,
    extent_columns,
    extent_fields,
    index_dtype,
    index_name,
)
from shard_reader.system.memory_map import map_file

__all__ = ["build", "load", "read", "size", "to_bytes"]

_KIND_DTYPES = {example.INTEGERS: np.int64, example.FLOATS: np.float32}
_MAGIC = b"\x93NUMPY\x01\x00"
_CHECKED_ROWS = 256  # at a time, so that a file is read once, and not once for each field


def build(path: Path, format: str, fields: Mapping[str, Field]) -> NDArray[np.void]:
    """The index of a shard file, from the file alone: a row for each record.

    Raises:
        CorruptionError: the file is damaged, or its records lack a field.
    """
    data = map_file(path)
    rows = _tfrecord_rows(path, data, fields) if format == "tfrecord" else _hdf5_rows(path, data, fields)
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
        CorruptionError: it is missing, not the one of the manifest, or points outside the shard.
        DatasetError: a development version made it, before strings and lists had checksums.
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
    """The rows of an index from its bytes, which they are a view of. `path` is what to call it in messages.

    Raises:
        CorruptionError: it is not the one of the manifest, or points outside the shard.
    """
    if hashlib.sha256(data.data).hexdigest() != shard.index_sha256:
        raise CorruptionError(f"{path}: is damaged or belongs to another dataset (SHA-256 mismatch)")
    dtype = np.dtype(index_dtype(fields))
    header = _header(dtype, records)
    if data[: len(header)].tobytes() != header or data.size != len(header) + records * dtype.itemsize:
        old = _header_without_checksums(dtype, fields, records)
        if data[: len(old)].tobytes() == old:
            raise DatasetError(_outdated(path, fields))
        raise CorruptionError(f"{path}: is not an index of {records} rows of {dtype.names}")
    rows = np.frombuffer(data, dtype, records, len(header))
    for name in {"id": None, **dict.fromkeys(extent_fields(fields))}:
        start, length, _ = extent_columns(name)
        # Checked in this way because offset + length of a damaged index could wrap around.
        if np.any(rows[start] > shard.bytes) or np.any(rows[length] > shard.bytes - rows[start]):
            raise CorruptionError(f"{path}: {start} points outside the shard of {shard.bytes} bytes")
    return rows


def size(records: int, fields: Mapping[str, Field]) -> int:
    """How many bytes the index of so many records has."""
    dtype = np.dtype(index_dtype(fields))
    return len(_header(dtype, records)) + records * dtype.itemsize


def _header(dtype: np.dtype[Any], records: int) -> bytes:
    """The header of a `.npy` file (NumPy Enhancement Proposal 1), padded to 64 bytes.

    Not NumPy's own: its padding depends on its version, and its parser fails when several threads of
    Python 3.11 use it at a time (`ast.literal_eval`: "recursion depth mismatch").
    """
    text = f"{{'descr': {dtype.descr!r}, 'fortran_order': False, 'shape': ({records},), }}"
    encoded = text.encode()
    # Version 1.0 has 16 bits for the length, and Latin-1; version 3.0 has 32, and UTF-8.
    start, length = (_MAGIC, "<H") if text.isascii() and len(text) < 65_000 else (b"\x93NUMPY\x03\x00", "<I")
    padding = -(len(start) + struct.calcsize(length) + len(encoded) + 1) % 64
    return start + struct.pack(length, len(encoded) + padding + 1) + encoded + b" " * padding + b"\n"


def _header_without_checksums(dtype: np.dtype[Any], fields: Mapping[str, Field], records: int) -> bytes:
    """The header that development versions wrote, whose indexes had a checksum of the image alone."""
    checksums = {"id_crc32c", *(extent_columns(name)[2] for name in extent_fields(fields) if name != "image")}
    return _header(np.dtype([column for column in dtype.descr if column[0] not in checksums]), records)


def _outdated(path: str, fields: Mapping[str, Field]) -> str:
    if fields["image"].feature is None:
        remedy = "make the dataset again: `image-shards prepare` with the same arguments, and --overwrite"
    else:
        remedy = f"remove {MANIFEST_NAME} beside it, and index the files anew with `image-shards index`"
    return f"{path}: an earlier development version made it, without checksums of strings and lists; {remedy}"


def _tfrecord_rows(path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
    rows = [_example_row(path, offset, payload, fields) for offset, payload in tfrecord.read_records(data, str(path))]
    return np.array(rows, np.dtype(index_dtype(fields)))


def _example_row(path: Path, offset: int, payload: NDArray[np.uint8], fields: Mapping[str, Field]) -> tuple[Any, ...]:
    """One row, in the order of the columns."""
    row: dict[str, Any] = dict.fromkeys(BASE_COLUMNS, 0)
    image = fields["image"]
    try:
        features = example.features(payload)
        for name, field in fields.items():
            feature = field.feature or name
            if name in ("height", "width") and feature == image.feature:
                continue
            if feature not in features and field.shape[:1] == (None,):
                row |= dict.fromkeys(extent_columns(name), 0)
            else:
                row |= _columns(name, field, payload, features[feature], offset)
        if fields["height"].feature == image.feature is not None:
            start = row["offset"] - offset
            row["height"], row["width"] = _size(payload[start : start + row["length"]], image)
    except ValueError as error:
        raise CorruptionError(f"{path}: the record at byte {offset} is no Example of these fields: {error}") from error
    except KeyError as error:
        raise CorruptionError(f"{path}: the record at byte {offset} has no feature {error}") from error
    return tuple(row.values())


def _size(payload: NDArray[np.uint8], field: Field) -> tuple[int, int]:
    """The height and width of an image that has no such features.

    Raises:
        ValueError: it is no image of the field's encoding.
    """
    if field.encoding == "raw":
        height, width, channels = (size or 0 for size in field.shape)
        if payload.size != height * width * channels * np.dtype(field.dtype).itemsize:
            raise ValueError(f"the image has {payload.size} bytes, not the pixels of {field.shape}")
        return height, width
    try:
        header = read_header(payload)
    except ValueError as error:
        raise ValueError(f"the image {error}") from error
    if header.encoding != field.encoding:
        raise ValueError(f"the image is encoded as {header.encoding}, not as {field.encoding}")
    return header.height, header.width


def _columns(
    name: str, field: Field, payload: NDArray[np.uint8], feature: example.Feature, offset: int
) -> dict[str, Any]:
    """What the index says of one value, its checksum still 0.

    Raises:
        ValueError: it is none of the field's type.
    """
    kind = example.BYTES if name == "image" else example.KINDS[field.dtype]
    if field.shape[:1] == (None,) and feature.span.start == feature.span.stop:
        kind = feature.kind  # of a list without a value, the kind may not be told
    if feature.kind != kind:
        expected = "bytes" if name == "image" else field.dtype
        raise ValueError(f"{name!r} is not of type {expected}")
    span = feature.span
    if name == "image" or not field.shape:
        values = example.values(payload, feature)
        if len(values) != 1:
            raise ValueError(f"{name!r} has {len(values)} values, not one")
        if field.in_index and name != "image":
            return {name: values[0]}
        assert isinstance(values[0], slice)  # of this kind, all are
        span = values[0]
    elif field.in_index:
        array = np.array(example.values(payload, feature), _KIND_DTYPES[kind])
        return {name: array.reshape(field.shape)}
    return dict(zip(extent_columns(name), (offset + span.start, span.stop - span.start, 0), strict=True))


def _hdf5_rows(path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
    from shard_reader.format import hdf5  # h5py is an extra: only those who write or index HDF5 need it

    columns = hdf5.read_columns(path, data, fields)
    rows = np.zeros(len(columns["offset"]), index_dtype(fields))
    for name, column in columns.items():
        rows[name] = column
    return rows
