"""The files that OUTPUT owns: their names and sizes, by which `--overwrite` tells them from files of the user."""

from __future__ import annotations

import re
from typing import Final

from beam_jobs.tools.dataset_files import REPORT_NAME
from shard_reader.format import index
from shard_reader.format.manifest import (
    DUPLICATES_NAME,
    FORMATS,
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
    index_name,
)
from shard_reader.format.shard_formats.table import SHARD_FORMATS

__all__ = ["METADATA", "TEMPORARY", "expected_sizes", "files_of", "is_name_of_dataset"]

_LISTS: Final = (REJECTS_NAME, SUSPECTS_NAME, DUPLICATES_NAME, THUMBNAILS_NAME)
METADATA: Final = (*_LISTS, PARQUET_NAME, PIXELS_NAME, *PICTURE_NAMES, REPORT_NAME, *TFDS_NAMES, *PAPER_NAMES)
"""The files beside the manifest that are not shards. Those of PAPER_NAMES may be its user's."""
TEMPORARY: Final = re.compile(rf"\.({'|'.join(map(re.escape, (MANIFEST_NAME, *METADATA)))})\.[0-9a-f]{{32}}")
"""The names of temporary files of `write_whole`, which a process that was killed leaves."""
_SHARD = re.compile(rf"\w+-\d{{5}}-of-\d{{5}}({'|'.join(map(re.escape, FORMATS.values()))})(\.index\.npy|\.idx)?")


def is_name_of_dataset(name: str) -> bool:
    """Whether a dataset may have a file of that name."""
    return name in METADATA or _SHARD.fullmatch(name) is not None


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
    ours = filter(is_name_of_dataset, (*paths, *map(index_name, paths), *map(dali_name, paths), *manifest.files))
    return {*ours, *_LISTS, REPORT_NAME, *metadata, *PAPER_NAMES}
