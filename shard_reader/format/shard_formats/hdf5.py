"""HDF5 shards, both directions: rows in, extents out.

Raw images of one size are a chunked array; a chunk holds whole rows and is not compressed, so a row is
a run of bytes. Each shard decides by its own images, so that shards of one dataset may differ. All other
images, and the ids, are variable-length: HDF5 stores those in its global heap, one run of bytes for each
value, and in the dataset a reference to it.

```
reference   uint32 length | uint64 address of the collection | uint32 number in it
collection  "GCOL" | version 1, 3 bytes reserved | uint64 size, this header included | objects
object      uint16 number | uint16 references | 4 bytes reserved | uint64 size | data, padded to 8
```

Source: the HDF5 File Format Specification 3.0, sections III.E (global heap) and IV.A.2.d (datatypes).
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import FORMAT_VERSION, Field, extent_columns
from shard_reader.format.image_codecs.table import codec_of, is_pixel_array
from shard_reader.format.shard_formats.hdf5_layout import row_bytes, stored_dataset
from shard_reader.printable import printable

__all__ = ["ShardWriter", "read_columns"]

_DTYPES: Mapping[str, np.dtype[Any]] = {"int64": np.dtype("<i8"), "float32": np.dtype("<f4")}
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("number", "<u4")])
_COLLECTION = struct.Struct("<4s4xQ")
_OBJECT = struct.Struct("<HH4xQ")
_CHUNK_BYTES = 64 * 1024  # whole rows up to this; larger rows are a chunk each
_REFERENCES_PER_CHUNK = 512


class ShardWriter:
    """Writes one shard, record by record, with one chunk of images in memory.

    Raw images that may differ in size wait in a temporary file beside the shard, until it is known whether they do.
    """

    def __init__(self, path: str | PathLike[str], fields: Mapping[str, Field]) -> None:
        self._fields = fields
        self._payloads = [name for name, field in fields.items() if field.is_image or field.dtype == "bytes"]
        self._columns: dict[str, list[Any]] = {name: [] for name in fields if name not in self._payloads}
        self._disk = _Disk(path)
        # With the default libver, since equal records must give equal bytes, and those of "latest" vary.
        self._file = h5py.File(self._disk, "w")
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._waiting: dict[str, _Waiting] = {}
        self._images: dict[str, _ArrayOfImages | _ListOfPayloads] = {}
        for name in self._payloads:
            field = fields[name]
            if field.is_image and codec_of(field).is_raw and not field.is_fixed:
                self._waiting[name] = _Waiting(path, field)
            else:
                self._images[name] = _dataset(self._file, name, field)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record: the payloads of images as bytes, every other field as its value."""
        for name, column in self._columns.items():
            column.append(record[name])
        for name, waiting in self._waiting.items():
            waiting.append(record[name], int(record["height"]), int(record["width"]))
        for name, images in self._images.items():
            images.append(record[name])
        self._disk.check()

    def close(self) -> None:
        """Write the last chunk and the other fields. Without this the file is not a shard."""
        for name, waiting in self._waiting.items():
            images = self._images[name] = _dataset(self._file, name, waiting.field())
            for payload in waiting:
                images.append(payload)
                self._disk.check()
        for images in self._images.values():
            images.close()
        for name, column in self._columns.items():
            _write_column(self._file, name, self._fields[name], column)
        self.abort()
        self._disk.check()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()
        self._disk.close()
        for waiting in self._waiting.values():
            waiting.close()


class _Waiting:
    """Raw images on disk, in order, and their shapes."""

    def __init__(self, path: str | PathLike[str], image: Field) -> None:
        self._file = tempfile.TemporaryFile(dir=Path(path).parent)  # noqa: SIM115  # closed by close()
        self._image, self._lengths = image, list[int]()
        self._shapes: set[tuple[int, ...]] = set()

    def append(self, payload: bytes, height: int, width: int) -> None:
        self._file.write(payload)
        self._lengths.append(len(payload))
        if len(self._shapes) < 2:
            pixels = len(payload) // np.dtype(self._image.dtype).itemsize
            self._shapes.add((height, width, pixels // (height * width)))

    def field(self) -> Field:
        """The field of the images, with their shape if all of them have one."""
        return replace(self._image, shape=min(self._shapes)) if len(self._shapes) == 1 else self._image

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        return (self._file.read(length) for length in self._lengths)

    def close(self) -> None:
        self._file.close()


class _ArrayOfImages:
    """Writes raw images of one size as an array."""

    def __init__(self, file: h5py.File, name: str, field: Field) -> None:
        shape = tuple(size or 0 for size in field.shape)
        dtype = np.dtype(field.dtype).newbyteorder("<")
        rows = max(1, _CHUNK_BYTES // max(1, int(np.prod(shape)) * dtype.itemsize))
        self._dtype = field.dtype
        self._images = _create(file, name, field, dtype, shape, (rows, *shape))
        self._rows: list[NDArray[Any]] = []  # rows of the chunk that is not full yet

    def append(self, payload: bytes) -> None:
        self._rows.append(np.frombuffer(payload, self._dtype).reshape(self._images.shape[1:]))
        if len(self._rows) == self._images.chunks[0]:
            self.close()

    def close(self) -> None:
        start = len(self._images)
        if self._rows:
            self._images.resize(start + len(self._rows), axis=0)
            self._images[start:] = np.stack(self._rows)
        self._rows.clear()


class _ListOfPayloads:
    """Writes images of any size or encoding, or other bytes, each as its payload."""

    def __init__(self, file: h5py.File, name: str, field: Field) -> None:
        self._images = _create(file, name, field, h5py.vlen_dtype(np.uint8), (), (_REFERENCES_PER_CHUNK,))
        self._written = 0

    def append(self, payload: bytes) -> None:
        # By whole chunks rather than by rows, since each change of size is a change of the file.
        if self._written == len(self._images):
            self._images.resize(self._written + _REFERENCES_PER_CHUNK, axis=0)
        self._images[self._written] = np.frombuffer(payload, np.uint8)
        self._written += 1

    def close(self) -> None:
        self._images.resize(self._written, axis=0)


def _dataset(file: h5py.File, name: str, field: Field) -> _ArrayOfImages | _ListOfPayloads:
    is_array = field.is_image and is_pixel_array(field)
    return _ArrayOfImages(file, name, field) if is_array else _ListOfPayloads(file, name, field)


def _create(
    file: h5py.File, name: str, field: Field, dtype: Any, shape: tuple[int, ...], chunks: tuple[int, ...]
) -> h5py.Dataset:
    images = file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks)
    if field.is_image:
        images.attrs["encoding"] = field.encoding
    return images


def _write_column(file: h5py.File, name: str, field: Field, column: list[Any]) -> None:
    if field.dtype == "string":
        texts = [json.dumps(value, ensure_ascii=False) for value in column] if field.shape else column
        file.create_dataset(name, data=texts, shape=(len(column),), dtype=h5py.string_dtype())
        return
    dtype = _DTYPES[field.dtype]
    if field.is_fixed:
        file.create_dataset(name, data=column, shape=(len(column), *field.shape), dtype=dtype)
        return
    values = np.empty(len(column), object)
    # One by one, since NumPy would make a single array of lists that happen to have the same length.
    for row, value in enumerate(column):
        values[row] = np.asarray(value, dtype).ravel()
    file.create_dataset(name, data=values, shape=(len(column),), dtype=h5py.vlen_dtype(dtype))


class _Disk:
    """A file object for HDF5 to write to. It keeps the first error to itself until `check` raises it."""

    # HDF5 that is told of a failed write, as on a full disk, fails again when it closes the file, and then ends the
    # process with a segmentation fault. So it is told of a success, and the writer raises the error by itself.

    def __init__(self, path: str | PathLike[str]) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  # closed by close()
        self._error: OSError | None = None

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._file.close()

    def write(self, data: memoryview) -> int:
        rest = memoryview(data)
        try:
            while rest and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size

    def flush(self) -> None:
        """Nothing to do: the file has no buffer."""


def read_columns(
    path: str | PathLike[str], data: NDArray[np.uint8], fields: Mapping[str, Field]
) -> dict[str, NDArray[Any]]:
    """Extents, and the values of fixed shape: the columns of an index without its checksums.

    Args:
        path: a shard that `ShardWriter` closed.
        data: the bytes of that file.
        fields: the fields of the dataset.

    Raises:
        CorruptionError: the file is damaged, has other fields, or has values in other files.
    """
    try:
        with h5py.File(path, "r") as file:
            return _columns(file, str(path), data, fields)
    except CorruptionError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # HDF5 reports damage as errors of many kinds. An OSError with a number is of the disk.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorruptionError(f"{path}: is no HDF5 shard of these fields: {printable(str(error))}") from error


def _columns(
    file: h5py.File, path: str, data: NDArray[np.uint8], fields: Mapping[str, Field]
) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    found = {name: stored_dataset(file, name, len(data)) for name in fields}
    if len(lengths := {len(dataset) for dataset in found.values()}) > 1:
        raise CorruptionError(f"{path}: its fields have different numbers of rows: {sorted(lengths)}")
    for name, field in fields.items():
        dataset = found[name]
        if field.is_image and dataset.ndim > 1:
            columns |= zip(extent_columns(name), _row_extents(dataset, len(data)), strict=False)
        elif field.in_index:
            if (dataset.dtype, dataset.shape[1:]) != (_DTYPES[field.dtype], field.shape):
                raise CorruptionError(f"{path}: {name!r} is {dataset.dtype} {dataset.shape[1:]}, not {field.dtype}")
            columns[name] = dataset[:]
        else:
            size = 1 if field.is_image or field.dtype in ("string", "bytes") else _DTYPES[field.dtype].itemsize
            offset, length = _heap_extents(data, _references(data, dataset), path, size)
            columns |= zip(extent_columns(name), (offset, length), strict=False)
    return columns


def _chunk_offsets(dataset: h5py.Dataset, size: int) -> dict[int, int]:
    """The first row of each chunk, and its byte in the file of `size` bytes."""
    offsets: dict[int, int] = {}
    dataset.id.chunk_iter(lambda chunk: offsets.__setitem__(chunk.chunk_offset[0], chunk.byte_offset))
    for first in range(0, len(dataset), dataset.chunks[0]):
        rows = min(dataset.chunks[0], len(dataset) - first)
        if (
            first not in offsets
            or offsets[first] + rows * row_bytes(dataset) > size
            or dataset.chunks[1:] != dataset.shape[1:]
        ):
            raise CorruptionError(f"{dataset.file.filename}: {dataset.name}: row {first} lies outside of the file")
    return offsets


def _row_extents(images: h5py.Dataset, size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    length = row_bytes(images)
    offset = np.zeros(len(images), np.uint64)
    for first, start in _chunk_offsets(images, size).items():
        rows = min(images.chunks[0], len(images) - first)
        offset[first : first + rows] = start + np.arange(rows, dtype=np.uint64) * np.uint64(length)
    return offset, np.full(len(images), length, np.uint64)


def _references(data: NDArray[np.uint8], dataset: h5py.Dataset) -> NDArray[np.void]:
    if h5py.check_dtype(vlen=dataset.dtype) is None or dataset.ndim != 1:
        raise CorruptionError(f"{dataset.file.filename}: {dataset.name} is not of variable length")
    if dataset.chunks is None:
        start = dataset.id.get_offset() or 0  # None where no row was ever stored
        return np.frombuffer(data, _REFERENCE, len(dataset), start)
    references = np.zeros(len(dataset), _REFERENCE)
    for first, start in _chunk_offsets(dataset, len(data)).items():
        rows = max(0, min(dataset.chunks[0], len(dataset) - first))
        references[first : first + rows] = np.frombuffer(data, _REFERENCE, rows, start)
    return references


def _heap_extents(
    data: NDArray[np.uint8], references: NDArray[np.void], name: str, size: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The offset and the length in bytes of each value; `size` is that of an element."""
    offset = np.zeros(len(references), np.uint64)
    collections, end = dict[int, dict[int, tuple[int, int]]](), 0
    # In the order of the file: collections that overlap could make a small file have billions of objects.
    for address in np.unique(references["address"][references["length"] > 0]).tolist():
        if address < end:
            raise CorruptionError(f"{name}: the heap at byte {address} overlaps the one before")
        collections[address], end = _heap_objects(data, address, name)
    for row, (length, address, number) in enumerate(references.tolist()):
        if length == 0:  # an empty value has no object
            continue
        if number not in collections[address]:
            raise CorruptionError(f"{name}: the heap at byte {address} has no object {number} (row {row})")
        offset[row], held = collections[address][number]
        if length * size > held:
            raise CorruptionError(f"{name}: the value of row {row} is longer than its object in the heap")
    return offset, references["length"].astype(np.uint64) * np.uint64(size)


def _heap_objects(data: NDArray[np.uint8], address: int, name: str) -> tuple[dict[int, tuple[int, int]], int]:
    """The number of each object in a collection, the first byte and the bytes of its data; and the collection's end."""
    if address + _COLLECTION.size > len(data):
        raise CorruptionError(f"{name}: the heap at byte {address} lies past the end of the file")
    magic, size = _COLLECTION.unpack_from(data.data, address)
    if magic != b"GCOL" or size < _COLLECTION.size:
        raise CorruptionError(f"{name}: no heap at byte {address}")
    objects: dict[int, tuple[int, int]] = {}
    position, end = address + _COLLECTION.size, min(address + size, len(data))
    while position + _OBJECT.size <= end:
        number, _, length = _OBJECT.unpack_from(data.data, position)
        if number == 0:  # the free space at the end
            break
        if position + _OBJECT.size + length > end:
            raise CorruptionError(f"{name}: object {number} of the heap at byte {address} lies past its end")
        objects[number] = position + _OBJECT.size, length
        position += _OBJECT.size + (length + 7) // 8 * 8
    return objects, end
