"""Images as arrays: any array, NumPy's `.npy` and `.npz`, and files of records of one length.

All become named arrays with the image as their first dimension. One array holds the images and one may hold the labels;
others of the same length are fields.

```
[n, height, width]             grey        [n, height, width, 1 | 3 | 4]
[n, 1 | 3 | 4, height, width]  planes      n files of variable-length uint8 (HDF5)
```
"""

from __future__ import annotations

import io
import math
import re
import struct
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput, Pixels
from beam_jobs.sources.files.members import data_offset, list_zip, ranges
from shard_reader.format.fields import Field
from shard_reader.printable import printable

__all__ = [
    "Array",
    "RowArray",
    "as_pixels",
    "blocks",
    "check_images",
    "check_label",
    "describe",
    "field",
    "is_files",
    "npy_array",
    "npz_arrays",
    "parse_record",
    "placing",
    "record_arrays",
    "row_bytes",
    "values",
    "width_and_height",
]

Place = Callable[[int], list[Any]]
"""Returns the place of an image, by its row."""

_EXPECTED = (
    "expected uint8 or uint16 of [n, height, width], [n, height, width, channels] or [n, channels, height, width],"
    " with 1, 3 or 4 channels"
)
_CHANNELS = (1, 3, 4)
_NPY_HEADER = 1 << 16  # bytes, of which NumPy allows ten thousand
_NPY_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, SyntaxError, RecursionError, MemoryError),
    *(struct.error, tokenize.TokenError, EOFError),
)  # of NumPy's parser, for headers that somebody made up
_MAX_ARRAYS = 10_000
_MAX_ROW_BYTES = 1 << 20  # of one field
_MAX_VALUES = 4096  # of one field: larger arrays are other data, such as masks
_TYPE = r"(>?)([iu][1248]|f[48])"
_ENTRY = re.compile(rf"\s*([^:,\[\]\s]+)\s*:\s*{_TYPE}\s*(?:\[\s*([1-9]\d*(?:\s*,\s*[1-9]\d*)*)\s*\])?\s*(?:,|$)")


class Array(Protocol):
    """The part of `numpy.ndarray`'s interface that arrays on disk, such as `h5py.Dataset`, share."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice) -> NDArray[Any]: ...


class RowArray:
    """An array in a file: the first row at `offset`, each further one `step` bytes later."""

    # Not a `numpy.memmap`: the file may be in a store.

    def __init__(self, file: BinaryIO, offset: int, step: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.offset, self.step, self.dtype, self.shape = offset, step, dtype, shape
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._read = ranges(file)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read some rows, given by a slice without a step."""
        start, stop, _ = rows.indices(self.shape[0])
        shape = (stop - start, *self.shape[1:])
        if 0 in shape:
            return np.empty(shape, self.dtype)
        first = self.offset + start * self.step
        data = self._read(first, first + (stop - start - 1) * self.step + self.row_bytes)
        inner = np.empty((1, *shape[1:]), self.dtype).strides[1:] if len(shape) > 1 else ()
        return np.ndarray(shape, self.dtype, data, strides=(self.step, *inner))


def check_images(array: Array, name: str, called: str) -> None:
    """Check that an array holds images. `called` names its file in messages.

    Raises:
        UsageError: the array has another dtype or shape.
    """
    if is_files(array):
        return
    shape, dtype = array.shape, array.dtype
    # Without a byte for each row, a header of some bytes would stand for any number of images.
    if 0 in shape[1:]:
        raise UsageError(f"{called}: the array {printable(name)} is {describe(array)}: its images have no pixels")
    pixels = dtype.kind == "u" and dtype.itemsize in (1, 2)
    if pixels and (len(shape) == 3 or (len(shape) == 4 and (shape[3] in _CHANNELS or shape[1] in _CHANNELS))):
        return
    hint = "; scale them to 0..255 and save them as uint8" if dtype.kind == "f" else ""
    raise UsageError(f"{called}: the array {name} is {describe(array)}: {_EXPECTED}{hint}")


def check_label(array: Array, name: str, called: str) -> None:
    """Check that an array holds a label for each image.

    Raises:
        UsageError: the array has another dtype or shape.
    """
    if array.dtype.kind in "fc" or math.prod(array.shape[1:]) != 1:
        raise UsageError(
            f"{called}: the labels {name} are {describe(array)}: expected a whole number or a name for each image"
            " (of one-hot labels, save the argmax)"
        )


def as_pixels(row: NDArray[Any]) -> Pixels:
    """One image of an array that `check_images` has accepted."""
    # An array of planes, as of PyTorch. An image with a width of 1, 3 or 4 counts as one with its channels last.
    if row.ndim == 3 and row.shape[2] not in _CHANNELS:
        row = np.moveaxis(row, 0, 2)
    return np.ascontiguousarray(row, row.dtype.newbyteorder("="))


def width_and_height(shape: Sequence[int]) -> tuple[int, int]:
    """The size of an image, by its shape in an array that `check_images` has accepted; 0, 0 for a file."""
    if len(shape) == 3 and shape[2] not in _CHANNELS:
        return shape[2], shape[1]
    return (shape[1], shape[0]) if len(shape) > 1 else (0, 0)


def describe(array: Array) -> str:
    """The dtype and shape of an array, for messages."""
    return f"{array.dtype} {list(array.shape)}"


def values(array: Array, name: str, called: str, rows: slice) -> list[Any]:
    """Some rows as numbers, texts, and flat lists of either.

    Raises:
        UsageError: the array holds values of another type, or too many.
    """
    kind = array.dtype.kind
    text = kind in "SU" or (isinstance(array, h5py.Dataset) and h5py.check_string_dtype(array.dtype) is not None)
    inner = h5py.check_vlen_dtype(array.dtype) if isinstance(array, h5py.Dataset) else None
    ragged = inner is not None and np.dtype(inner).kind in "biuf"
    if not (kind in "biuf" or text or ragged) or (ragged and len(array.shape) > 1):
        pickled = " (Python objects, which only pickle can read)" if kind == "O" else ""
        raise UsageError(
            f"{called}: the array {name} is {describe(array)}{pickled}: a field is of numbers or texts;"
            " save it as such, or leave it out with --fields"
        )
    if math.prod(array.shape[1:]) > _MAX_VALUES:
        raise UsageError(
            f"{called}: the array {name} is {describe(array)}: a field has at most {_MAX_VALUES:,} values;"
            " leave it out with --fields"
        )
    if row_bytes(array) > _MAX_ROW_BYTES:
        raise UsageError(
            f"{called}: the array {printable(name)} is {describe(array)}: a value has at most {_MAX_ROW_BYTES:,} bytes;"
            " leave it out with --fields"
        )
    block = array[rows]
    if ragged:
        return [row.tolist() for row in block]
    if len(array.shape) > 1:
        wide = math.prod(array.shape[1:])
        block = block.reshape(len(block), wide) if wide != 1 else block.reshape(len(block))
    found: list[Any] = block.tolist()
    return [_decoded(value, name, called) for value in found] if text else found


def row_bytes(array: Array) -> int:
    """The bytes of a row, as far as the type tells: not of texts and lists of any length."""
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def field(array: Array) -> Field | None:
    """The type of a field of arrays, which its flat lists of values do not show; None for other fields."""
    inner = h5py.check_vlen_dtype(array.dtype) if isinstance(array, h5py.Dataset) else None
    dtype = np.dtype(inner) if inner is not None else array.dtype
    if dtype.kind not in "biuf" or (inner is None and math.prod(array.shape[1:]) == 1):
        return None
    shape = array.shape[1:] if inner is None else (None,)
    return Field(dtype="float32" if dtype.kind == "f" else "int64", shape=shape)


def _decoded(value: Any, name: str, called: str) -> Any:
    if isinstance(value, list):
        return [_decoded(one, name, called) for one in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        raise UsageError(
            f"{called}: the array {name} holds {value[:20]!r}, which is not UTF-8; leave it out with --fields"
        ) from None


def is_files(array: Array) -> bool:
    """Whether each row of an array is the bytes of an image file."""
    return bool(
        isinstance(array, h5py.Dataset)
        and len(array.shape) == 1
        and h5py.check_vlen_dtype(array.dtype) == np.dtype(np.uint8)
    )


def npy_array(file: BinaryIO, start: int, end: int, called: str, name: str) -> RowArray:
    """The array of an `.npy` file that lies from `start` to `end` in another file.

    Raises:
        UsageError: the bytes are not an array, are cut off, or are in Fortran's order.
    """
    name = printable(name)
    file.seek(start)
    # NumPy reads a header of any length before it looks at it.
    header = io.BytesIO(file.read(_NPY_HEADER))
    try:
        version = np.lib.format.read_magic(header)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(header)
    except _NPY_ERRORS as error:
        what = str(error).partition("\n")[0]
        raise UsageError(f"{called}: {name} is no array of NumPy's ({what}); save it again with numpy.save") from error
    if any(type(size) is not int or size < 0 for size in shape):
        raise UsageError(f"{called}: {name} has the shape {list(shape)}, which no array has; save it again")
    # In Fortran's order, the bytes of an image are spread over the whole file.
    if fortran and len(shape) > 1:
        raise UsageError(f"{called}: {name} is in Fortran's order; save numpy.ascontiguousarray of it")
    offset = start + header.tell()
    array = RowArray(file, offset, math.prod(shape[1:]) * dtype.itemsize, dtype, shape)
    length = math.prod(shape) * dtype.itemsize
    if offset + length > end and not dtype.hasobject:
        raise UsageError(
            f"{called}: was cut off: {name}, {describe(array)}, needs {length:,} bytes and has {end - offset:,}"
        )
    return array


def npz_arrays(file: BinaryIO, called: str) -> dict[str, RowArray]:
    """The arrays of an `.npz` file, without reading their values.

    Raises:
        UsageError: the file is not a zip, or is compressed or damaged.
    """
    found: dict[str, RowArray] = {}
    length = file.seek(0, 2)
    for member in list_zip(file, called):
        name = printable(member.name.removesuffix(".npy"))
        if len(found) >= _MAX_ARRAYS:
            raise UsageError(f"{called}: holds more than {_MAX_ARRAYS:,} arrays; give images one array with many rows")
        offset, method, _, size, _ = member.place
        if method:
            raise UsageError(
                f"{called}: the array {name} is compressed, as numpy.savez_compressed does, without random access;"
                " save it again with numpy.savez"
            )
        try:
            start = data_offset(ranges(file)(offset, offset + 64), offset)
        except BadInput as error:
            raise UsageError(f"{called}: {error}; make or copy it again") from error
        found[name] = npy_array(file, start, min(start + size, length), called, name)
    return found


def placing(images: Array, name: str, file: str) -> tuple[Place, int, int]:
    """A function for the place of each image, the size of an image, and the bytes that reading a row touches."""
    size = math.prod(images.shape[1:]) * images.dtype.itemsize
    if not isinstance(images, RowArray):
        return (lambda row: ["hdf5", file, name, row]), -1 if is_files(images) else size, 1
    first, step, how = images.offset, images.step, [size, images.dtype.str, list(images.shape[1:])]
    return (lambda row: ["pixels", file, first + row * step, *how]), size, max(1, step)


def parse_record(text: str) -> np.dtype[Any]:
    """Parse the description of a record of one length: `label:u1,image:u1[3,32,32]`.

    Raises:
        UsageError: the text is not a description of a record.
    """
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    position = 0
    while position < len(text) or not entries:
        match = _ENTRY.match(text, position)
        wrong = "" if match is None else f"{match[1]} is there twice" if match[1] in entries else ""
        if match is None or wrong or (match[0].endswith(",") and match.end() == len(text)):
            raise UsageError(
                f"--record {text}: {wrong or f'cannot be understood at {text[position:]!r}'}; expected"
                " NAME:TYPE[SHAPE],... as label:u1,image:u1[3,32,32], with the types u1 u2 u4 u8 i1 i2 i4 i8 f4 f8, and"
                " > before one for big-endian"
            )
        shape = tuple(int(size) for size in match[4].split(",")) if match[4] else ()
        entries[match[1]] = ((match[2] or "<") + match[3], shape)
        position = match.end()
    try:
        return np.dtype([(name, *entry) for name, entry in entries.items()])
    except ValueError as error:
        raise UsageError(f"--record {text}: {error}") from error


def record_arrays(file: BinaryIO, record: np.dtype[Any], called: str) -> dict[str, RowArray]:
    """The arrays of a file of records of one length.

    Raises:
        UsageError: the length of the file is not a multiple of a record's.
    """
    size = file.seek(0, 2)
    parts: Mapping[str, Any] = record.fields or {}
    if size % record.itemsize:
        terms = " + ".join(f"{name} {part[0].itemsize:,}" for name, part in parts.items())
        raise UsageError(
            f"{called}: has {size:,} bytes, {size // record.itemsize:,} records of {record.itemsize:,} ({terms}) and"
            f" {size % record.itemsize:,} bytes more: give --record as the file is, or copy it again"
        )
    found = {}
    for name, (dtype, offset, *_) in parts.items():
        shape = (size // record.itemsize, *dtype.shape)
        found[name] = RowArray(file, offset, record.itemsize, dtype.base, shape)
    return found


def blocks(rows: int, of: int) -> Iterator[slice]:
    """Slices of `of` rows each."""
    for start in range(0, rows, of):
        yield slice(start, min(rows, start + of))
