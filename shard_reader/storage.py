"""Bytes at rest: directories on disk or in an object store, memory maps, files that are whole or not there.

A directory is a local path or a URL that fsspec knows (`gs://bucket/photos`, `s3://bucket/photos`). Names in
it are relative, with forward slashes. What is written gets its name when it is whole: by renaming on a
disk, by the end of the upload in an object store.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import random
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote

from shard_reader.checksum import sha256_file

__all__ = [
    "Directory",
    "LocalDirectory",
    "Stored",
    "directory",
    "is_url",
    "local_path",
    "retried",
    "sync",
    "write_whole",
]

_T = TypeVar("_T")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PIECE = 1 << 22
RETRY_SECONDS = (0.2, 0.6, 1.8, 5.4)
"""How long to wait before each further try of what may pass."""
# What an operating system says of the file itself, and will say again.
_LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
    | {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE}
)


class Stored(NamedTuple):
    """A file that was found: its name in the directory, its bytes (-1: not told), and whether it can be read."""

    name: str
    size: int
    regular: bool = True


class Directory(Protocol):
    """A directory, wherever it is. Errors are `OSError`, or what the store's library raises."""

    @property
    def local(self) -> Path | None:
        """Where it is on this machine's file system, if it is there."""

    def uri(self, name: str) -> str:
        """The whole name of a file, for people."""

    def exists(self) -> bool:
        """Whether there is such a directory; in an object store, whether anything is in it."""

    def names(self, name: str = "") -> list[str]:
        """The names of what lies directly in a folder of it; none if there is no such folder."""

    def walk(self) -> Iterator[Stored]:
        """Every file below it, in any order."""

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`."""

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in, whatever its size."""

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, whole or not at all."""

    def put(self, source: Path, name: str) -> None:
        """Give a finished local file its place, whole or not at all; `source` may be gone then."""

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several files, those that are there."""

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""

    def answers(self, name: str) -> bool:
        """Whether there is anything in the folder that a file is in: what is not mounted is empty."""


def is_url(place: str) -> bool:
    """Whether a place is a URL rather than a local path."""
    return _URL.match(place) is not None


def directory(place: str) -> Directory:
    """The directory at a local path or a URL. Nothing is read.

    Raises:
        ValueError: nothing here knows such URLs.
        ImportError: a package is missing that does; the message names it.
    """
    path = local_path(place)
    return _ObjectDirectory(place) if path is None else LocalDirectory(path)


def local_path(place: str) -> Path | None:
    """Where a path or a `file://` URL is on this machine; None for any other URL.

    Raises:
        ValueError: the URL is of another machine, or not absolute.
    """
    if not place.startswith("file://"):
        return None if is_url(place) else Path(place)
    path = unquote(place.removeprefix("file://").removeprefix("localhost"))
    if not path.startswith("/"):
        raise ValueError("a file URL has three slashes before an absolute path, as file:///data/photos")
    return Path(path)


class LocalDirectory:
    """A directory on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def local(self) -> Path:
        """Where it is."""
        return self._path

    def uri(self, name: str) -> str:
        """The absolute path of a file."""
        return os.path.join(os.path.abspath(self._path), name) if name else os.path.abspath(self._path)

    def exists(self) -> bool:
        """Whether there is such a directory."""
        return self._path.is_dir()

    def names(self, name: str = "") -> list[str]:
        """The names of what lies directly in a folder of it."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.listdir(self._path / name)
        return []

    def walk(self) -> Iterator[Stored]:
        """Every file below it. Links are followed, but not into a folder that they lie in."""
        folders = [(str(self._path), "", frozenset[tuple[int, int]]())]
        while folders:
            folder, prefix, above = folders.pop()
            status = os.stat(folder)
            place = (status.st_dev, status.st_ino)
            if place in above:
                continue
            here = above | {place}
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is(entry, os.DirEntry.is_dir):
                        folders.append((entry.path, f"{prefix}{entry.name}/", here))
                    else:
                        regular = _is(entry, os.DirEntry.is_file)
                        yield Stored(prefix + entry.name, entry.stat().st_size if regular else 0, regular)

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`."""

        def read() -> bytes:
            with open(self._path / name, "rb") as file:
                file.seek(start)
                return file.read() if end is None else file.read(end - start)

        return retried(read)

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in."""
        return open(self._path / name, "rb")

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""
        with open(self._path / name, "rb") as file:
            yield from file

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file."""
        return sha256_file(self._path / name)

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, whole or not at all."""
        write_whole(self._path / name, chunks)

    def put(self, source: Path, name: str) -> None:
        """Rename a finished file of the same file system."""
        os.replace(source, self._path / name)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several files, those that are there."""
        for name in names:
            self.delete(name)

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        path = self._path / name
        while os.path.lexists(path):
            with contextlib.suppress(FileNotFoundError):  # of a file in it that somebody else has removed
                shutil.rmtree(path)

    def answers(self, name: str) -> bool:
        """Whether there is anything in the folder that a file is in."""
        try:
            with os.scandir((self._path / name).parent) as entries:
                return next(entries, None) is not None
        except OSError:
            return False


class _ObjectDirectory:
    """A prefix in an object store, or whatever else fsspec makes look like one."""

    def __init__(self, url: str) -> None:
        import fsspec  # here, so that `import shard_reader` loads NumPy and nothing else

        # A cached listing would hide what other workers write.
        self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._url = url.rstrip("/")
        self._shown = re.sub(r"//[^/@]*@", "//", self._url)  # without a password

    @property
    def local(self) -> None:
        """It is not on this machine's file system."""
        return None

    def uri(self, name: str) -> str:
        """The URL of a file."""
        return f"{self._shown}/{name}" if name else self._shown

    def exists(self) -> bool:
        """Whether anything is in it."""
        try:
            return bool(retried(lambda: self._fs.info(self._root))["type"] == "directory")
        except FileNotFoundError:
            return False

    def names(self, name: str = "") -> list[str]:
        """The names of what lies directly in a folder of it."""
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in self._list(self._path(name))]

    def walk(self) -> Iterator[Stored]:
        """Every file below it, a listing of one folder in memory at a time."""
        root = self._root.rstrip("/")
        folders = [root]
        while folders:
            folder = folders.pop()
            for entry in self._list(folder):
                name = entry["name"][len(root) + 1 :]
                if entry["type"] != "directory":
                    yield Stored(name, -1 if entry["size"] is None else entry["size"])
                elif entry["name"].rstrip("/") == folder:  # a name with two slashes in a row: no folder can have it
                    yield Stored(f"{name.rstrip('/')}//", 0, regular=False)
                else:
                    folders.append(entry["name"].rstrip("/"))

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`, in one request."""
        data: bytes = retried(lambda: self._fs.cat_file(self._path(name), start or None, end))
        return data

    def open(self, name: str) -> BinaryIO:
        """An object to read and seek in, some pieces of it in memory at a time."""
        size = retried(lambda: self._fs.size(self._path(name)))
        return io.BufferedReader(_ObjectFile(functools.partial(self.read, name), size), _PIECE)

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""
        rest = b""
        for piece in self._pieces(name):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file."""
        digest = hashlib.sha256()
        for piece in self._pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, whole or not at all, from a copy on disk: it may be larger than memory."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "object"
            with open(local, "wb") as file:
                file.writelines(chunks)
            self.put(local, name)

    def put(self, source: Path, name: str) -> None:
        """Upload a finished file."""
        retried(lambda: self._fs.put_file(str(source), self._path(name)))

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            retried(lambda: self._fs.rm_file(self._path(name)))

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several objects, those that are there, in as few requests as the store takes."""
        self._delete([self._path(name) for name in names])

    def delete_folder(self, name: str) -> None:
        """Remove every object whose name begins with that of the folder."""
        folder = _ObjectDirectory(f"{self._url}/{name}")
        self._delete([folder._path(file.name) for file in folder.walk()])

    def answers(self, name: str) -> bool:
        """Whether there is anything in the folder that an object is in."""
        try:
            return bool(self._fs.isdir(self._path(name).rpartition("/")[0]))
        except Exception:
            return False

    def _delete(self, paths: list[str]) -> None:
        by_itself = [path for path in paths if set(path) & set("*?[")]  # which fsspec would take for patterns
        together = [path for path in paths if not set(path) & set("*?[")]
        try:
            if together:
                retried(lambda: self._fs.rm(together))
        except FileNotFoundError:  # of one that was gone: which of the others are left is not told
            by_itself += together
        for path in by_itself:
            with contextlib.suppress(FileNotFoundError):
                retried(functools.partial(self._fs.rm_file, path))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _pieces(self, name: str) -> Iterator[bytes]:
        size = retried(lambda: self._fs.size(self._path(name)))
        for position in range(0, size, _PIECE):
            yield self.read(name, position, min(size, position + _PIECE))

    def _list(self, path: str) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = retried(lambda: self._fs.ls(path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        # A folder's own marker, an object of no bytes, is in its listing too.
        return [
            entry
            for entry in found
            if entry["type"] == "directory" or entry["size"] or entry["name"].rstrip("/") != path.rstrip("/")
        ]


class _ObjectFile(io.RawIOBase):
    """An object as a file: each read is a request for a range."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._position + len(buffer))
        data = self._read(self._position, end) if end > self._position else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def retried(call: Callable[[], _T]) -> _T:
    """The result of a call, tried again for some seconds where what it raises may pass.

    What lasts is raised at once: a file that is not there or may not be read, a disk that is full.
    """
    for seconds in RETRY_SECONDS:
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(seconds * random.uniform(0.5, 1.5))  # not all workers at the same moment
    return call()


def _may_pass(error: Exception) -> bool:
    """Whether to try again: time-outs, resets and I/O errors, as OSError or as what a store's library makes of them."""
    if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)):
        return False
    if isinstance(error, OSError):
        return error.errno not in _LASTING
    return not isinstance(error, (MemoryError, TypeError, ValueError, LookupError, AttributeError, ImportError))


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that it is there with all of `chunks`, even after a power cut, or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file, or what a directory holds by name, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link that leads to itself
        return False
