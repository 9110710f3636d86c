"""TFRecords of `tf.train.Example` from other programs: the place of each image, and the values beside it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import Problem
from beam_jobs.sources.files.members import ranges, unpack
from shard_reader.format.checksum import masked_crc32c
from shard_reader.format.shard_formats.example import Values
from shard_reader.storage.directory import Directory
from shard_reader.system.memory_map import map_file

__all__ = ["BOXES", "check_boxes", "find_image", "framed", "value"]

BOXES = "objects/bbox"  # the feature of TensorFlow Datasets
_HEADER = struct.Struct("<QI")  # the length, and its checksum
# Boxes may hang over the image by its own size at most. Numbers beyond that are pixels, not parts of the image.
_BEYOND = 1.0
_FOOTER = 4  # the payload's checksum, which is not read


def framed(directory: Directory, name: str, called: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The offset and the payload of every record.

    Raises:
        UsageError: the file is not a TFRecord, or is compressed, damaged or cut off; `called` names it.
    """
    # A local file is mapped, so that bytes of images, which a listing does not use, are not read.
    if directory.local is not None:
        data = map_file(directory.local / name)
        yield from _framed(lambda start, end: data[start:end], len(data), called)
        return
    with directory.open(name) as file:
        read = ranges(file)
        yield from _framed(lambda start, end: np.frombuffer(read(start, end), np.uint8), file.seek(0, 2), called)


def _framed(read: Any, size: int, called: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    position = number = 0
    while position < size:
        header = read(position, position + _HEADER.size).tobytes()
        if position == 0 and header.startswith(b"\x1f\x8b"):
            raise UsageError(
                f"{called}: is compressed by gzip, without random access; unpack it first: {unpack('gzip', called)}"
            )
        cut = f"{called}: was cut off at byte {size:,}, in record {number:,}; copy it again"
        if len(header) < _HEADER.size:
            raise UsageError(cut)
        length, crc = _HEADER.unpack(header)
        if crc != masked_crc32c(header[:8]):
            if position == 0:
                raise UsageError(f"{called}: is no TFRecord file, or is compressed or damaged; write it again")
            raise UsageError(
                f"{called}: the length of record {number:,}, at byte {position:,}, is damaged; copy it again"
            )
        start = position + _HEADER.size
        position = start + length + _FOOTER
        if position > size:
            raise UsageError(cut)
        yield start, read(start, start + length)
        number += 1


def find_image(features: Mapping[str, Values], names: Sequence[str]) -> tuple[str, slice] | None:
    """The first of `names` that has a single value of bytes, and the place of that value in the payload."""
    for name in names:
        found = features.get(name)
        if found is not None and len(found) == 1 and isinstance(found[0], slice):
            return name, found[0]
    return None


def value(found: Values, payload: NDArray[np.uint8], name: str, called: str) -> Any:
    """The value of a feature: a number or text, a list of several, or None.

    Raises:
        UsageError: the bytes of a value are not UTF-8.
    """
    values: list[Any] = [_text(v, payload, name, called) if isinstance(v, slice) else v for v in found]
    return values[0] if len(values) == 1 else values or None


def check_boxes(boxes: Any) -> Problem | None:
    """The defect of boxes, if they are not in the form of TFDS: ymin, xmin, ymax, xmax, as parts of the image."""
    numbers = boxes if isinstance(boxes, list) else [] if boxes is None else [boxes]
    if len(numbers) % 4:
        return Problem("bad-boxes", f"{BOXES} has {len(numbers)} numbers: expected 4 for each box")
    wrong = next((v for v in numbers if not -_BEYOND <= v <= 1 + _BEYOND), None)
    if wrong is None:
        return None
    return Problem(
        "bad-boxes",
        f"{BOXES} holds {wrong}: expected ymin, xmin, ymax, xmax of each box as parts of the image, 0 to 1;"
        " leave it out with --fields",
    )


def _text(part: slice, payload: NDArray[np.uint8], name: str, called: str) -> str:
    data = payload[part].tobytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(
            f"{called}: the feature {name} holds {data[:12]!r}, which is not UTF-8 and can be no field;"
            " name those that are to be fields with --fields, or the image with --image-key"
        ) from None
