"""Images by the paths in a table or an annotation file: below a root, absolute, or URLs."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
from pathlib import Path
from urllib.parse import unquote

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import split_place
from beam_jobs.sources.files.interface import BadInput, Reading, SourceOptions
from beam_jobs.web.downloads import Downloads
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import LocalDirectory
from shard_reader.storage.open import directory, is_url, local_path
from shard_reader.storage.retry import retried
from shard_reader.storage.secrets import host_of, without_secrets

__all__ = ["UNREACHED", "Paths", "with_slashes"]

UNREACHED = frozenset({"bad-path", "outside", "unsupported-url", "url"})
"""The reasons for which `Paths.check` rejects a path: nothing may ask for what is there."""

_NO_FILE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)  # errors of a path that no file can have
# URLs that a table may have. Others, of which fsspec has many, would run programs, log in to machines, or read files of
# this one by another name; those that INPUT or --root has are the user's.
_SCHEMES = frozenset({"file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "hdfs"})
_SHOWN_SCHEMES = "file, s3, gs, az, http, https or hdfs"
_REACHED = 1000  # hosts and folders that are counted
_WEB = ("http://", "https://")


class Paths:
    """Files at paths of all kinds. A relative path is below the root, or with ".." beside it."""

    def __init__(self, root: str, options: SourceOptions, option: str = "--root") -> None:
        """Nothing is read yet.

        Args:
            root: the place that paths are relative to.
            options: the place that all paths have to lead below, with links resolved, if there is one; whether a path
                may be a URL; and the options of downloads.
            option: the name of the root in messages.

        Raises:
            UsageError: no installed package can read such a root; the message names `option`.
        """
        try:
            self._root = directory(root)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"{option} {root}: {error}") from error
        self._place, self._option, self._shown = root, option, self._root.uri("")
        self._schemes: set[str] = set()  # known to be readable
        self._allowed = _SCHEMES | ({root.partition("://")[0]} if is_url(root) else set())
        self._options, self._below = options, options.below
        self._inside = _resolved(options.below) if options.below is not None else ""
        self._turn = threading.Lock()
        self._downloads: Downloads | None = None
        self.reached: dict[str, int] = {}
        """The number of paths that were checked for each host, or folder of this machine."""

    def check_root(self) -> None:
        """Check that a root on a disk exists.

        Raises:
            UsageError: the root is not a folder.
        """
        # Otherwise every input would be rejected as missing, for one wrong option.
        if self._below is not None and not is_url(self._below) and not os.path.isdir(self._below):
            raise UsageError(f"--below {self._below}: is no folder; give the one that all paths lead below")
        if self._root.local is not None and not self._root.exists():
            raise UsageError(f"{self._option} {self._place}: is no folder; give the one that paths are relative to")

    def check(self, path: str) -> None:
        """Check that a file can have such a path, and may, without access to the file. The path is counted.

        Raises:
            BadInput: no file can have it, it may not be read, or the package that reads such URLs is not installed.
        """
        place = self._reaches(path, self.allow(path))
        if place in self.reached or len(self.reached) < _REACHED:
            self.reached[place] = self.reached.get(place, 0) + 1

    def allow(self, path: str) -> str:
        """As `check`, for a path that is not counted. Returns the scheme of a URL, "" for another path.

        Raises:
            BadInput: as `check`.
        """
        if "\0" in path:
            raise BadInput("bad-path", f"the path {path!r} has a NUL character, which no path has")
        scheme = path.partition("://")[0] if is_url(path) else ""
        if scheme and scheme not in self._schemes:
            self._check_url(path, scheme)
        if self._below is not None and not self._is_inside(path):
            raise BadInput("outside", f"the path {path!r} leads out of --below {self._below}")
        return scheme

    def _check_url(self, path: str, scheme: str) -> None:
        if self._options.no_urls:
            raise BadInput("url", f"the path {path!r} is a URL, which --no-urls rejects")
        if scheme not in self._allowed or "::" in path:
            raise BadInput(
                "unsupported-url", f"the path {path!r} is of {scheme}://, and the URLs of a table are {_SHOWN_SCHEMES}"
            )
        try:
            self._find(path)
        except (ImportError, ValueError, TypeError, OSError) as error:
            reason = "unsupported-url" if isinstance(error, ImportError) else "bad-path"
            raise BadInput(reason, f"the path {path!r} cannot be read: {error}") from error
        # A scheme is checked once, but for "file", whose URLs can each have a wrong host. (A URL of several is not.)
        if scheme != "file":
            self._schemes.add(scheme)

    def _is_inside(self, path: str) -> bool:
        """Whether a path leads below the place that it has to."""
        if is_url(path) or self._root.local is None:
            full = path if is_url(path) or path.startswith("/") else f"{self._place}/{path}"
        else:
            full = str(self._root.local / path)
        try:
            return _resolved(full).startswith(self._inside.rstrip("/") + "/")
        except (OSError, ValueError):
            return False

    def _reaches(self, path: str, scheme: str) -> str:
        """The host of a URL, or the folder of this machine that a path is in: the root, or one right below "/"."""
        if scheme and scheme != "file":
            return without_secrets(f"{scheme}://{path.partition('://')[2].partition('/')[0]}")
        if not scheme and not path.startswith("/") and ".." not in path:
            return self._shown
        if not scheme and self._root.local is None and not path.startswith("/"):
            return self._reaches(self._beside(path), self._place.partition("://")[0])
        local = str(local_path(path)) if scheme else os.path.join(self._shown, path)
        return f"/{os.path.normpath(local).lstrip('/').partition('/')[0]}"

    def read(self, path: str, reading: Reading) -> bytes:
        """The bytes of a file.

        Raises:
            BadInput: the path is not that of a file, or the file is too large.
            FileNotFoundError, PermissionError: the file is missing, or may not be read.
            OSError: the file cannot be read now.
        """
        try:
            if self._below is not None:
                path = self._inside_path(path)
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

    def _inside_path(self, path: str) -> str:
        """The path with its links resolved, checked again: a link may have changed since the listing."""
        if not self._is_inside(path):
            raise BadInput("outside", f"the path {path!r} leads out of --below {self._below}")
        if is_url(path) or self._root.local is None:
            return path
        return os.path.realpath(self._root.local / path)

    def host(self, path: str) -> str:
        """The web server of a file; empty for another place."""
        url = self._web_url(path)
        return host_of(url) if url else ""

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
        """The folder at a path, which ends with a slash; "" is the root. One outside of it was allowed before."""
        if not path:
            return self._root
        if is_url(path) or path.startswith("/"):
            return directory(path)
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
            if "::" in path:  # fsspec would take it for one file system in another
                raise ValueError("has :: in it")
            folder, name = split_place(path)
            return directory(folder), name
        if path.startswith("/"):
            return LocalDirectory(Path("/")), path.lstrip("/")
        if self._root.local is None and not {".", ".."}.isdisjoint(path.split("/")):
            return self._find(self._beside(path))
        return self._root, path

    def _beside(self, path: str) -> str:
        """The URL of a relative path with ".." in it."""
        # In a store, ".." is a name like any other: it is resolved here. It does not lead out of a host or a bucket
        # (RFC 3986, 5.2.4).
        scheme, _, rest = self._place.partition("://")
        top, _, folder = rest.partition("/")
        return f"{scheme}://{top}{posixpath.normpath(posixpath.join('/', folder, path))}"


def _resolved(place: str) -> str:
    """A place without links and "..", to compare it with others."""
    local = local_path(place)
    if local is not None:
        return os.path.realpath(local)
    scheme, _, rest = place.partition("://")
    return f"{scheme}://{posixpath.normpath(unquote(rest))}"


def with_slashes(path: str) -> str:
    """A path of Windows, with slashes."""
    # A path with slashes and backslashes is not of Windows: there, a backslash is a character of a name.
    return path if "/" in path else path.replace("\\", "/")
