"""`image-shards index --dali`: an index for NVIDIA DALI beside each TFRecord file of a dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from beam_jobs.errors import UsageError
from beam_jobs.metadata.dali import dali_index
from beam_jobs.processes import ParallelMap, in_parallel
from beam_jobs.terminal import counted
from beam_jobs.tools.dataset_files import read_manifest
from shard_reader.errors import CorruptionError
from shard_reader.format.manifest import dali_name
from shard_reader.format.shard_formats.table import TFRecord
from shard_reader.storage.local import write_whole

__all__ = ["write_dali_indexes"]

_REMEDY = "restore it from a copy, or make the dataset again"


def write_dali_indexes(place: str, workers: int | ParallelMap, show: Callable[[str], None]) -> tuple[list[str], int]:
    """Write the indexes.

    Args:
        place: the path of the dataset.
        workers: the number of processes, or another way to do the work.
        show: called with a text about the progress.

    Returns:
        The summary, in lines, and the number of files that are damaged.

    Raises:
        UsageError: the place has no dataset, or one without TFRecords.
        JobError: the manifest is damaged.
    """
    path, manifest = read_manifest(place)
    names = [file.path for shard in manifest.shards() for name, file in shard.files.items() if name == TFRecord.name]
    if not names:
        raise UsageError(f"--dali: is for TFRecords, and {place} has {' and '.join(manifest.formats)} only")
    problems = list[str]()
    for number, problem in enumerate(in_parallel(functools.partial(_write, path), names, workers), 1):
        problems += [problem] if problem else []
        show(f"{number}/{len(names)} indexes for DALI")
    written = counted(len(names) - len(problems), "index")
    return [*problems, f"{path}: {written} for DALI, as {dali_name(names[0])}"], len(problems)


def _write(path: Path, name: str) -> str | None:
    """Write the index of one file. Returns a problem that prevented it."""
    target = path / dali_name(name)
    try:
        data = dali_index(path / name)
    except FileNotFoundError:
        return f"{path / name}: is missing; {_REMEDY}"
    except CorruptionError as error:
        return f"{error}; {_REMEDY}"
    write_whole(target, [data])
    return None
