"""Checks of a compressed frame of DICOM: its own header, before a decoder takes memory for it."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, Final

from beam_jobs.images.files.work import check_file
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput
from shard_reader.printable import excerpt

__all__ = ["check_frame"]

_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # the last one is JPEG-LS
_MOST_SEGMENTS: Final = 10_000
_SIZ: Final = b"\xff\x4f\xff\x51"
_RLE: Final = "1.2.840.10008.1.2.5"
_MOST_RLE_SEGMENTS: Final = 15


def check_frame(data: bytes, syntax: Any, dataset: Any, options: ImageOptions) -> None:
    """Check a frame against the size that the data set states.

    Raises:
        BadInput: it has another size, is of an unknown compression, or is too much work.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax == _RLE:
        most = rows * columns * int(dataset.get("SamplesPerPixel", 1)) * max(1, int(dataset.BitsAllocated) // 8)
        if not _fits(data, most):
            raise BadInput("damaged", f"a frame of runs has more than the {most:,} bytes of {columns}x{rows} pixels")
        return
    check_file(data, options.max_work)
    size = _jpeg_size(data) if data.startswith(b"\xff\xd8") else _jpeg2000_size(data)
    if size is None:
        raise BadInput(
            "unsupported-mode", f"a DICOM in {excerpt(syntax.name)}, whose frame is not that of a JPEG; convert it"
        )
    if size != (columns, rows):
        raise BadInput("damaged", f"states {columns}x{rows} pixels, and its frame has {size[0]}x{size[1]}")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, of any kind (ITU-T T.81, annex B; T.87, annex C)."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        while data[position : position + 2] == b"\xff\xff":
            position += 1
        if data[position : position + 1] != b"\xff" or len(data) < position + 9:
            return None
        if data[position + 1] in _FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def _jpeg2000_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG 2000 codestream (ITU-T T.800, A.5.1)."""
    start = data.find(_SIZ)
    if start < 0 or len(data) < start + 24:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    return right - left, bottom - top


def _fits(data: bytes, most: int) -> bool:
    """Whether runs unpack to at most so many bytes, beside one for each segment (DICOM PS3.5, annex G)."""
    count = int.from_bytes(data[:4], "little")
    if not 0 < count <= _MOST_RLE_SEGMENTS or len(data) < 64:
        return False
    starts = [*struct.unpack_from(f"<{count}I", data, 4), len(data)]
    size = 0
    for start, end in pairwise(starts):
        while start < end - 1:
            head = data[start]
            if head == 128:
                start += 1
                continue
            size += head + 1 if head < 128 else 257 - head
            start += head + 2 if head < 128 else 2
            if size > most + count:
                return False
    return True
