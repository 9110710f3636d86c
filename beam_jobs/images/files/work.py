"""The work that a decoder would have with an image file, counted from its headers before anything is decoded.

The unit is a pixel that a decoder goes over once: an image of 12 megapixels in ten scans is 120 million. Parts of a
file that are handled one by one, such as chunks and strips, count as the pixels that take the same time. Counts are
the same on every machine, so that they may reject; a clock is not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from PIL import Image

from beam_jobs.images.files.png import SIGNATURE
from beam_jobs.sources.files.interface import BadInput

__all__ = ["check_exif", "check_file", "check_image"]

_PART = 1000  # pixels for a segment, a chunk or a block, each of which takes Pillow a microsecond or more
_STRIP, _VALUE = 8000, 400  # a strip or tile of a TIFF, which is an object in memory; any other number in its tags
_PYTHON = 50  # times a pixel, where a decoder is Python
_SMALL_GIF = 1 << 20  # bytes, up to which no walk over the blocks is worth its time
_COPY = 200  # bytes that are copied in the time of a pixel

_ORIENTATION = 0x0112
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers of frames: SOF0 to SOF15
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_NEXT_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)

_SIZ, _COD = b"\xff\x4f\xff\x51", b"\xff\x52"
_TYPES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # TIFF's types of numbers
_OFFSETS = (0x0111, 0x0144)  # of strips, and of tiles
_IN_PYTHON = frozenset({"bmp_rle", "dds_rgb", "ppm", "ppm_plain", "qoi", "xpm"})
_RLE = "bmp_rle"


def check_file(data: bytes, limit: int) -> None:
    """Check the parts of a file, before any decoder sees it.

    Raises:
        BadInput: they are more work than `limit` pixels.
    """
    for magic, count in _FILES.items():
        if data.startswith(magic):
            count(data, limit)
            return


def check_image(image: Image.Image, limit: int) -> None:
    """Check the pixels of an image whose decoder is slow. Call this before the image is loaded.

    Raises:
        BadInput: they are more work than `limit` pixels.
    """
    for tile in getattr(image, "tile", ()):
        if tile[0] not in _IN_PYTHON:
            continue
        width, height = image.size
        # A jump in a bitmap of runs may be over 255 lines, all of which are filled.
        pixels = width * (height + 255) if tile[0] == _RLE else width * height
        _check(pixels * len(image.getbands()) * _PYTHON, limit, f"{width}x{height} pixels, decoded one by one")


def check_exif(data: bytes) -> None:
    """Check that the orientation in Exif data is no list, which could fill the memory.

    Raises:
        ValueError: it is.
    """
    if any(tag == _ORIENTATION and count > 1 for tag, count in _tiff_counts(data.removeprefix(b"Exif\0\0"))):
        raise ValueError("the Exif data have several orientations")


def _check(work: int, limit: int, what: str) -> None:
    if work > limit:
        raise BadInput(
            "too-much-work",
            f"{what}: decoding goes over {work:,} pixels, more than --max-work {limit:,}; save it again, or allow more",
        )


def _jpeg(data: bytes, limit: int) -> None:
    """Scans of a JPEG file, each of which goes over the blocks of its components (ITU-T T.81, annex B)."""
    kind, frame, scan, parts = _jpeg_header(data, limit)
    if scan < 0:
        return
    height, width, count = struct.unpack_from(">HHB", frame, 1)
    # A sequential file with all components in its first scan has no other one: a decoder stops there.
    if kind in _SEQUENTIAL and data[scan + 4 : scan + 5] == bytes([count]):
        return
    # Between two markers, no byte of pixels looks like one: there are at most so many scans.
    most = data.count(b"\xff\xda", scan)
    if most * width * height * max(1, count) + parts * _PART <= limit:
        return
    areas = _areas(frame, width * height, count)
    work = parts * _PART
    for scans, components in enumerate(_scans(data, scan), 1):
        work += sum(areas.get(component, width * height) for component in components) + _PART
        if work > limit:
            rest = f" of {most:,}" if scans < most else ""
            _check(work, limit, f"{width}x{height} pixels in {scans:,}{rest} scans")


def _jpeg_header(data: bytes, limit: int) -> tuple[int, bytes, int, int]:
    """Marker and content of the frame's header, the place of the first scan (-1 without both), and the parts so far."""
    position, parts, kind, frame = 2, 0, 0, b""
    while match := _MARKER.search(data, position):
        parts += 1 + match.start() - position  # Pillow goes over other bytes one by one
        if parts * _PART > limit:
            _check(parts * _PART, limit, f"{parts:,} segments before any pixel")
        marker = match[1][0]
        if marker == _SOS:
            return kind, frame, match.start() if frame else -1, parts
        if marker == _EOI:
            break
        length = 0 if marker in _BARE else int.from_bytes(data[match.end() : match.end() + 2])
        if marker in _SIZES and length >= 8:
            kind, frame = marker, data[match.end() + 2 : match.end() + length]
        # Pillow joins several segments of Exif to one, and makes objects of the numbers in it.
        if marker == _APP1 and data[match.end() + 2 : match.end() + 6] == b"Exif":
            parts += length
        position = match.end() + length
    return kind, frame, -1, parts


def _areas(frame: bytes, pixels: int, count: int) -> dict[int, int]:
    """The number of pixels of each component, by its id."""
    found = [
        (frame[at], frame[at + 1] >> 4, frame[at + 1] & 15) for at in range(6, min(6 + 3 * count, len(frame) - 2), 3)
    ]
    most = max((across for _, across, _ in found), default=1) * max((down for _, _, down in found), default=1)
    return {id: -(-pixels * across * down // max(1, most)) for id, across, down in found}


def _scans(data: bytes, position: int) -> Iterator[bytes]:
    """The components of each scan from a position on, until the end of the image."""
    while match := _NEXT_SCAN.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _EOI:
            return
        if marker == _SOS:
            yield data[position + 3 : position + 3 + 2 * data[position + 2] : 2] if len(data) > position + 2 else b""
        if marker not in _BARE:
            position += int.from_bytes(data[position : position + 2])


def _png(data: bytes, limit: int) -> None:
    """Chunks of a PNG file."""
    if len(data) // 12 * _PART <= limit:
        return
    position, chunks = 8, 0
    while position + 8 <= len(data):
        position += 12 + int.from_bytes(data[position : position + 4])
        chunks += 1
        if chunks * _PART > limit:
            _check(chunks * _PART, limit, f"{chunks:,} chunks")


def _gif(data: bytes, limit: int) -> None:
    """Blocks of a GIF file until its second frame, of which comments are joined one by one."""
    if len(data) <= _SMALL_GIF:
        return
    blocks = joined = frames = 0
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while frames < 2 and position < len(data):
        kind = data[position]
        if kind == 0x2C:
            frames += 1
            packed = data[position + 9] if position + 9 < len(data) else 0
            position += 11 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
        elif kind == 0x21:
            position += 2
        else:
            position, blocks = position + 1, blocks + 1
            continue
        start, parts = position, 0
        while position < len(data) and data[position]:
            position += 1 + data[position]
            parts += 1
        position += 1
        blocks += 1 + parts
        joined += parts * (position - start) // 2 if kind == 0x21 else 0
        work = blocks * _PART // 4 + joined // _COPY
        _check(work, limit, f"{blocks:,} blocks of a GIF before its second frame")


def _tiff(data: bytes, limit: int) -> None:
    """Strips or tiles of a TIFF file, and the numbers in its tags (TIFF Revision 6.0, section 2)."""
    strips = values = entries = 0
    for tag, count in _tiff_counts(data):
        entries += 1
        strips = max(strips, count) if tag in _OFFSETS else strips
        values += count
        if entries * _PART > limit:
            break
    work = strips * _STRIP + values * _VALUE + entries * _PART
    _check(work, limit, f"{strips:,} strips or tiles, {values:,} numbers in its tags")


def _tiff_counts(data: bytes) -> Iterator[tuple[int, int]]:
    """The tag and the count of each list of numbers in the first directory of a TIFF file, as far as it has them."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    entry = struct.Struct(f"{order}HHQQ" if big else f"{order}HHII")
    head, number = struct.Struct(f"{order}{'Q' if big else 'I'}"), struct.Struct(f"{order}{'Q' if big else 'H'}")
    place = 8 if big else 4
    if len(data) < place + head.size:
        return
    (start,) = head.unpack_from(data, place)
    if start + number.size > len(data):
        return
    (entries,) = number.unpack_from(data, start)
    start += number.size
    for at in range(start, min(start + entries * entry.size, len(data) - entry.size + 1), entry.size):
        tag, kind, count, _ = entry.unpack_from(data, at)
        size = _TYPES.get(kind)
        # Values that the file does not have are never read: Pillow refuses the tag.
        if size is not None and count * size <= len(data):
            yield tag, count


def _jpeg2000(data: bytes, limit: int) -> None:
    """Tiles, packets and code-blocks of a JPEG 2000 codestream (ITU-T T.800, A.5.1 and A.6.1)."""
    start = data.find(_SIZ)
    if start < 0 or len(data) < start + 42:
        return
    *_, x1, y1, x0, y0, wide, high, tx, ty, components = struct.unpack_from(">4sHH8IH", data, start)
    if not wide or not high or x1 <= x0 or y1 <= y0:
        return  # the decoder refuses it
    width, height = x1 - x0, y1 - y0
    tiles = -(-(x1 - min(tx, x1)) // wide) * -(-(y1 - min(ty, y1)) // high)
    layers, levels, block, precinct = _coding(data, start)
    inside = max(1, -(-min(wide, width) // precinct)) * max(1, -(-min(high, height) // precinct))
    packets = tiles * components * (levels + 1) * layers * inside
    blocks = width * height * components * max(1, 4096 // block)
    what = f"{width}x{height} pixels, {tiles:,} tiles, {components:,} components, {layers:,} layers"
    _check(tiles * components * _STRIP + packets * _PART // 2 + blocks, limit, what)


def _coding(data: bytes, start: int) -> tuple[int, int, int, int]:
    """Layers, levels, the area of a code-block, and the side of the smallest precinct."""
    at = data.find(_COD, start + 42)
    if at < 0 or len(data) < at + 14:
        return 1, 5, 4096, 1 << 15
    style, _, layers, _, levels, across, down = struct.unpack_from(">BBHBBBB", data, at + 4)
    block = 1 << (across & 15) + (down & 15) + 4
    sides = data[at + 14 : at + 15 + levels] if style & 1 else b""
    precinct = min((1 << min(side & 15, side >> 4) for side in sides), default=1 << 15)
    return layers, min(levels, 32), block, precinct


_FILES: Final[Mapping[bytes, Callable[[bytes, int], None]]] = {
    b"\xff\xd8": _jpeg,
    SIGNATURE: _png,
    b"GIF8": _gif,
    b"II\x2a\0": _tiff,
    b"MM\0\x2a": _tiff,
    b"II\0\x2a": _tiff,
    b"MM\x2a\0": _tiff,
    b"II\x2b\0": _tiff,
    b"MM\0\x2b": _tiff,
    b"\xff\x4f\xff\x51": _jpeg2000,
    b"\0\0\0\x0cjP": _jpeg2000,
}
