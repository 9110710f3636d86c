"""Making OUTPUT ours, and making a dataset of it: attempts get their names, the manifest comes last.

```
OUT/_image-shards.lock    made first, removed last: what is in OUT is ours, and unfinished
OUT/_work/plan/           which image goes where
OUT/_work/attempts/       shards being written, each try in a folder of its own
```
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from beam_jobs.errors import JobError, UsageError
from beam_jobs.images import ChannelSums
from beam_jobs.options import MaxRejects
from beam_jobs.plan import statistics_split
from beam_jobs.sources import Reject, printable
from beam_jobs.tfds import metadata_files
from beam_jobs.write import WrittenShard
from shard_reader.errors import DatasetError
from shard_reader.format import (
    FORMATS,
    MANIFEST_NAME,
    REJECTS_NAME,
    Counts,
    Field,
    Fingerprint,
    Manifest,
    Split,
    Statistics,
    index_name,
)
from shard_reader.storage import write_whole

__all__ = ["Output", "Publication", "check_rejects", "claimed", "publish"]

_WORK, _LOCK = "_work", "_image-shards.lock"
_SHARD_NAMES = rf"\w+-\d{{5,}}-of-\d{{5,}}({'|'.join(map(re.escape, FORMATS.values()))})(\.index\.npy)?"
_OTHER_NAMES = r"dataset\.json|rejects\.jsonl|dataset_info\.json|features\.json|label\.labels\.txt"
# A file of ours, or what `write_whole` had of it when it was cut off.
_OUR_FILE = re.compile(rf"({_SHARD_NAMES}|{_OTHER_NAMES})|\.({_SHARD_NAMES}|{_OTHER_NAMES})\.[0-9a-f]{{32}}")


@dataclass(frozen=True, slots=True)
class Output:
    """An OUTPUT directory that this process holds."""

    path: Path

    @property
    def work(self) -> Path:
        """Where unfinished things lie."""
        return self.path / _WORK

    def manifest(self) -> Manifest | None:
        """The manifest of the dataset that is already here, if one is.

        Raises:
            UsageError: there is one that is not ours, or of another version.
        """
        try:
            return Manifest.from_json((self.path / MANIFEST_NAME).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (DatasetError, ValueError) as error:
            raise UsageError(f"OUTPUT {self.path}: {error}") from error

    def clear(self) -> None:
        """Remove what an unfinished job left, and nothing else."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.work)
        if not (self.path / MANIFEST_NAME).exists():
            for entry in self.path.iterdir():
                if _OUR_FILE.fullmatch(entry.name):
                    entry.unlink()


@contextlib.contextmanager
def claimed(path: str) -> Iterator[Output]:
    """Hold OUTPUT: make it if need be, keep other jobs off it, and leave nothing unfinished in it.

    Raises:
        UsageError: it is not empty and not ours, or another job holds it.
    """
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"OUTPUT {path}: is a file; give a directory")
    created = [place for place in (directory, *directory.parents) if not place.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"OUTPUT {path}: cannot be made ({error.strerror})") from error
    names = {entry.name for entry in directory.iterdir()}
    if MANIFEST_NAME in names and _LOCK not in names:
        yield Output(directory)  # finished, by us or by others: nothing here will be changed
        return
    if names and _LOCK not in names:
        raise UsageError(f"OUTPUT {path}: is not empty, and what is in it is no dataset of ours")
    try:
        with _locked(directory / _LOCK):
            output = Output(directory)
            output.clear()
            try:
                yield output
            finally:
                _leave(output)
    finally:
        with contextlib.suppress(OSError):  # not empty: the dataset is there
            for place in created:
                place.rmdir()


def _leave(output: Output) -> None:
    """Clear up, and only then let go: where that fails, the lock file tells the next job that it may."""
    try:
        output.clear()
    except KeyboardInterrupt:
        output.clear()  # the command hears only one: what it cut off is done now
        raise
    finally:
        if not output.work.exists():
            (output.path / _LOCK).unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made if need be. The kernel unlocks it when a process ends, however it ends."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except (BlockingIOError, FileNotFoundError):  # held, or removed by a job that has just ended
            mine = False
        if not mine:
            raise UsageError(f"OUTPUT {path.parent}: another job is writing there")
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What the manifest says that no shard knows."""

    output: str
    fields: dict[str, Field]
    formats: tuple[str, ...]
    splits: tuple[str, ...]
    class_names: tuple[str, ...] | None
    seed: int
    options: dict[str, Any]
    fingerprint: Fingerprint
    ignored: int
    planned: int
    listing_rejects: tuple[Reject, ...]
    max_rejects: MaxRejects


def publish(written: Sequence[WrittenShard], publication: Publication) -> None:
    """Turn attempts at every shard into a dataset. May be called again after it was cut off.

    Raises:
        JobError: too many images were rejected, or the files of an attempt are gone.
    """
    order = {name: number for number, name in enumerate(publication.splits)}
    shards = sorted(written, key=lambda shard: (order[shard.task.split], shard.task.number))
    rejected = len(publication.listing_rejects) + sum(shard.rejected for shard in shards)
    inputs = publication.planned + len(publication.listing_rejects)
    check_rejects(rejected, _rejects(shards, publication), inputs, publication.max_rejects)
    output = Path(publication.output)
    for shard in shards:
        _commit(shard, output)
    write_whole(output / REJECTS_NAME, map(Reject.to_line, _rejects(shards, publication)))
    manifest = _manifest(shards, rejected, publication)
    for name, data in metadata_files(manifest, _tfds_name(output)).items():
        write_whole(output / name, [data])
    write_whole(output / MANIFEST_NAME, [manifest.to_json().encode()])


def check_rejects(count: int, first: Iterable[Reject], inputs: int, limit: MaxRejects) -> None:
    """Whether so many rejects are too many.

    Raises:
        JobError: they are; the first few are named.
    """
    bound = limit.of(inputs)
    if count > bound:
        named = "".join(f"\n  {printable(r.uri)}: {r.reason}: {r.message}" for r in islice(first, 3))
        raise JobError(
            f"of {inputs} images, at least {count} cannot be used; --max-rejects allows {bound}. The first:{named}\n"
            "Repair or remove them, or allow more; with --max-rejects 1.0, rejects.jsonl will list them all."
        )


def _commit(shard: WrittenShard, output: Path) -> None:
    """Give the files of an attempt their names. Done already is done."""
    for file in shard.shard.files.values():
        for name in (file.path, index_name(file.path)):
            source, target = Path(shard.attempt) / name, output / name
            if source.exists():
                _sync(source)
                os.replace(source, target)
            elif not target.exists():
                raise JobError(f"{source}: is gone; run the command again")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rejects(shards: Iterable[WrittenShard], publication: Publication) -> Iterator[Reject]:
    yield from publication.listing_rejects
    for shard in shards:
        if shard.rejected:
            with open(Path(shard.attempt) / REJECTS_NAME, "rb") as file:
                yield from map(Reject.from_line, file)


def _manifest(shards: Sequence[WrittenShard], rejected: int, publication: Publication) -> Manifest:
    splits = {}
    for name in publication.splits:
        own = tuple(shard.shard for shard in shards if shard.task.split == name)
        splits[name] = Split(records=sum(shard.records for shard in own), shards=own)
    return Manifest(
        fields=publication.fields,
        formats=publication.formats,
        splits=splits,
        class_names=publication.class_names,
        statistics=_statistics(shards, publication.splits),
        counts=Counts(
            ignored=publication.ignored,
            planned=publication.planned,
            written=sum(split.records for split in splits.values()),
            rejected=rejected,
        ),
        seed=publication.seed,
        options=publication.options,
        fingerprint=publication.fingerprint,
    )


def _statistics(shards: Iterable[WrittenShard], splits: Sequence[str]) -> Statistics | None:
    split = statistics_split(splits)
    sums = sum((shard.sums for shard in shards if shard.task.split == split), ChannelSums())
    if sums.pixels == 0:
        return None
    mean, std = sums.mean_std()
    return Statistics(split=split, pixels=sums.pixels, mean=mean, std=std)


def _tfds_name(output: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", output.resolve().name.lower()).strip("_")
    return name if name and not name[0].isdigit() else f"dataset_{name}".rstrip("_")
