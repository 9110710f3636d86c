"""The files of an ImageFolder of Hugging Face that describe its images: `metadata.csv`, `.jsonl` or `.parquet`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import SPLIT_NAMES, is_ignored
from beam_jobs.sources.files.tables.rows import KINDS
from shard_reader.storage.directory import Directory

__all__ = ["METADATA", "field_of", "file_columns", "is_metadata", "metadata_of"]

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The names of such files."""

_FILE_NAME = "file_name"
_HEAD = 1 << 16  # bytes of a line of JSON that tell its keys


def is_metadata(path: str) -> bool:
    """Whether a file describes images, by its path."""
    return path.rpartition("/")[2] in METADATA


def file_columns(names: Sequence[str]) -> list[str]:
    """The columns with names of files, the main one first."""
    return sorted(
        (name for name in names if name == _FILE_NAME or name.endswith(f"_{_FILE_NAME}")),
        key=lambda name: name != _FILE_NAME,
    )


def field_of(column: str) -> str:
    """The field of a further column with names of files: `mask` for `mask_file_name`."""
    return column.removesuffix(f"_{_FILE_NAME}")


def metadata_of(place: Directory) -> str | None:
    """The first file that describes the images of a folder, or of its split folders; None without one.

    The folder has something else in it that may be images.
    """
    names = sorted(place.names())
    own = [name for name in names if name in METADATA]
    others = [name for name in names if not is_ignored(name)]
    if not own:
        folders = [name for name in others if name.lower() in SPLIT_NAMES]
        inside = {folder: sorted(place.names(folder)) for folder in folders} if len(folders) == len(others) else {}
        own = [f"{folder}/{name}" for folder, those in inside.items() for name in those if name in METADATA]
        others = [name for those in inside.values() for name in those if not is_ignored(name)]
    return next((name for name in own if others and _names_files(place, name)), None)


def _names_files(place: Directory, name: str) -> bool:
    try:
        if not name.endswith(".jsonl"):
            return bool(file_columns(KINDS[name[name.rindex(".") :]](place, name).columns()))
        line = json.loads(place.read(name, 0, _HEAD).partition(b"\n")[0])
    except (UsageError, OSError, ValueError, RecursionError):
        return False
    return isinstance(line, dict) and bool(file_columns(list(line)))
