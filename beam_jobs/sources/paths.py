"""Images by the paths that a table or another file of theirs has: below a root, absolute, or URLs."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from pathlib import Path

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import BadInput
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import LocalDirectory
from shard_reader.storage.open import directory, is_url, local_path
from shard_reader.storage.retry import retried

__all__ = ["Paths"]

_NO_FILE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)  # no file has such a path
_REFUSALS = (401, 403, 410, 451)  # of a web server, which says the same the next time


class Paths:
    """Files at paths of all kinds. A relative one is below the root, or with ".." beside it."""

    def __init__(self, root: str, option: str = "--root") -> None:
        """Nothing is read yet.

        Raises:
            UsageError: nothing here can read such a root; `option` is where it comes from.
        """
        try:
            self._root = directory(root)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"{option} {root}: {error}") from error
        self._place, self._option = root, option
        self._schemes: set[str] = set()  # which are known to be readable

    def check_root(self) -> None:
        """Whether a root on a disk is there: otherwise every file would be missing, for one mistake.

        Raises:
            UsageError: it is not.
        """
        if self._root.local is not None and not self._root.exists():
            raise UsageError(f"{self._option} {self._place}: is no folder; give the one that paths are relative to")

    def check(self, path: str) -> None:
        """Whether a file can have such a path at all, as far as that can be said without looking.

        Raises:
            BadInput: it cannot.
            UsageError: a package is missing that reads such URLs.
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
        if scheme != "file":  # whose other half may be wrong in any of them
            self._schemes.add(scheme)

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            BadInput: it is no file.
            FileNotFoundError, PermissionError: it is not there, or may not be read.
            OSError: it cannot be read now.
        """
        try:
            place, name = self._find(path)
            local = place.local
            # A folder cannot be read, and a pipe would be waited for.
            if local is not None and not stat.S_ISREG(retried(lambda: os.stat(local / name)).st_mode):
                raise BadInput("not-a-file", "is a folder, a pipe or a device")
            return place.read(name)
        except IsADirectoryError as error:
            raise BadInput("not-a-file", "is a folder") from error
        except ValueError as error:
            raise BadInput("bad-path", f"the path {path!r} cannot be read: {error}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_FILE:
                raise FileNotFoundError(error.errno, error.strerror, path) from error
            if getattr(error, "status", None) in _REFUSALS:
                raise PermissionError(errno.EACCES, f"the server says {error}", path) from error
            raise

    def size(self, path: str) -> int:
        """The bytes of a file on a disk; -1 elsewhere, where it would be a request more, and of what is not there."""
        try:
            place, name = self._find(path)
            return -1 if place.local is None else os.stat(place.local / name).st_size
        except (OSError, ValueError):
            return -1

    def uri(self, path: str) -> str:
        """Where a file is, for people."""
        place, name = self._find(path)
        return place.uri(name)

    def answers(self, path: str) -> bool:
        """Whether the root is there; of an absolute path, its folder.

        A store or a server that says of a URL's file that it is not there has answered.
        """
        local = not is_url(path) or path.startswith("file://")
        if path.startswith("/") or (local and is_url(path)):
            place, name = self._find(path)
            return place.answers(name)
        return not local or self._place.startswith(("http://", "https://")) or self._root.answers("-")

    def folder(self, path: str) -> Directory:
        """A folder at a relative path that ends with a slash, or is empty: the root."""
        if not path:
            return self._root
        local = self._root.local
        return directory(self._beside(path)) if local is None else LocalDirectory(local / path)

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
        """The URL of a path with ".." in it, which in a store is a name like any other."""
        scheme, _, rest = self._place.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}"
