"""Values inside pages of Parquet, found and read one by one.

A page may be as large as its row group: PyArrow ends a page after 1,024 values, which are a gigabyte of photos. So a
page is not unpacked to find or to read one value:

- Without compression, a value is a range of the file.
- Snappy packs 64 KiB at a time (https://github.com/google/snappy/blob/main/format_description.txt). Its elements are
  literals and copies, and a photo, which has no repetitions, is a literal in each 64 KiB. `SnappyBody` steps from one
  element to the next and notes the places between which nothing refers to earlier bytes. A value is then a range of
  the file, with less than 128 KiB beside it.
- Other codecs have no such places. Their pages are unpacked whole, up to a size.

A place is a list that survives JSON: the name of the codec, "" for a range as it is, then the first byte in the file,
the number of bytes there, the number of unpacked bytes, and of those the first and the number of the value's.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from shard_reader.storage.directory import Directory

__all__ = ["Body", "Damaged", "PlainBody", "Values", "body_of", "unpacked_for", "varint"]

_CUT = 1 << 16  # bytes that Snappy packs at a time
_WINDOW = 1 << 12  # bytes of Snappy's elements at a time
_FARTHEST = 1 << 20  # bytes between a value and the cut before it
_LARGEST = 1 << 27  # bytes of a page to unpack whole
_CODECS = {"GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli", "LZ4": "lz4_raw"}

Read = Callable[[int, int], bytes]


class Damaged(Exception):
    """Pages that cannot be read, with the reason in words."""


class Body(Protocol):
    """The unpacked bytes of a page, asked for from the first to the last."""

    size: int

    def read(self, start: int, end: int) -> bytes:
        """A few bytes.

        Raises:
            Damaged: the page is cut off or damaged.
        """

    def place(self, start: int, end: int) -> list[Any]:
        """The place of a value in the file.

        Raises:
            Damaged: the page is cut off or damaged.
        """


def body_of(codec: str, read: Read, start: int, packed: int, size: int) -> Body:
    """The body of a page: `packed` bytes from `start` in the file, `size` bytes unpacked.

    Raises:
        Damaged: the codec is unknown, or the page is too large for it.
    """
    if codec == "UNCOMPRESSED":
        return PlainBody(read, start, packed)
    if codec == "SNAPPY":
        return SnappyBody(read, start, packed, size)
    if codec not in _CODECS:
        raise Damaged(f"is packed with {codec}, which cannot be read here; {_REMEDY}")
    return _PackedBody(_CODECS[codec], read, start, packed, size)


_REMEDY = 'write the file again with compression="snappy"'


class PlainBody:
    """A page without compression."""

    def __init__(self, read: Read, start: int, size: int) -> None:
        self._read, self._start, self.size = read, start, size

    def read(self, start: int, end: int) -> bytes:
        """A few bytes."""
        _check(start, end, self.size)
        return _whole(self._read, self._start + start, self._start + end)

    def place(self, start: int, end: int) -> list[Any]:
        """The range of a value."""
        _check(start, end, self.size)
        return ["", self._start + start, end - start, end - start, 0, end - start]


class SnappyBody:
    """A page packed with Snappy. A cut is a place that no element after it refers to bytes before.

    At most one cut for each 64 KiB of a value is kept.
    """

    def __init__(self, read: Read, start: int, packed: int, size: int) -> None:
        self._read, self.size = read, size
        claimed, used = varint(read(start, start + min(5, packed)), 0)
        if claimed != size:
            raise Damaged(f"a page claims {claimed:,} and {size:,} unpacked bytes")
        self._end = start + packed
        self._at, self._out = start + used, 0  # after the last element, in the file and unpacked
        self._cuts = [(0, self._at)]
        self._literal = (0, 0, 0)  # the last literal: its unpacked range, and its first byte in the file
        self._window, self._window_at = b"", 0
        self._unpacked = (0, b"")

    def read(self, start: int, end: int) -> bytes:
        """A few bytes."""
        _check(start, end, self.size)
        known, data = self._unpacked
        if known <= start and end <= known + len(data):
            return data[start - known : end - known]
        self._walk(end)
        first, last, at = self._literal
        if first <= start and end <= last:
            return _whole(self._read, at + start - first, at + end - first)
        cut, packed_at = self._cut(start)
        self._walk(min(self.size, (end + _CUT) // _CUT * _CUT))  # as far as the next values are likely to be
        cut, packed_at = self._cut(start)
        data = _unpacked("snappy", _framed(self._read, packed_at, self._at, self._out - cut), self._out - cut)
        self._unpacked = (cut, data)
        return data[start - cut : end - cut]

    def place(self, start: int, end: int) -> list[Any]:
        """The range of the elements that a value lies in."""
        _check(start, end, self.size)
        del self._cuts[1 : bisect_right(self._cuts, start, key=lambda cut: cut[0]) - 1]
        self._walk(end)
        first, last, at = self._literal
        if first <= start and end <= last:
            return ["", at + start - first, end - start, end - start, 0, end - start]
        cut, packed_at = self._cut(start)
        return ["snappy", packed_at, self._at - packed_at, self._out - cut, start - cut, end - start]

    def _cut(self, start: int) -> tuple[int, int]:
        """The last cut before a byte."""
        cut = self._cuts[bisect_right(self._cuts, start, key=lambda cut: cut[0]) - 1]
        if start - cut[0] > _FARTHEST:
            raise Damaged(f"is packed by an unusual Snappy, without random access; {_REMEDY}")
        return cut

    def _walk(self, to: int) -> None:
        """Step over elements up to an unpacked byte."""
        at, out, cuts = self._at, self._out, self._cuts
        window, window_at = self._window, self._window_at
        while out < to:
            if not window_at <= at <= window_at + len(window) - 5:
                window, window_at = self._read(at, min(self._end, at + _WINDOW)), at
                if not window:
                    raise Damaged("a page ends too early")
            place = at - window_at
            tag, rest = window[place], window[place + 1 : place + 5]
            kind = tag & 3
            if kind == 0:
                length = (tag >> 2) + 1
                more = max(0, length - 60)
                if more:
                    length = int.from_bytes(rest[:more], "little") + 1
                self._literal = (out, out + length, at + 1 + more)
                at += 1 + more + length
            else:
                used = (0, 1, 2, 4)[kind]
                length = (tag >> 2) + 1 if kind > 1 else (tag >> 2 & 7) + 4
                offset = int.from_bytes(rest[:used], "little") + ((tag >> 5 << 8) if kind == 1 else 0)
                at += 1 + used
                if not 0 < offset <= out:
                    raise Damaged("a page is no Snappy")
                while cuts[-1][0] > out - offset:
                    cuts.pop()
            out += length
            if out > self.size or at > self._end:
                raise Damaged("a page is no Snappy")
            if out % _CUT == 0:
                cuts.append((out, at))
        self._at, self._out, self._window, self._window_at = at, out, window, window_at


class _PackedBody:
    """A page of a codec without random access, unpacked whole."""

    def __init__(self, codec: str, read: Read, start: int, packed: int, size: int) -> None:
        if max(size, packed) > _LARGEST:
            raise Damaged(
                f"a page of {max(size, packed):,} bytes is packed with {codec}, without random access; {_REMEDY}, or"
                " with smaller pages"
            )
        self._place = [codec, start, packed, size]
        self.size = size
        self._data = _unpacked(codec, _whole(read, start, start + packed), size)

    def read(self, start: int, end: int) -> bytes:
        """A few bytes."""
        _check(start, end, self.size)
        return self._data[start:end]

    def place(self, start: int, end: int) -> list[Any]:
        """The page, and the range of a value in it."""
        _check(start, end, self.size)
        return [*self._place, start, end - start]


class Values:
    """Reads values at their places. The last pages that had to be unpacked whole are kept, up to 128 MiB."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._turn = threading.Lock()
        self._pages: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def read(self, name: str, place: Sequence[Any]) -> bytes:
        """The bytes of a value in a file.

        Raises:
            Damaged: the file has become shorter, or is damaged.
            OSError: the file cannot be read.
        """
        codec, start, packed, size, first, length = place

        def read(start: int, end: int) -> bytes:
            return self._directory.read(name, start, end)

        if not codec:
            return _whole(read, start, start + packed)
        if codec == "snappy":
            data = _unpacked(codec, _framed(read, start, start + packed, size), size)
        else:
            data = self._page(name, place, read)
        return data[first : first + length]

    def _page(self, name: str, place: Sequence[Any], read: Read) -> bytes:
        codec, start, packed, size = place[:4]
        with self._turn:
            if (data := self._pages.pop((name, start), None)) is None:
                while self._pages and sum(map(len, self._pages.values())) + size > _LARGEST:
                    self._pages.popitem(last=False)
                data = _unpacked(codec, _whole(read, start, start + packed), size)
            self._pages[name, start] = data
        return data


def unpacked_for(place: Sequence[Any]) -> int:
    """The bytes that are unpacked to read one value."""
    return int(place[3])


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and the place after it.

    Raises:
        Damaged: the number does not end within 10 bytes.
    """
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    raise Damaged("a number does not end")


def _framed(read: Read, start: int, end: int, size: int) -> bytes:
    """Elements of Snappy as a whole of their own."""
    head = bytearray()
    while size >= 128:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + _whole(read, start, end)


def _unpacked(codec: str, data: bytes, size: int) -> bytes:
    import pyarrow as pa

    try:
        found: bytes = pa.decompress(data, decompressed_size=size, codec=codec, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"cannot be unpacked by {codec} ({str(error).splitlines()[0]})") from error
    if len(found) != size:
        raise Damaged(f"unpacks to {len(found):,} bytes instead of {size:,}")
    return found


def _whole(read: Read, start: int, end: int) -> bytes:
    data = read(start, end)
    if len(data) != end - start:
        raise Damaged(f"the file ends {end - start - len(data):,} bytes before the end of a value")
    return data


def _check(start: int, end: int, size: int) -> None:
    if not 0 <= start <= end <= size:
        raise Damaged(f"a value of {end - start:,} bytes leaves its page")
