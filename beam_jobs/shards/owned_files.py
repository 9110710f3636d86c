"""The files that OUTPUT owns: their names and sizes, by which `--overwrite` tells them from files of the user."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Final

from beam_jobs.tools.dataset_files import REPORT_NAME
from shard_reader.format import index
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    FORMATS,
    LOCK_NAME,
    MANIFEST_NAME,
    PAPER_NAMES,
    PARQUET_NAME,
    PICTURE_NAMES,
    PIXELS_NAME,
    REJECTS_NAME,
    SUSPECTS_NAME,
    TFDS_NAMES,
    THUMBNAILS_NAME,
    Manifest,
    dali_name,
    generation_manifest,
    index_name,
)
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.storage.directory import Directory

__all__ = [
    "METADATA",
    "TEMPORARY",
    "delete_unpublished",
    "expected_sizes",
    "files_of",
    "is_name_of_dataset",
    "remove_empty",
    "sizes_in",
]

_LISTS: Final = (REJECTS_NAME, SUSPECTS_NAME, DUPLICATES_NAME, THUMBNAILS_NAME)
METADATA: Final = (*_LISTS, PARQUET_NAME, PIXELS_NAME, *PICTURE_NAMES, REPORT_NAME, *TFDS_NAMES, *PAPER_NAMES)
"""The files beside the manifest that are not shards. Those of PAPER_NAMES may be its user's."""
TEMPORARY: Final = re.compile(rf"\.({'|'.join(map(re.escape, (MANIFEST_NAME, *METADATA)))})\.[0-9a-f]{{32}}")
"""The names of temporary files of `write_whole`, which a process that was killed leaves."""
_FOLDER: Final = re.compile(r"g[0-9]{4,9}")
_EARLIER = re.compile(r"dataset\.g[0-9]{4,9}\.json")
_WITHDRAWN = re.compile(r"withdrawn-\w+\.npy")
# A number is in front of the replaced index of a shard in the folder of a generation.
_NUMBER = re.compile(r"^\d+-")
_SUFFIX = "|".join(map(re.escape, FORMATS.values()))
_SHARD = re.compile(rf"(?:\d+-)?\w+-\d{{5}}-of-\d{{5}}({_SUFFIX})(\.index\.npy|\.idx)?")


def is_name_of_dataset(name: str) -> bool:
    """Whether a dataset may have a file of that name, which may be in the folder of a generation."""
    folder, _, own = name.rpartition("/")
    if folder and not _FOLDER.fullmatch(folder):
        return False
    of_generation = _WITHDRAWN.fullmatch(own) or own == MANIFEST_NAME if folder else _EARLIER.fullmatch(own)
    return _NUMBER.sub("", own) in METADATA or bool(of_generation) or _SHARD.fullmatch(own) is not None


def expected_sizes(manifest: Manifest) -> dict[str, int]:
    """The size of each shard, and of each index."""
    sizes: dict[str, int] = {}
    for shard in manifest.shards():
        for file in shard.files.values():
            sizes |= {file.path: file.bytes, file.index: index.size(file, shard.records, manifest.fields)}
    return sizes


def files_of(manifest: Manifest) -> set[str]:
    """The name of every file of a dataset but the manifest."""
    paths = [file.path for shard in manifest.shards() for file in shard.files.values()]
    metadata = TFDS_NAMES if any(SHARD_FORMATS[name].in_tfds for name in manifest.formats) else ()
    # A manifest is data from elsewhere, and may name any file in OUTPUT.
    indexes = [file.index for shard in manifest.shards() for file in shard.files.values()]
    ours = filter(is_name_of_dataset, (*paths, *map(index_name, paths), *map(dali_name, paths), *manifest.files))
    others = (*_LISTS, REPORT_NAME, *metadata, *PAPER_NAMES)
    later = [one for one in manifest.history if one.folder]
    return {
        *ours,
        *filter(is_name_of_dataset, indexes),
        *others,
        *(f"{one.folder}/{name}" for one in later for name in (MANIFEST_NAME, PIXELS_NAME, PARQUET_NAME, *others)),
        *(generation_manifest(one.number) for one in manifest.history[:-1]),
    }


def sizes_in(files: Directory) -> dict[str, int]:
    """The size of each file directly in a directory, or in the folder of a generation. What is no file has none."""
    if files.local is None:
        names = ((file.name, file.name.rpartition("/")[0], file.size) for file in files.walk())
        return {name: size for name, folder, size in names if not folder or _FOLDER.fullmatch(folder)}
    inside = [f"{folder}/{name}" for folder in _folders(files) for name in files.names(folder)]
    every = [*files.names(), *inside]
    return {name: files.size(name) for name in every if (files.local / name).is_file()}


def delete_unpublished(files: Directory, manifest: Manifest) -> None:
    """Delete the folders that commands which were killed have left: no generation of the manifest has them."""
    known = {one.folder for one in manifest.history}
    marks = {LOCK_NAME, "_work", MANIFEST_NAME}
    for name in _folders(files):
        if name not in known and not marks.isdisjoint(files.names(name)):
            files.delete_folder(name)


def remove_empty(files: Directory, folders: Iterable[str]) -> None:
    """Remove the folders of generations that are empty. A store has no folders."""
    if files.local is not None:
        for folder in folders:
            with contextlib.suppress(OSError):  # its user has files there
                (files.local / folder).rmdir()


def _folders(files: Directory) -> list[str]:
    return [name for name in files.names() if _FOLDER.fullmatch(name)]
