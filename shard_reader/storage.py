"""Bytes at rest: directories on disk or in an object store, files that are whole or not there.

A directory is a local path or a URL that fsspec knows (`gs://bucket/photos`, `s3://bucket/photos`). Names in
it are relative, with forward slashes. What is written gets its name when it is whole: by renaming on a
disk, by the end of the upload in an object store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote

from shard_reader.checksum import sha256_file
from shard_reader.retry import retried

__all__ = [
    "Directory",
    "LocalDirectory",
    "Stored",
    "directory",
    "is_url",
    "local_path",
    "sync",
    "write_whole",
]

_LOST_URL = re.compile(r"(s3a?|gs|gcs|az|abfss?|hdfs|https?|file):/[^/]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


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

    def missing(self) -> str:
        """Why it does not exist, where that can be told, as an end of a sentence."""

    def names(self, name: str = "") -> list[str]:
        """The names of what lies directly in a folder of it; none if there is no such folder."""

    def walk(self) -> Iterator[Stored]:
        """Every file below it, in any order."""

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`."""

    def read_once(self, name: str, start: int = 0, end: int | None = None) -> bytes | memoryview:
        """As `read`, in one try, in which fewer bytes than that are an error."""

    def size(self, name: str) -> int:
        """The bytes that a file has, in one try."""

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
    if path is not None:
        return LocalDirectory(path)
    from shard_reader.object_store import ObjectDirectory  # here: whoever has local data needs no fsspec

    return ObjectDirectory(place)


def local_path(place: str) -> Path | None:
    """Where a path or a `file://` URL is on this machine; None for any other URL.

    Raises:
        ValueError: the URL is of another machine, or not absolute; or it is none any more, but a path of it.
    """
    if not place.startswith("file://"):
        if _LOST_URL.match(place):
            raise ValueError("a URL has two slashes, as s3://bucket/photos; pathlib.Path drops one of them")
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

    def missing(self) -> str:
        """Nothing is known but that it is not there."""
        return ""

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

        return retried(lambda: self._read(name, start, end))

    def read_once(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`, in one try.

        Raises:
            EOFError: the file is shorter.
        """
        data = self._read(name, start, end)
        if end is not None and len(data) < end - start:
            raise EOFError(f"{len(data)} bytes came, not the {end - start} from byte {start}")
        return data

    def size(self, name: str) -> int:
        """The bytes that a file has."""
        return (self._path / name).stat().st_size

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

    def _read(self, name: str, start: int, end: int | None) -> bytes:
        with open(self._path / name, "rb") as file:
            file.seek(start)
            return file.read() if end is None else file.read(end - start)

    def answers(self, name: str) -> bool:
        """Whether there is anything in the folder that a file is in."""
        try:
            with os.scandir((self._path / name).parent) as entries:
                return next(entries, None) is not None
        except OSError:
            return False


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
