"""`image-shards export`: the records of a dataset as files of other formats."""

from __future__ import annotations

import functools
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from beam_jobs.errors import JobError, UsageError
from beam_jobs.processes import in_parallel
from beam_jobs.tools.dataset_files import manifest_at, need_packages, need_shard_packages, remaining_of
from beam_jobs.tools.exporting import folder, parquet, webdataset
from beam_jobs.tools.exporting.records import Exporter, folder_names
from shard_reader import open_dataset
from shard_reader.errors import ShardsError
from shard_reader.format.manifest import Manifest
from shard_reader.order.remaining import Remaining
from shard_reader.storage.open import is_url

__all__ = ["TARGETS", "Exported", "export"]

Write = Callable[[Exporter, range, Path, str, int, int], None]
Finish = Callable[[Path, str, int], None]


class _Target(NamedTuple):
    """A format: the functions that write a part and finish a split, and the packages that they need."""

    write: Write
    finish: Finish
    packages: tuple[str, ...] = ()


TARGETS: Final[Mapping[str, _Target]] = {
    "folder": _Target(folder.write, folder.finish),
    "webdataset": _Target(webdataset.write, webdataset.finish),
    "parquet": _Target(parquet.write, parquet.finish, ("pyarrow",)),
}
"""Every format to export to, by its name."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The number of records of each split that was exported."""

    splits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Part:
    """The records of one shard. `place` is the name of the split, as it is in names of files."""

    split: str
    place: str
    number: int
    parts: int
    records: range


def export(
    place: str,
    target: str,
    to: str,
    *,
    splits: Sequence[str] = (),
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the records of a dataset as files. The target appears when it is whole.

    Args:
        place: the dataset, on a disk or in a store.
        target: a new or empty folder of this machine.
        to: one of TARGETS.
        splits: the splits to export; none stands for all.
        workers: the number of processes.
        on_progress: called with the number of exported records, and of all.

    Raises:
        UsageError: there is no such dataset or split, the target is not empty or not of this machine, or no image file
            holds the pixels.
        JobError: a record is damaged, or the target cannot be written.
    """
    path = _empty(target)
    files, manifest = manifest_at(place)
    remaining = remaining_of(files, manifest)
    need_shard_packages(manifest)
    need_packages("beam", *TARGETS[to].packages)
    chosen = _chosen(place, manifest, splits)
    places = dict(zip(manifest.splits, folder_names(list(manifest.splits)), strict=True))
    parts = [part for name in chosen for part in _parts(manifest, remaining[name], name, places[name])]
    total = sum(len(part.records) for part in parts)
    if chosen:
        with open_dataset(place, chosen[0]) as data:
            Exporter(data)  # refuses pixels that no file holds
    # A hidden folder beside it, which a killed process leaves, and nobody takes for the whole.
    scratch = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    try:
        scratch.mkdir(parents=True)
        done = 0
        on_progress(done, total)
        work = functools.partial(_write, place, str(scratch), to)
        for written in in_parallel(work, parts, workers):
            done += written
            on_progress(done, total)
        for name in chosen:
            TARGETS[to].finish(scratch, places[name], sum(part.split == name for part in parts))
        if path.exists():
            path.rmdir()
        scratch.rename(path)
    except OSError as error:
        raise JobError(f"{error.filename or target}: {error.strerror or error}") from error
    finally:
        _exporter.cache_clear()  # of work in this process
        shutil.rmtree(scratch, ignore_errors=True)
    return Exported({name: manifest.splits[name].records for name in chosen})


def _empty(target: str) -> Path:
    """The folder of the target.

    Raises:
        UsageError: it is not a new or empty folder of this machine.
    """
    if is_url(target):
        raise UsageError(f"{target}: is a URL; export to a folder of this machine, and copy it")
    path = Path(target)
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise UsageError(f"{target}: is not an empty folder; give a new one")
    return path.absolute()


def _chosen(place: str, manifest: Manifest, splits: Sequence[str]) -> list[str]:
    for name in splits:
        if name not in manifest.splits:
            raise UsageError(f"--split {name}: {place} has the splits {', '.join(manifest.splits)}")
    return [name for name in manifest.splits if not splits or name in splits]


def _parts(manifest: Manifest, remaining: Remaining, split: str, place: str) -> Iterator[_Part]:
    ends = remaining.ends(np.cumsum(manifest.splits[split].shards.records)).tolist()
    for number, (start, end) in enumerate(pairwise([0, *ends])):
        yield _Part(split, place, number, len(ends), range(start, end))


@functools.lru_cache(maxsize=1)
def _exporter(place: str, split: str) -> Exporter:
    """The exporter of a split. A process keeps it for the next part: there may be thousands, and one manifest."""
    return Exporter(open_dataset(place, split))


def _write(place: str, root: str, to: str, part: _Part) -> int:
    """Write the records of a shard; their number."""
    try:
        exporter = _exporter(place, part.split)
        TARGETS[to].write(exporter, part.records, Path(root), part.place, part.number, part.parts)
    except ShardsError as error:
        raise JobError(f"{error}; `image-shards verify` lists all damage") from error
    return len(part.records)
