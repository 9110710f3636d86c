"""Members of tar and zip archives: listed in memory that does not grow with their number, and read by offset.

The place of a tar's member is `[offset, size]`, where its bytes lie uncompressed. The place of a zip's member is
`[header_offset, method, compressed_size, size, crc]`:

```
local header   "PK34" ... uint16 name's length | uint16 extra's length | name | extra | data
central        "PK12" ... one for each member, at the end: the local header's values, and its offset
end            "PK56" ... their number, and the offset of the first; before it the same in 64 bits, if need be
```

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.3.
"""

from __future__ import annotations

import os
import shlex
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput, Problem
from shard_reader.printable import printable
from shard_reader.storage.open import is_url

__all__ = ["Member", "data_offset", "list_tar", "list_zip", "ranges", "read_plain", "read_zip", "unpack"]

Read = Callable[[int, int], bytes]
"""Returns the bytes of an archive from one offset to another, fewer at its end."""

_BLOCK = 512  # of a tar
_HEADER_BYTES = 1 << 20  # of a tar's member: a header with a long name, or with attributes
_PIECE = 1 << 20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_SUFFIXES = {
    "gzip": (".gz", ".tgz"),
    "bzip2": (".bz", ".bz2", ".tbz", ".tbz2"),
    "xz": (".xz", ".txz"),
    "zstd": (".zst", ".tzst"),
}
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_STORED, _DEFLATED = 0, 8
_METHODS = {6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd"}
# Room for the name and the extra of a local header. Their lengths are not known before the header is read; with this
# much more, one request usually gets header and data.
_HEADER_ROOM = 512
_UNICODE_PATH = struct.Struct("<BL")  # a version, and the CRC of the name that the extra replaces


class Member(NamedTuple):
    """One file of an archive. `link` is the path of the file whose bytes it shares, "" if it has bytes of its own."""

    name: str
    size: int
    place: list[int]
    problem: Problem | None = None
    link: str = ""


def ranges(file: BinaryIO) -> Read:
    """A function that reads ranges of an open file."""

    def read(start: int, end: int) -> bytes:
        file.seek(start)
        return file.read(end - start)

    return read


def unpack(program: str, called: str) -> str:
    """A shell command that unpacks a compressed file; into another file if its suffix is not that of the program."""
    path = called.removeprefix("INPUT ")
    path = path.rpartition("/")[2] if is_url(path) else path
    stem, suffix = os.path.splitext(path)
    if suffix.lower() in _SUFFIXES[program]:
        return f"{'gunzip' if program == 'gzip' else f'{program} -d'} {shlex.quote(path)}"
    return f"{program} -dc {shlex.quote(path)} > {shlex.quote(f'{stem}.plain{suffix}')}"


def list_tar(file: BinaryIO, called: str) -> Iterator[Member]:
    """Every member of a tar but its directories, in order. `called` names the tar in messages.

    Raises:
        UsageError: the file is not a tar, is compressed, cut off or damaged, or has bytes after its end.
    """
    start = file.read(6)
    for magic, program in _COMPRESSED.items():
        if start.startswith(magic):
            raise UsageError(
                f"{called}: is compressed by {program}, without random access; unpack it first:"
                f" {unpack(program, called)}"
            )
    size = file.seek(0, 2)
    file.seek(0)
    tar: tarfile.TarFile | None = None
    last, position = "", -1
    while True:
        try:
            tar = tar or tarfile.TarFile(fileobj=_Headers(file, called), encoding="utf-8")  # type: ignore[arg-type]
            info = tar.next()
        except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
            raise _tar_error(called, last, size, tar, error) from error
        # `tarfile` keeps every member, which for millions of images would fill the memory.
        tar.members.clear()  # type: ignore[attr-defined]
        if info is None:
            break
        if info.size < 0 or tar.offset <= position:
            raise UsageError(f"{called}: the header at byte {info.offset:,} is damaged; make or copy it again")
        last, position = printable(info.name), tar.offset
        if not info.isdir():
            place, link = [info.offset_data, info.size], info.linkname if info.islnk() else ""
            yield Member(info.name, info.size, place, _tar_problem(info), link)
    _check_end(ranges(file), tar.offset, size, called, last)


class _Headers:
    """A tar as `tarfile` reads it: its headers, of which none may fill the memory."""

    def __init__(self, file: BinaryIO, called: str) -> None:
        self._file, self._called = file, called
        self._size = file.seek(0, 2)
        self.tell = file.tell
        file.seek(0)

    def seek(self, position: int) -> int:
        """Go to a header."""
        if position > self._size:  # a position of 2 to the 62 would be an error of the system
            raise tarfile.ReadError("unexpected end of data")
        return self._file.seek(position)

    def read(self, size: int = -1) -> bytes:
        """Read a header, or the names and values that a long one has."""
        if not 0 <= size <= _HEADER_BYTES:
            raise UsageError(
                f"{self._called}: a header before byte {self._file.tell():,} says that it has {size:,} bytes; make or"
                " copy it again"
            )
        return self._file.read(size)


def _tar_error(called: str, last: str, size: int, tar: tarfile.TarFile | None, error: Exception) -> UsageError:
    if tar is None:
        what = "is empty" if size == 0 else "is no tar archive"
        return UsageError(f"{called}: {what}; make or copy it again")
    if tar.offset > size:
        return UsageError(f"{called}: was cut off at byte {size:,}, in the member {last}; copy it again")
    return UsageError(
        f"{called}: the header at byte {tar.offset:,}, after the member {last}, is damaged ({error});"
        " make or copy it again"
    )


def _tar_problem(info: tarfile.TarInfo) -> Problem | None:
    if info.islnk():
        return _name_problem(info.name)
    if info.issym():
        return Problem("not-a-file", f"is a link to {printable(info.linkname)}; add the file itself to the archive")
    if not info.isreg():
        return Problem("not-a-file", "is a pipe, a device or something unknown")
    if info.issparse():
        return Problem("sparse", "is stored with holes; make the archive without --sparse")
    return _name_problem(info.name)


def _check_end(read: Read, position: int, size: int, called: str, last: str) -> None:
    """Check that at least a block of zeros follows the last member, and nothing but zeros."""
    # `tarfile` takes a missing end, damage in a header and a second archive all for the end of the first, silently: a
    # dataset would lack the rest of the images.
    after = f"after the member {last}" if last else "before any member"
    block = read(position, position + _BLOCK)
    if len(block) < _BLOCK and not block.strip(b"\0"):
        raise UsageError(f"{called}: ends at byte {size:,}, {after}, without the end of a tar; copy it again")
    if block.strip(b"\0"):
        cut = "was cut off" if len(block) < _BLOCK else "is damaged"
        raise UsageError(f"{called}: the header at byte {position:,}, {after}, {cut}; make or copy it again")
    for start in range(position, size, _PIECE):
        piece = read(start, min(size, start + _PIECE))
        rest = piece.lstrip(b"\0")
        if rest:
            raise UsageError(
                f"{called}: goes on at byte {start + len(piece) - len(rest):,}, after its end, {after}, as archives"
                " that were concatenated do; unpack it with tar --ignore-zeros, or give the archives one by one"
            )


def read_plain(read: Read, place: list[int]) -> bytes:
    """The bytes of a tar's member.

    Raises:
        BadInput: the archive has become shorter since the listing.
    """
    offset, size = place
    data = read(offset, offset + size)
    if len(data) != size:
        raise BadInput("damaged", f"the archive ends {size - len(data)} bytes before its end")
    return data


def list_zip(file: BinaryIO, called: str) -> Iterator[Member]:
    """Every member of a zip but its directories, in order. `called` names the zip in messages.

    Raises:
        UsageError: the file is not a zip, or is cut off, damaged or encrypted.
    """
    # Not `zipfile`, which keeps some 800 bytes for each member.
    read = ranges(file)
    position, end, shift = _central_directory(read, file.seek(0, 2), called)
    while position < end:
        head = read(position, position + _CENTRAL.size)
        if len(head) < _CENTRAL.size or head[:4] != b"PK\x01\x02":
            raise UsageError(f"{called}: the list of members is damaged at byte {position:,}; make or copy it again")
        (_, made_by, _, flags, method, _, _, crc, packed, size) = _CENTRAL.unpack(head)[:10]
        name_bytes, extra_bytes, comment_bytes, _, _, attributes, offset = _CENTRAL.unpack(head)[10:]
        position += _CENTRAL.size
        text = read(position, position + name_bytes + extra_bytes)
        position += name_bytes + extra_bytes + comment_bytes
        name = _zip_name(text[:name_bytes], text[name_bytes:], flags)
        if made_by >> 8 == 0:  # Windows: some of its programs write backslashes
            name = name.replace("\\", "/")
        size, packed, offset = _large(text[name_bytes:], size, packed, offset)
        offset += shift
        if name.endswith("/"):
            continue
        if flags & 1:
            raise UsageError(
                f"{called}: the member {printable(name)} is encrypted; unpack the archive with its password"
                " (7z x FILE -pPASSWORD), and give the folder"
            )
        if offset + _LOCAL.size + packed > end:
            raise UsageError(f"{called}: the place of the member {printable(name)} is damaged; make or copy it again")
        linked = made_by >> 8 == 3 and stat.S_ISLNK(attributes >> 16)
        problem = _zip_problem(name, method, linked) or _size_problem(method, packed, size)
        yield Member(name, size, [offset, method, packed, size, crc], problem)


def _central_directory(read: Read, size: int, called: str) -> tuple[int, int, int]:
    """Begin and end of the list of members, and the shift of all offsets: the number of bytes before the archive."""
    # The end record comes before a comment of up to 65,535 bytes. Bytes before the archive are, for example, a program
    # that unpacks it; the offsets in the archive do not count them.
    start = max(0, size - _END.size - 0xFFFF)
    tail = read(start, size)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise UsageError(
            f"{called}: is no zip archive, or was cut off: the list of members at its end is missing; copy it again"
        )
    _, disk, first_disk, _, _, length, offset, _ = _END.unpack_from(tail, found)
    end = start + found
    locator = read(max(0, end - _LOCATOR64.size), end)
    if locator[:4] == b"PK\x06\x07":
        end -= _LOCATOR64.size + _END64.size
        head = read(max(0, end), max(0, end) + _END64.size)
        if head[:4] != b"PK\x06\x06":
            raise UsageError(f"{called}: the end of the zip archive is damaged; make or copy it again")
        *_, disk, first_disk, _, _, length, offset = _END64.unpack(head)
    if disk or first_disk:
        raise UsageError(f"{called}: is one part of several; join them: zip -s 0 FILE --out WHOLE.zip")
    shift = end - length - offset
    if shift < 0:
        raise UsageError(f"{called}: the zip archive lacks {-shift:,} bytes; copy it again")
    return end - length, end, shift


def _extras(extra: bytes) -> dict[int, bytes]:
    """The parts of an extra, by their kind."""
    found = {}
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        found[kind] = extra[4 : 4 + length]
        extra = extra[4 + length :]
    return found


def _zip_name(name: bytes, extra: bytes, flags: int) -> str:
    """The name of a member, as `unzip` reads it: from the extra (APPNOTE 4.6.9), else UTF-8, else code page 437."""
    path = _extras(extra).get(0x7075, b"")
    if len(path) > _UNICODE_PATH.size and _UNICODE_PATH.unpack_from(path) == (1, zlib.crc32(name)):
        return path[_UNICODE_PATH.size :].decode("utf-8", "surrogateescape")
    try:
        # macOS writes UTF-8 without the flag. Other text is UTF-8 by chance only if it is ASCII.
        return name.decode("utf-8", "surrogateescape" if flags & 0x800 else "strict")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _large(extra: bytes, *values: int) -> list[int]:
    """`values`, in which the ones that do not fit into 32 bits are replaced from the extra (APPNOTE 4.5.3)."""
    data = _extras(extra).get(1, b"")
    numbers = iter([n for (n,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8])])
    return [next(numbers, value) if value == 0xFFFFFFFF else value for value in values]


def _zip_problem(name: str, method: int, linked: bool) -> Problem | None:
    if linked:
        return Problem("not-a-file", "is a link; add the file itself to the archive")
    if method not in (_STORED, _DEFLATED):
        how = _METHODS.get(method, f"method {method}")
        return Problem("compression", f"is compressed by {how}; make the archive with deflate or none: zip -0")
    return _name_problem(name)


def _size_problem(method: int, packed: int, size: int) -> Problem | None:
    # Deflate never adds more than five bytes to a block of data; whoever says so has others read into memory.
    most = size if method == _STORED else size + size // 100 + _HEADER_ROOM
    if packed > most or (method == _STORED and packed != size):
        return Problem("damaged", f"claims {packed:,} bytes in the archive for {size:,} bytes of its own")
    return None


def _name_problem(name: str) -> Problem | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return Problem("file-name", "the name is not UTF-8")
    return None


def data_offset(header: bytes, offset: int) -> int:
    """The offset of the data of a zip's member, given its local header, which lies at `offset`.

    Raises:
        BadInput: the bytes are not a local header.
    """
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise BadInput("damaged", f"the archive has no member at byte {offset:,}")
    *_, name_bytes, extra_bytes = _LOCAL.unpack_from(header)
    return offset + _LOCAL.size + int(name_bytes) + int(extra_bytes)


def read_zip(read: Read, place: list[int]) -> bytes:
    """The bytes of a zip's member, unpacked.

    Raises:
        BadInput: the bytes are damaged.
    """
    offset, method, packed, size, crc = place
    head = read(offset, offset + _LOCAL.size + _HEADER_ROOM + packed)
    start = data_offset(head, offset)
    data = head[start - offset : start - offset + packed]
    if len(data) < packed:
        data += read(start + len(data), start + packed)
    if method == _DEFLATED:
        data = _inflated(data, size)
    if len(data) != size or zlib.crc32(data) != crc:
        raise BadInput("damaged", "its bytes in the archive are damaged (CRC mismatch)")
    return data


def _inflated(data: bytes, size: int) -> bytes:
    """Unpack data, up to one byte more than `size`."""
    # A bound, since a few bytes can unpack to gigabytes. The byte more shows that the data are longer than declared.
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise BadInput("damaged", f"its bytes in the archive are damaged ({error})") from error
