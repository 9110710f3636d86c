"""The places of the datasets of a join, relative to the new one: shards of one parent directory."""

from __future__ import annotations

import os
import posixpath

from beam_jobs.errors import UsageError
from shard_reader.storage.open import is_url, local_path
from shard_reader.storage.secrets import without_secrets

__all__ = ["joined_path", "place_in"]


def place_in(out: str, place: str) -> str:
    """The path of a dataset from OUT, as `../january`.

    Raises:
        UsageError: it is on another disk or in another store, or not in the directory that OUT lies in.
    """
    shown = without_secrets(place)
    parent, name = posixpath.split(_whole(out))
    own = _whole(place)
    if not parent.strip("/") and is_url(out):
        raise UsageError(f"OUT {without_secrets(out)}: is a whole bucket: give a folder in it")
    if _kind(out) != _kind(place) or not own.startswith(f"{parent.rstrip('/')}/"):
        raise UsageError(
            f"{shown}: does not lie in the directory of OUT, {parent}: a join names shards below that directory alone,"
            " so give an OUT in a directory that all parts lie in"
        )
    inner = own[len(parent.rstrip("/")) + 1 :]
    if inner.split("/")[0] == name:
        raise UsageError(f"{shown}: lies in OUT: give another OUT")
    return f"../{inner}"


def joined_path(part: str, path: str) -> str:
    """The path from OUT of a file of a part, whose path is relative to the part."""
    return posixpath.normpath(f"{part}/{path}")


def _whole(place: str) -> str:
    """The absolute path, without links above its last name; of a URL what follows the scheme."""
    local = local_path(place)
    if local is None:
        return place.partition("://")[2].strip("/")
    above, name = os.path.split(os.path.abspath(local))
    return os.path.join(os.path.realpath(above), name)


def _kind(place: str) -> str:
    return "" if local_path(place) is not None else place.partition("://")[0]
