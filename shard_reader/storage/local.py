"""Directories on a disk, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from shard_reader.format.checksum import sha256_file
from shard_reader.storage.directory import Stored
from shard_reader.storage.retry import retried
from shard_reader.system.regular_files import open_regular

__all__ = ["LocalDirectory", "sync", "write_whole"]


_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class LocalDirectory:
    """A directory on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def local(self) -> Path:
        """Its path."""
        return self._path

    def uri(self, name: str) -> str:
        """The absolute path of a file."""
        return os.path.join(os.path.abspath(self._path), name) if name else os.path.abspath(self._path)

    def exists(self) -> bool:
        """Whether the directory exists. A path that no system could have, as one that is too long, does not."""
        return os.path.isdir(self._path)

    def missing(self) -> str:
        """Empty: there is no more to say than that it does not exist."""
        return ""

    def names(self, name: str = "") -> list[str]:
        """The names directly in a folder of it; empty if there is no such folder."""
        try:
            return os.listdir(self._path / name)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                return []
            raise

    def walk(self) -> Iterator[Stored]:
        """Every file below it. Links are followed, but not into a folder that contains them."""
        folders = [(str(self._path), "", frozenset[tuple[int, int]]())]
        while folders:
            folder, prefix, above = folders.pop()
            status = os.stat(folder)
            place = (status.st_dev, status.st_ino)
            # Only the folders above are compared: a folder that is linked twice is listed twice, as users see it.
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

    def read(self, name: str, start: int = 0, end: int | None = None, most: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`."""

        return retried(lambda: self._read(name, start, end, most))

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
        """The size of a file in bytes."""
        return (self._path / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in."""
        return open(self._path / name, "rb", opener=open_regular)

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""
        with open(self._path / name, "rb", opener=open_regular) as file:
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

    def put_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Write a small file where there is no such file; None if there is one.

        Raises:
            NotImplementedError: a file is to be replaced, for which a disk has no condition.
        """
        if tag is not None:
            raise NotImplementedError("a disk has no conditional writes")
        path = self._path / name
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            write_whole(temporary, [data])
            os.link(temporary, path)  # which never replaces a file, as renaming does
        except FileExistsError:
            return None
        finally:
            temporary.unlink(missing_ok=True)
        return ""

    def tag(self, name: str) -> str | None:
        """None: files of a disk have no tags."""
        return None

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several files, if they are there."""
        for name in names:
            self.delete(name)

    def delete_folder(self, name: str) -> None:
        """Remove a folder and everything in it, if it is there."""
        path = self._path / name
        while os.path.lexists(path):
            # `rmtree` stops at a file that another process has just removed, and is called again.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)

    def _read(self, name: str, start: int, end: int | None, most: int | None = None) -> bytes:
        with open(self._path / name, "rb", opener=open_regular) as file:
            if most is not None and (size := os.fstat(file.fileno()).st_size) > most:
                raise OSError(errno.EFBIG, f"has {size} bytes, and at most {most} are read")
            file.seek(start)
            return file.read() if end is None else file.read(end - start)

    def answers(self, name: str) -> bool:
        """Whether the folder of a file has any content."""
        try:
            with os.scandir((self._path / name).parent) as entries:
                return next(entries, None) is not None
        except OSError:
            return False


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that it is there with all of `chunks`, even after a power cut, or not at all.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    # On the disk before it has its name: otherwise a power cut could leave the name on a file without its bytes.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # The error of a full disk names no file, others the temporary one. Those of `chunks` stay as they are.
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # from a file system that cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link that leads to itself
        return False
