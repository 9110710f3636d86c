"""Names of files and folders: splits, files that are not images, files of records, and the folder of a file."""

from __future__ import annotations

import os
import posixpath
import re

from shard_reader.format.manifest import LeftOut
from shard_reader.storage.open import is_url

__all__ = ["SPLIT_NAMES", "LeftOutFiles", "is_ignored", "is_records", "records_kind", "split_place"]

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
"""The names of splits, in lower case, and in the order that a dataset lists them in."""

# Files that lie beside images: annotations, readmes, and the files of file managers.
_IGNORED_SUFFIXES = frozenset(
    {".cff", ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".mat", ".md", ".parquet", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)
_SHARD = re.compile(r"-\d+-of-\d+$")


def is_ignored(path: str) -> bool:
    """Whether a file is hidden, or has a suffix of files that commonly lie beside images."""
    # Only these: any other file that is not an image is rejected, since it may be an image that was damaged.
    hidden = path.startswith(".") or "/." in path
    return hidden or posixpath.splitext(path)[1].lower() in _IGNORED_SUFFIXES


class LeftOutFiles:
    """The files that a source leaves out, by their suffix and reason: their number, and the smallest name of each."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], tuple[int, str]] = {}

    @property
    def files(self) -> int:
        """The number of files."""
        return sum(count for count, _ in self._kinds.values())

    def add(self, path: str, why: str = "") -> None:
        """Take note of a file. Without `why`, its name tells the reason."""
        hidden = path.startswith(".") or "/." in path
        kind = ("hidden" if hidden else posixpath.splitext(path)[1].lower(), why)
        count, first = self._kinds.get(kind, (0, path))
        self._kinds[kind] = (count + 1, min(first, path))

    def named(self) -> tuple[LeftOut, ...]:
        """Each kind of file, with the reason."""
        return tuple(
            LeftOut(
                what=f"{count:,} {kind or 'other'} {'file' if count == 1 else 'files'}, as {first}",
                why=why or "not images",
                files=count,
            )
            for (kind, why), (count, first) in sorted(self._kinds.items())
        )


def is_records(name: str) -> bool:
    """Whether a file is, by its name, a known form of records."""
    return records_kind(name) is not None


def records_kind(name: str) -> str | None:
    """The form of a file of records, by its name: "TFRecord", "HDF5", "npz" or "npy"."""
    lower = name.lower()
    if lower.endswith(".index.npy"):  # the index of a shard
        return None
    if ".tfrecord" in lower:
        return "TFRecord"
    kinds = {".h5": "HDF5", ".hdf5": "HDF5", ".npz": "npz", ".npy": "npy"}
    return kinds.get(posixpath.splitext(lower)[1], "TFRecord" if _SHARD.search(lower) else None)


def split_place(place: str) -> tuple[str, str]:
    """The folder and the name of a file, given by its path or URL."""
    if not is_url(place):
        folder, name = os.path.split(place)
        return folder or ".", name
    scheme, _, rest = place.partition("://")
    folder, _, name = rest.rpartition("/")
    return f"{scheme}://{folder}", name
