"""A part of a JPEG as a smaller JPEG, cut from its compressed bytes at restart markers (ITU-T T.81, B.2 and E.1.4).

The segments between markers are decoded independently of each other. Those that cover a part, row by row, are a JPEG
after the same header with another size.
"""

# A microsecond counts here: a cut takes a tenth to a fifth of the time in which a photo of 256 x 341 pixels is decoded.

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.image_codecs.codec import Bytes
from shard_reader.transforms.part import Part

__all__ = ["Cut", "cut"]

_MOST_BYTES = 1 << 24  # of a payload: the search for markers takes up to 15 times as much memory
_STUFFED = 4  # one of so many bytes, at most, is a coded 255, with a 0 after it; in photos one of 200
_MOST_SEGMENTS = 64  # of a header; 10 are usual
_PAYS = 3 << 13  # pixels: a cut takes as long as decoding 10,000 to 20,000
_BASELINE, _EXTENDED, _TABLES, _QUANTIZATION, _INTERVAL, _SCAN = 0xC0, 0xC1, 0xC4, 0xDB, 0xDD, 0xDA
_COPIED = frozenset((_TABLES, _QUANTIZATION, *range(0xE0, 0xF0), 0xFE))  # with APPn and comments
_END = 0xD9
_RESTARTS = bytes(range(0xD0, 0xD8)) * (1 << 10)
# libjpeg interpolates colours between neighbours: one pixel around the part makes its own pixels those of the whole.
# It does not where an image is narrower than five pixels, which a cut must not become.
_MARGIN, _NARROW = 1, 8


class Cut(NamedTuple):
    """A smaller JPEG, and its place in the whole image, in pixels."""

    data: Bytes | bytearray
    top: int
    left: int
    height: int
    width: int
    channels: int


class _Header(NamedTuple):
    """Places of frame and scan data, the size, that of a minimum coded unit (MCU), and the MCUs between two markers."""

    frame: int
    scan: int
    height: int
    width: int
    channels: int
    unit_height: int
    unit_width: int
    interval: int


class _Grid(NamedTuple):
    """Rows and columns of all segments, and the ranges of rows and columns to be cut out."""

    rows: int
    columns: int
    top: int
    bottom: int
    left: int
    right: int


def cut(payload: Bytes, height: int, width: int, part: Part) -> Cut | None:
    """A JPEG of a part of an image, and of the pixels around it up to the next markers.

    Its pixels of the part are those of the whole image, decoded at the scale of the part.

    Args:
        payload: any bytes.
        height: that of the whole image, which the header has to say, too.
        width: as `height`.

    Returns:
        None where a cut is not possible, or not faster: without markers, in the wrong order or number, or for a JPEG
        in several scans.
    """
    # The segments of a part are no smaller than the part.
    if height * width - part.height * part.width < _PAYS:
        return None
    header = _header(payload)
    if header is None or header.height != height or header.width != width:
        return None
    tall, wide, margin = header.unit_height, header.unit_width * header.interval, _MARGIN * part.scale
    left = max(0, min(part.left - margin, width - _NARROW * part.scale))
    right = min(width, max(part.left + part.width + margin, left + _NARROW * part.scale))
    top, bottom = max(0, part.top - margin), min(height, part.top + part.height + margin)
    grid = _Grid(
        -(-height // tall), -(-width // wide), top // tall, -(-bottom // tall), left // wide, -(-right // wide)
    )
    top, left = grid.top * tall, grid.left * wide
    bottom, right = min(height, grid.bottom * tall), min(width, grid.right * wide)
    if top >= bottom or left >= right or height * width - (bottom - top) * (right - left) < _PAYS:
        return None
    bounds = _bounds(payload, header.scan, grid.rows * grid.columns)
    if bounds is None:
        return None
    data = _joined(payload, header.scan, bounds, grid)
    struct.pack_into(">HH", data, header.frame + 5, bottom - top, right - left)
    return Cut(data, top, left, bottom - top, right - left, header.channels)


def _header(payload: Bytes) -> _Header | None:
    """The header of a JPEG in one scan of Huffman codes, with markers that divide its rows; None for others."""
    if len(payload) > _MOST_BYTES:
        return None
    data, size, position, frame, interval = payload.data, len(payload), 2, 0, 0
    for _ in range(_MOST_SEGMENTS):
        if position + 4 > size:
            return None
        start, kind, length = struct.unpack_from(">BBH", data, position)
        if start != 0xFF or length < 2 or position + 2 + length > size:
            return None
        if kind == _SCAN:
            return _of_frame(data, frame, position, length, interval) if frame and interval else None
        if kind not in _COPIED:
            if kind in (_BASELINE, _EXTENDED) and not frame and length >= 11:
                frame = position
            elif kind == _INTERVAL and not interval and length == 4:
                (interval,) = struct.unpack_from(">H", data, position + 4)
            else:
                return None
        position += 2 + length
    return None


def _of_frame(data: memoryview, frame: int, scan: int, length: int, interval: int) -> _Header | None:
    size, bits, height, width, channels = struct.unpack_from(">HBHHB", data, frame + 2)
    # One scan with all components.
    if bits != 8 or channels not in (1, 3) or size != 8 + 3 * channels or length != 6 + 2 * channels:
        return None
    factors = data[frame + 11 : frame + 2 + size : 3]
    # A scan of one component has blocks for units, whatever its factors.
    across, down = (1, 1) if channels == 1 else (max(f >> 4 for f in factors), max(f & 15 for f in factors))
    if not (1 <= across <= 4 and 1 <= down <= 4 and height and width) or -(-width // (8 * across)) % interval:
        return None
    return _Header(frame, scan + 2 + length, height, width, channels, 8 * down, 8 * across, interval)


def _bounds(payload: Bytes, scan: int, count: int) -> NDArray[np.int64] | None:
    """The places after the scan's header where segments begin, and the end of the last one's marker.

    None, unless there are the markers of `count` segments and no others.
    """
    data = payload[scan:]
    found = data == 0xFF
    if np.count_nonzero(found) > 2 * count + len(data) // _STUFFED or 3 * count > len(data):
        return None
    places = found.nonzero()[0]
    if not len(places) or places[-1] + 2 != len(data):
        return None
    codes = data[places + 1]
    marks = codes.nonzero()[0]  # a 0 makes the byte before it one of the data
    if len(marks) != count or codes[marks].tobytes() != _codes(count):
        return None
    bounds = np.zeros(count + 1, np.int64)
    np.add(places[marks], 2, bounds[1:])
    return bounds


def _joined(payload: Bytes, scan: int, bounds: NDArray[np.int64], grid: _Grid) -> bytearray:
    """The header as it is, and the segments of a part, with new numbers in their markers."""
    ends = bounds[1:].reshape(grid.rows, grid.columns)[grid.top : grid.bottom, grid.left : grid.right]
    first = bounds[:-1].reshape(grid.rows, grid.columns)[grid.top : grid.bottom, grid.left]
    last = ends[:, -1]
    data, rows = payload.data[scan:], zip(first.tolist(), last.tolist(), strict=True)
    joined = bytearray().join([payload.data[:scan], *[data[start:stop] for start, stop in rows]])
    # A row moves as a whole: by the difference of its new and its former place.
    moved = (last - first).cumsum() - last + (scan - 1)
    codes = _codes(ends.size)
    np.frombuffer(joined, np.uint8)[(ends + moved[:, np.newaxis]).ravel()] = np.frombuffer(codes, np.uint8)
    return joined


def _codes(count: int) -> bytes:
    """The codes of the markers after each of `count` segments."""
    repeated = _RESTARTS if count <= len(_RESTARTS) else _RESTARTS * (count // len(_RESTARTS) + 1)
    return repeated[: count - 1] + bytes((_END,))
