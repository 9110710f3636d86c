"""Directories in an object store: S3, Google Cloud Storage, Azure, the web, and fsspec's other file systems."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from shard_reader.errors import CorruptionError
from shard_reader.storage import retry
from shard_reader.storage.directory import Stored
from shard_reader.storage.http_ranges import HttpRanges
from shard_reader.storage.libraries import conditional, web
from shard_reader.storage.libraries.retries import without_retries
from shard_reader.storage.secrets import without_secrets
from shard_reader.storage.store_errors import answer, as_os_error, explain

__all__ = ["ObjectDirectory"]

_T = TypeVar("_T")
_PIECE = 1 << 22
_TIMEOUT, _SLOWEST = 30.0, 1 << 20  # seconds until an answer begins, and bytes/s at which it comes at least
_METADATA_SECONDS = 0.5  # for the name of Google's metadata server
_CONNECTIONS = 64
_NO_SUCH_RANGE = 416  # HTTP status
_MOST_SIZE = 1 << 62
_MOST_LINE = 1 << 28
_S3 = ("s3://", "s3a://")
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "azure")),
    **dict.fromkeys(("http", "https"), ("aiohttp", "http")),
}


class ObjectDirectory:
    """A prefix in an object store, or a directory of another of fsspec's file systems."""

    def __init__(self, url: str) -> None:
        # Listings are not cached: that would hide files that other workers write.
        self._url = url.rstrip("/")
        self._is_s3 = url.startswith(_S3)
        self._shown = without_secrets(self._url)
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False, **_options(url))
        except ImportError as error:
            raise ImportError(_needed(url) or str(error)) from error
        except Exception as error:  # some libraries look for credentials at once
            raise ValueError(explain(error, url)) from error
        self._is_web = web.is_web(self._fs)
        self._http = HttpRanges(self._fs, _TIMEOUT)
        without_retries(self._fs)

    @property
    def local(self) -> None:
        """None: it is in a store."""
        return None

    def uri(self, name: str) -> str:
        """The URL of a file."""
        return without_secrets(f"{self._url}/{name}") if name else self._shown

    def exists(self) -> bool:
        """Whether anything is in it."""
        try:
            return bool(self._retried(self._info)["type"] == "directory")
        except FileNotFoundError:
            return False

    def missing(self) -> str:
        """The reason why it does not exist, as the end of a sentence; empty if unknown."""
        bucket = self._root.partition("/")[0]
        if self._fs.protocol in ("http", "https") or "http" in self._fs.protocol:
            return ", or is a folder: of a web server's, nothing is listed; give a table of URLs or an archive"
        try:
            self._fs.info(bucket)
        except FileNotFoundError:
            return f": there is no bucket {bucket}" if bucket else ""
        except Exception:  # as where buckets may not be listed: that says nothing about this one
            return ""
        return f": nothing in the bucket {bucket} begins with that" if bucket != self._root.strip("/") else ""

    def names(self, name: str = "") -> list[str]:
        """The names directly in a folder of it; empty if there is no such folder."""
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
                # A name with two slashes in a row. On a disk no file can have it, and a folder would hold itself.
                elif entry["name"].rstrip("/") == folder:
                    yield Stored(f"{name.rstrip('/')}//", 0, regular=False)
                else:
                    folders.append(entry["name"].rstrip("/"))

    def read(self, name: str, start: int = 0, end: int | None = None, most: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`, fewer if the file is shorter, in one request."""

        def read() -> bytes | memoryview:
            try:
                return self.read_once(name, start, end, most)
            except EOFError:
                size = self.size(name)
                if end is None or size >= end:
                    raise
                return self.read_once(name, start, size) if size > start else b""

        return bytes(self._retried(read, name))

    def read_once(
        self, name: str, start: int = 0, end: int | None = None, most: int | None = None
    ) -> bytes | memoryview:
        """As `read`, in one try.

        Raises:
            EOFError: bytes are missing: the answer was cut short, or the object is shorter.
        """
        if end is not None and end <= start:
            return b""
        path = self._path(name)
        seconds = _TIMEOUT + (0 if end is None else (end - start) / _SLOWEST)
        limit: dict[str, float] = {}
        # A whole object in parts would take another request first, for its size.
        if self._is_s3 and not start and end is None:
            limit["max_concurrency"] = 1
        # Only fsspec's asynchronous file systems take a time limit.
        if isinstance(self._fs, AsyncFileSystem):
            limit["timeout"] = seconds
        if self._is_web:
            most = min(most or web.MOST_WHOLE, web.MOST_WHOLE)
            library = functools.partial(web.read, self._fs, path, start, end, timeout=seconds)
        elif end is None and most is not None:
            library = functools.partial(self._bounded, path, start, most, limit)
        else:
            library = functools.partial(self._fs.cat_file, path, start=start or None, end=end, **limit)
        data = self._http.read(path, start, end, seconds, library, most)
        if end is None:
            return data
        if len(data) < end - start:
            raise EOFError(f"{len(data)} bytes came, not the {end - start} from byte {start}")
        return data

    def _bounded(self, path: str, start: int, most: int, limit: dict[str, float]) -> bytes:
        """The bytes of an object from `start` on, by the store's library, which has no bound but a range."""
        try:
            data: bytes = self._fs.cat_file(path, start=start, end=start + most + 1, **limit)
        except Exception as error:
            if answer(error)[0] == _NO_SUCH_RANGE:  # of an empty object
                return b""
            raise
        if len(data) > most:
            raise web.too_large(len(data), most)
        return data

    def size(self, name: str) -> int:
        """The size of an object in bytes, in one try."""
        size: int | None = self._info(name)["size"]
        if size is None or not 0 <= size <= _MOST_SIZE:
            raise OSError(errno.ENOSYS, f"the server does not say how many bytes it has ({size}); copy it to a disk")
        return size

    def open(self, name: str) -> BinaryIO:
        """An object to read and seek in, some pieces of it in memory at a time."""
        size = self._retried(lambda: self.size(name), name)
        return io.BufferedReader(_ObjectFile(functools.partial(self.read, name), size), _PIECE)

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""
        rest = b""
        for piece in self._pieces(name):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(rest) > _MOST_LINE:
                raise OSError(errno.EFBIG, f"has a line of more than {_MOST_LINE} bytes", self.uri(name))
        if rest:
            yield rest

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file."""
        digest = hashlib.sha256()
        for piece in self._pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, whole or not at all."""
        # From a copy on the disk, since the file may be larger than memory, and an upload may be tried again.
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "object"
            with open(local, "wb") as file:
                file.writelines(chunks)
            self.put(local, name)

    def put(self, source: Path, name: str) -> None:
        """Upload a finished file."""
        self._retried(lambda: self._fs.put_file(str(source), self._path(name)), name)

    def put_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Store an object in place of the one with `tag`; with None, where there is no object. The new tag, or None."""
        return self._retried(lambda: conditional.put_if(self._fs, self._path(name), data, tag, _TIMEOUT), name)

    def tag(self, name: str) -> str | None:
        """The tag of an object; None if there is no object."""
        try:
            return conditional.tag_of(self._fs, self._retried(lambda: self._info(name), name))
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._retried(lambda: self._fs.rm_file(self._path(name)), name)

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several objects, if they are there, in as few requests as the store allows."""
        self._delete([self._path(name) for name in names])

    def delete_folder(self, name: str) -> None:
        """Remove every object whose name begins with that of the folder."""
        folder = ObjectDirectory(f"{self._url}/{name}")
        self._delete([folder._path(file.name) for file in folder.walk()])

    def answers(self, name: str) -> bool:
        """Whether the folder of an object has any content."""
        try:
            return bool(self._fs.isdir(self._path(name).rpartition("/")[0]))
        except Exception:
            return False

    def _delete(self, paths: list[str]) -> None:
        # fsspec's `rm` takes these characters for a pattern, and would remove every object that matches it.
        by_itself = [path for path in paths if set(path) & set("*?[")]
        together = [path for path in paths if not set(path) & set("*?[")]
        try:
            if together:
                self._retried(lambda: self._fs.rm(together))
        except FileNotFoundError:
            # One of them was gone, and nothing says which of the others are left: they are removed one by one.
            by_itself += together
        for path in by_itself:
            with contextlib.suppress(FileNotFoundError):
                self._retried(functools.partial(self._fs.rm_file, path))

    def explained(self, error: Exception, name: str) -> str:
        """The text of an error about a file."""
        return f"{self.uri(name)}: {explain(error, self._url)}"

    def _retried(self, call: Callable[[], _T], name: str = "") -> _T:
        try:
            return retry.retried(call, retry.REMOTE_SECONDS, explained=lambda error: self.explained(error, name))
        except Exception as error:
            explained = as_os_error(error, self.uri(name))
            if explained is error:
                raise
            raise explained from error

    def _info(self, name: str = "") -> Any:
        try:
            return self._fs.info(self._path(name))
        except FileNotFoundError as error:
            # fsspec's file system of the web calls everything missing that it cannot ask for.
            if isinstance(error.__cause__, Exception) and retry.may_pass(error.__cause__):
                raise error.__cause__ from None
            raise

    def _path(self, name: str) -> str:
        """The path of a file. One that begins with `../` is beside the directory, in the same bucket.

        Raises:
            CorruptionError: there is no bucket above the directory.
        """
        root, whole = self._root.rstrip("/"), name
        while name.startswith("../"):
            scheme, separator, path = root.rpartition("://")
            above = path.rpartition("/")[0]
            if not above.strip("/"):
                raise CorruptionError(f"{self.uri(whole)}: leads out of {self._shown}")
            root, name = f"{scheme}{separator}{above}", name[3:]
        return f"{root}/{name}" if name else self._root

    def _pieces(self, name: str) -> Iterator[bytes]:
        size = self._retried(lambda: self.size(name), name)
        for position in range(0, size, _PIECE):
            yield self.read(name, position, min(size, position + _PIECE))

    def _list(self, path: str) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self._retried(lambda: self._fs.ls(path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Some tools make an empty object as the marker of a folder, which is in the folder's own listing.
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


def _options(url: str) -> dict[str, Any]:
    """Options of a store's library: no retries of its own, and enough connections for all threads."""
    if url.startswith(("gs://", "gcs://")):
        # Otherwise gcsfs asks by gRPC for the kind of the bucket: where that is not allowed, again before each read,
        # with a warning. Only "rapid" buckets need it; their users set the variable to true.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        _skip_metadata_server()
    if url.startswith(("http://", "https://")):
        return web.options(url)
    if not url.startswith(_S3):
        return {}
    given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"max_pool_connections": _CONNECTIONS, "retries": {"total_max_attempts": 1}} | given}


@functools.cache
def _skip_metadata_server() -> None:
    """Have Google's libraries ask no machine for its service account, where there is no such machine."""
    # Without its name, on any machine but Google's, gcsfs would ask for 15 seconds.
    if "NO_GCE_CHECK" in os.environ:
        return
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal").partition(":")[0]
    try:
        retry.retried(lambda: socket.getaddrinfo(host, None), _METADATA_SECONDS)
    except socket.gaierror:
        os.environ.setdefault("NO_GCE_CHECK", "true")


def _needed(url: str) -> str:
    """The package that reads such URLs, and the extra that installs it; empty if there is no extra."""
    found = _PACKAGES.get(url.partition("://")[0])
    return f"needs the package {found[0]}: pip install 'image-shards[{found[1]}]'" if found else ""
