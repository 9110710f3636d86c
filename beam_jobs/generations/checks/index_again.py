"""Missing and damaged indexes of a dataset anywhere, made again by the workers of an engine."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

from beam_jobs.processes import ParallelMap
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import copy_to_disk, manifest_at, need_image_packages, need_shard_packages
from beam_jobs.tools.index import index_again
from shard_reader.format import index
from shard_reader.format.checksum import sha256_file
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Shard
from shard_reader.storage.open import directory

__all__ = ["index_remote"]


def index_remote(place: str, parallel: ParallelMap) -> tuple[list[str], int]:
    """Make the missing and damaged indexes of a dataset in a store again.

    Returns:
        The summary, in lines, and the number of problems.

    Raises:
        UsageError: there is no dataset, or a package is missing.
        JobError: the manifest is damaged, or the job failed.
    """
    _, manifest = manifest_at(place)
    need_shard_packages(manifest)
    need_image_packages(manifest, decode=False)
    files = [(format, shard) for shard in manifest.shards() for format in shard.files]
    lines, made = list[str](), 0
    for is_new, problem in parallel(functools.partial(_again, place, manifest.fields), files):
        made += is_new
        lines += [problem] if problem else []
    whole = len(files) - made - len(lines)
    text = f"{place}: {counted(made, 'index')} made again, {whole} whole"
    return [*lines, text + (f", {counted(len(lines), 'problem')}" if lines else "")], len(lines)


def _again(place: str, fields: Mapping[str, Field], item: tuple[str, Shard]) -> tuple[bool, str | None]:
    """Make the index of one file again if it is damaged, from a copy of the file on the disk of this machine."""
    format, shard = item
    file, files = shard.files[format], directory(place)
    with tempfile.TemporaryDirectory(prefix="image-shards-") as folder:
        path = Path(folder)
        copy_to_disk(files, file.index, path, index.size(file, shard.records, fields))
        if (path / file.index).is_file() and sha256_file(path / file.index) == file.index_sha256:
            return False, None  # without the shard, which is many times larger
        copy_to_disk(files, file.path, path, file.bytes)
        (path / file.index).parent.mkdir(parents=True, exist_ok=True)
        is_new, problem = index_again(path, fields, item)
        if is_new:
            files.put(path / file.index, file.index)
        return is_new, None if problem is None else problem.replace(folder, place)
