"""Paths and URLs of a command line."""

from __future__ import annotations

from pathlib import Path

from beam_jobs.errors import UsageError
from shard_reader.storage.open import is_url, local_path

__all__ = ["place"]


def place(path: str, name: str) -> str:
    """A path or a URL as the job uses it. `name` names the option in messages.

    Raises:
        UsageError: no file can have such a path.
    """
    if not path:
        raise UsageError(f"{name} is empty")
    # Names of files in INPUT need not be UTF-8, but the manifest holds this path.
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} {path!r}: is not UTF-8; rename it, or use a link") from None
    try:
        local_path(path)
    except ValueError as error:
        raise UsageError(f"{name} {path}: {error}") from error
    if not is_url(path):
        return str(Path(path))
    scheme, _, rest = path.partition("://")
    if not rest.strip("/"):
        raise UsageError(f"{name} {path}: is not a place; give a bucket or a folder, as {scheme}://bucket/photos")
    return path.rstrip("/")
