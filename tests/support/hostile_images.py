"""Small image files that would keep a decoder busy, or fill its memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

__all__ = ["LONG_ANIMATIONS", "TOO_MUCH_WORK", "progressive"]


def progressive(side: int, scans: int) -> bytes:
    """A JPEG of one colour whose last scan is there many times more."""
    data = _jpeg(side, progressive=True)
    last = list(_segments(data))[-1]
    return data[:-2] + last * scans + b"\xff\xd9"


def _jpeg(side: int, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), 90).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _segments(data: bytes) -> Iterator[bytes]:
    """The segments of a JPEG file after its start, scans with their data."""
    position = 2
    while data[position + 1] != 0xD9:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if data[position + 1] == 0xDA:
            while data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        yield data[position:end]
        position = end


def _sequential(side: int, scans: int) -> bytes:
    """A JPEG that is not progressive, of three components in scans of their own, the first many times."""
    *head, scan = _segments(_jpeg(side, "L"))
    frame = next(segment for segment in head if segment[1] == 0xC0)
    three = frame[:2] + struct.pack(">H", 17) + frame[4:9] + b"\3" + b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3))
    others = [scan[:5] + bytes([number]) + scan[6:] for number in (2, 3)]
    return (
        b"\xff\xd8" + b"".join(three if s is frame else s for s in head) + scan * scans + b"".join(others) + b"\xff\xd9"
    )


def _exif(count: int) -> bytes:
    """A JPEG with one list of numbers in many segments of Exif: the resolution, which Pillow reads at once."""
    entry = struct.pack("<HHHIII", 1, 0x011A, 5, count, 26, 0)
    parts = b"II*\0\x08\0\0\0" + entry + bytes(8 * count)
    pieces = [b"Exif\0\0" + parts[start : start + 65_000] for start in range(0, len(parts), 65_000)]
    data = _jpeg(16)
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(p)) + p for p in pieces) + data[2:]


def _chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(*chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(b"\0\0")) + _chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels


def _gif(before: bytes = b"", frames: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "GIF")
    data = buffer.getvalue()
    start = data.rindex(b",")
    return data[:start] + before + data[start:-1] * frames + b";"


def _tiff(strips: int) -> bytes:
    """A TIFF of one pixel that names millions of strips."""
    where = 8 + 2 + 12 * 8 + 4
    entries = {256: (3, 1, 1), 257: (3, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 278: (3, 1, 1)}
    entries |= {273: (4, strips, where), 279: (4, strips, where)}
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 8) + body + bytes(4) + bytes(4 * strips)


def _pages(pages: int) -> bytes:
    """A TIFF of one pixel on each of many pages."""
    head, size = b"II*\0\x08\0\0\0", 2 + 12 * 8 + 4
    entries = {256: (3, 1), 257: (3, 1), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 278: (3, 1), 279: (4, 1)}
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(entries.items()))
    nexts = [*range(8 + size, 8 + size * pages, size), 0]
    return head + b"".join(struct.pack("<H", 8) + body + struct.pack("<I", after) for after in nexts)


def _bmp(width: int, height: int) -> bytes:
    """A bitmap of runs, all of it in jumps over 255 lines."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 1, 1, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(head)) + head + b"\0\2\0\xff" * (height // 255 + 1) + b"\0\1"


def _qoi(side: int) -> bytes:
    return b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + b"\xfd" * (side * side // 62 + 1) + bytes(7) + b"\1"


def _jpeg2000(*, side: int = 256, tile: int = 256, components: int = 1, layers: int = 1, block: int = 4) -> bytes:
    size = struct.pack(">HH8IH", 38 + 3 * components, 0, side, side, 0, 0, tile, tile, 0, 0, components)
    coding = struct.pack(">HBBHBBBBBB", 12, 0, 0, layers, 0, 5, block, block, 0, 1)
    return b"\xff\x4f\xff\x51" + size + b"\7\1\1" * components + b"\xff\x52" + coding + b"\xff\xd9"


# More than a hundred million pixels each, and of a size for a test.
TOO_MUCH_WORK = {
    "scans.jpg": progressive(1000, 300),
    "sequential-scans.jpg": _sequential(1000, 300),
    "segments.jpg": b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000 + _jpeg(16)[2:],
    "junk.jpg": b"\xff\xd8" + bytes(200_000) + _jpeg(16)[2:],
    "exif.jpg": _exif(100_000),
    "chunks.png": _png(_chunk(b"teSt") * 200_000),
    "chunks-of-an-animation.png": _png(_chunk(b"acTL", struct.pack(">II", 2**31, 0)), _chunk(b"fcTL") * 200_000),
    "comments.gif": _gif(b"\x21\xfe" + (b"\xff" + bytes([65] * 255)) * 20_000 + b"\0"),
    "extensions.gif": _gif(b"\x21\x01\0" * 500_000),
    "strips.tif": _tiff(100_000),
    "runs.bmp": _bmp(2000, 2000),
    "wide-runs.bmp": _bmp(65_000, 1),
    "runs.qoi": _qoi(2000),
    "tiles.jp2": _jpeg2000(side=256, tile=1),
    "layers.jp2": _jpeg2000(layers=65_535),
    "blocks.jp2": _jpeg2000(side=1000, tile=1000, block=0),
    "components.jp2": _jpeg2000(components=16_384),
}
LONG_ANIMATIONS = {"frames.gif": _gif(frames=50_000), "pages.tif": _pages(50_000)}
