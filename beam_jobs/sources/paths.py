"""Images by the paths in a table or an annotation file: below a root, absolute, or URLs."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
from pathlib import Path
from urllib.parse import urlsplit

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import BadInput, Reading, SourceOptions
from beam_jobs.web.downloads import Downloads
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import LocalDirectory
from shard_reader.storage.open import directory, is_url, local_path
from shard_reader.storage.retry import retried

__all__ = ["Paths", "with_slashes"]

_NO_FILE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)  # errors of a path that no file can have
_WEB = ("http://", "https://")


class Paths:
    """Files at paths of all kinds. A relative path is below the root, or with ".." beside it."""

    def __init__(self, root: str, options: SourceOptions, option: str = "--root") -> None:
        """Nothing is read yet. `options` has those of downloads.

        Raises:
            UsageError: no installed package can read such a root; the message names `option`.
        """
        try:
            self._root = directory(root)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"{option} {root}: {error}") from error
        self._place, self._option = root, option
        self._schemes: set[str] = set()  # known to be readable
        self._options, self._turn = options, threading.Lock()
        self._downloads: Downloads | None = None

    def check_root(self) -> None:
        """Check that a root on a disk exists.

        Raises:
            UsageError: the root is not a folder.
        """
        # Otherwise every input would be rejected as missing, for one wrong option.
        if self._root.local is not None and not self._root.exists():
            raise UsageError(f"{self._option} {self._place}: is no folder; give the one that paths are relative to")

    def check(self, path: str) -> None:
        """Check that a file can have such a path, without access to the file.

        Raises:
            BadInput: no file can have it.
            UsageError: the package that reads such URLs is not installed.
        """
        if "\0" in path:
            raise BadInput("bad-path", f"the path {path!r} has a NUL character, which no path has")
        scheme = path.partition("://")[0] if is_url(path) else ""
        if scheme in self._schemes or not scheme:
            return
        try:
            self._find(path)
        except ImportError as error:
            raise UsageError(f"{path}: {error}") from error
        except (ValueError, TypeError) as error:
            raise BadInput("bad-path", f"the path {path!r} cannot be read: {error}") from error
        # A scheme is checked once, but for "file", whose URLs can each have a wrong host.
        if scheme != "file":
            self._schemes.add(scheme)

    def read(self, path: str, reading: Reading) -> bytes:
        """The bytes of a file.

        Raises:
            BadInput: the path is not that of a file, or the file is too large.
            FileNotFoundError, PermissionError: the file is missing, or may not be read.
            OSError: the file cannot be read now.
        """
        try:
            if url := self._web_url(path):
                return self._web(reading).read(url)
            place, name = self._find(path)
            local = place.local
            # Reading a pipe would wait for ever.
            if local is not None and not stat.S_ISREG(retried(lambda: os.stat(local / name)).st_mode):
                raise BadInput("not-a-file", "is a folder, a pipe or a device")
            return place.read(name, most=reading.max_bytes)
        except IsADirectoryError as error:
            raise BadInput("not-a-file", "is a folder") from error
        except ValueError as error:
            raise BadInput("bad-path", f"the path {path!r} cannot be read: {error}") from error
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise BadInput("too-large", f"{error.strerror} (--max-bytes)") from error
            if error.errno in _NO_FILE:
                raise FileNotFoundError(error.errno, error.strerror, path) from error
            raise

    def host(self, path: str) -> str:
        """The web server of a file; empty for another place."""
        url = self._web_url(path)
        return urlsplit(url).netloc.rpartition("@")[2].lower() if url else ""

    def size(self, path: str) -> int:
        """The number of bytes of a file on a disk; -1 for a missing file, and for one elsewhere."""
        # In a store, asking for the size would cost each image one more request.
        try:
            place, name = self._find(path)
            return -1 if place.local is None else os.stat(place.local / name).st_size
        except (OSError, ValueError):
            return -1

    def uri(self, path: str) -> str:
        """The address of a file, for messages."""
        place, name = self._find(path)
        return place.uri(name)

    def answers(self, path: str) -> bool:
        """Whether the root, or the folder of an absolute path, can be reached."""
        # For a URL there is nothing to ask: the store or the server has answered, by saying that the file is missing.
        local = not is_url(path) or path.startswith("file://")
        if path.startswith("/") or (local and is_url(path)):
            place, name = self._find(path)
            return place.answers(name)
        return not local or self._place.startswith(_WEB) or self._root.answers("-")

    def folder(self, path: str) -> Directory:
        """The folder at a relative path, which ends with a slash; "" is the root."""
        if not path:
            return self._root
        local = self._root.local
        return directory(self._beside(path)) if local is None else LocalDirectory(local / path)

    def _web_url(self, path: str) -> str:
        """The URL of a file of a web server; empty for another place."""
        if not is_url(path) and not path.startswith("/") and self._place.startswith(_WEB):
            inside = {".", ".."}.isdisjoint(path.split("/"))
            path = f"{self._place.rstrip('/')}/{path}" if inside else self._beside(path)
        return path if path.startswith(_WEB) else ""

    def _web(self, reading: Reading) -> Downloads:
        with self._turn:  # the threads of a process share the turns at hosts
            if self._downloads is None:
                self._downloads = Downloads(self._options, reading)
            return self._downloads

    def _find(self, path: str) -> tuple[Directory, str]:
        if path.startswith("file://"):
            path = str(local_path(path))
        if is_url(path):
            folder, name = split_place(path)
            return directory(folder), name
        if path.startswith("/"):
            return LocalDirectory(Path("/")), path.lstrip("/")
        if self._root.local is None and not {".", ".."}.isdisjoint(path.split("/")):
            return self._find(self._beside(path))
        return self._root, path

    def _beside(self, path: str) -> str:
        """The URL of a relative path with ".." in it."""
        # In a store, ".." is a name like any other: it is resolved here.
        scheme, _, rest = self._place.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}"


def with_slashes(path: str) -> str:
    """A path of Windows, with slashes."""
    # A path with slashes and backslashes is not of Windows: there, a backslash is a character of a name.
    return path if "/" in path else path.replace("\\", "/")
