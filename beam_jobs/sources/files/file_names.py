"""Names of files and folders: splits, files that are not images, files of records, and the folder of a file."""

from __future__ import annotations

import os
import posixpath
import re

from shard_reader.storage.open import is_url

__all__ = ["SPLIT_NAMES", "is_ignored", "is_records", "records_kind", "split_place"]

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing")
"""The names of splits, as folders, files and arrays have them, in any case."""

# Files that lie beside images: annotations, readmes, and the files of file managers.
_IGNORED_SUFFIXES = frozenset(
    {".cff", ".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".mat", ".md", ".parquet", ".tsv", ".txt", ".xml"}
    | {".yaml", ".yml"}
)
_SHARD = re.compile(r"-\d+-of-\d+$")


def is_ignored(path: str) -> bool:
    """Whether a file is hidden, or by its suffix not an image and not meant to be one."""
    hidden = path.startswith(".") or "/." in path
    return hidden or posixpath.splitext(path)[1].lower() in _IGNORED_SUFFIXES


def is_records(name: str) -> bool:
    """Whether a file holds images in one of the forms that are recognised, by its name."""
    return records_kind(name) is not None


def records_kind(name: str) -> str | None:
    """The form of a file of records, by its name: "TFRecord", "HDF5", "npz" or "npy"."""
    lower = name.lower()
    if lower.endswith(".index.npy"):  # of a shard that image-shards wrote
        return None
    if ".tfrecord" in lower:
        return "TFRecord"
    kinds = {".h5": "HDF5", ".hdf5": "HDF5", ".npz": "npz", ".npy": "npy"}
    return kinds.get(posixpath.splitext(lower)[1], "TFRecord" if _SHARD.search(lower) else None)


def split_place(place: str) -> tuple[str, str]:
    """The folder and the name of a file, of which either may be a URL."""
    if not is_url(place):
        folder, name = os.path.split(place)
        return folder or ".", name
    scheme, _, rest = place.partition("://")
    folder, _, name = rest.rpartition("/")
    return f"{scheme}://{folder}", name
