"""The directory at a place: a local path, a `file://` URL, or a URL that fsspec knows."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from shard_reader.storage.directory import Directory
from shard_reader.storage.local import LocalDirectory

__all__ = ["directory", "is_url", "local_path"]


_LOST_URL = re.compile(r"(s3a?|gs|gcs|az|abfss?|hdfs|https?|file):/[^/]")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(place: str) -> bool:
    """Whether a place is a URL, not a local path."""
    return _URL.match(place) is not None


def directory(place: str) -> Directory:
    """The directory at a local path or a URL. Nothing is read.

    Raises:
        ValueError: the scheme of the URL is unknown.
        ImportError: the package for such URLs is missing; the message names it.
    """
    path = local_path(place)
    if path is not None:
        return LocalDirectory(path)
    from shard_reader.storage.object_store import ObjectDirectory  # here, since local data needs no fsspec

    return ObjectDirectory(place)


def local_path(place: str) -> Path | None:
    """The local path of a path or a `file://` URL; None for any other URL.

    Raises:
        ValueError: the URL is of another machine, not absolute, or lost a slash in a `pathlib.Path`.
    """
    if not place.startswith("file://"):
        if _LOST_URL.match(place):
            raise ValueError("a URL has two slashes, as s3://bucket/photos; pathlib.Path drops one of them")
        return None if is_url(place) else Path(place)
    path = unquote(place.removeprefix("file://").removeprefix("localhost"))
    if not path.startswith("/"):
        raise ValueError("a file URL has three slashes before an absolute path, as file:///data/photos")
    return Path(path)
