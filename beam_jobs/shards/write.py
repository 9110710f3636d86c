"""From a shard's references to its files: read, transform, append. Pure functions, no Beam.

An attempt writes its files to a folder of its own. A finished attempt moves to the finished shards in OUTPUT. A shard
that an earlier run has finished is checked, and kept.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import JobError
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.metadata.dali import dali_index
from beam_jobs.metadata.parquet import PART_NAME, write_part
from beam_jobs.meter import Meter
from beam_jobs.parallel import in_order
from beam_jobs.plan.tasks import ShardTask, read_references
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.records.copied import copied_record
from beam_jobs.shards.records.record import Prepared, Shape, common_shapes, hash_reference, labels_of, prepare_reference
from beam_jobs.shards.thumbnails import Thumbnails
from beam_jobs.shards.written_shard import (
    PART_NAMES,
    UNREADABLE,
    WRITTEN_NAME,
    Listed,
    ShardMetrics,
    WrittenShard,
    part_path,
    read_written,
)
from beam_jobs.sources.files.interface import Reference, Reject, Suspect
from shard_reader.format import index
from shard_reader.format.checksum import sha256_file
from shard_reader.format.fields import Field
from shard_reader.format.manifest import PIXELS_NAME, Shard, ShardFile, dali_name, index_name, shard_name
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.storage.directory import Directory
from shard_reader.storage.local import sync, write_whole
from shard_reader.storage.open import directory

__all__ = [
    "each_image",
    "hash_shard",
    "hashes_of",
    "image_maker",
    "measure_shard",
    "store",
    "write_shard",
]

_T = TypeVar("_T")


def write_shard(task: ShardTask, job: Job, statistics: ChannelSums | None, watcher: Watcher) -> WrittenShard:
    """Write every file of one shard, in memory of a few images, unless an earlier run has finished it.

    Raises:
        JobError: an input could not be read for a reason that may pass, or the output could not be written.
    """
    output = _directory(job.output)
    kept = _finished(task, job, output)
    if kept is not None:
        watcher.keeps(task.records, kept.rejected)
        return kept
    if job.image.normalize == "dataset" and not (statistics and statistics.pixels):
        raise JobError("--normalize dataset: of the split that is measured, no image can be used")
    if job.image.normalize == "dataset" and statistics is not None and statistics.mixed:
        raise JobError(
            "--normalize dataset: images of floats and images of integers have no common mean; prepare them apart, or"
            " with --normalize per-image"
        )
    try:
        with _attempt(task, job, output) as attempt:
            written = _write(task, job, statistics, watcher, attempt)
            return _finish(written, attempt, job, output)
    except OSError as error:
        raise JobError(f"{output.uri('')}: cannot be written ({error.strerror or error})") from error


def store(records: Iterable[Mapping[str, Any]], paths: Mapping[str, Path], fields: Mapping[str, Field]) -> Shard:
    """Write records to a file for each format, and an index beside each.

    Args:
        records: the value of every field, `image` as the bytes that are stored.
        paths: the file of each format.
        fields: the types of the values.
    """
    count = 0
    with ExitStack() as stack:
        writers = [SHARD_FORMATS[format].writer(path, fields) for format, path in paths.items()]
        for writer in writers:
            stack.callback(writer.abort)
        for record in records:
            count += 1
            for writer in writers:
                writer.append(record)
        for writer in writers:
            writer.close()
    files = {format: _index(path, format, count, fields) for format, path in paths.items()}
    return Shard(records=count, files=files)


def hash_shard(task: ShardTask, job: Job, statistics: None, watcher: Watcher) -> int:
    """Store the hash of each input of one task, in the form of `hash_reference`, and return their number."""
    output, name = _directory(job.output), f"{job.work.hashed}/{task.name}"
    # Read, and not looked for in a listing: that would be a listing of all tasks for each of them.
    with contextlib.suppress(FileNotFoundError):
        output.read(name)
        watcher.keeps(task.records, 0)
        return task.records
    hashes, decoding = list[bytes](), _decoding(job)
    for _, found in each_image(
        task, job, watcher, lambda reference, begin: hash_reference(reference, job, decoding(begin))
    ):
        hashes.append(found)
        watcher.counts(1)
    output.write(name, hashes)
    return len(hashes)


def hashes_of(task: ShardTask, job: Job, output: Directory) -> NDArray[np.uint64]:
    """The hashes that `hash_shard` stored, uint64 `[n, 2]`, or `[n, 5]` with those of pixels."""
    data = output.read(f"{job.work.hashed}/{task.name}")
    return np.frombuffer(data, ">u8").reshape(-1, 5 if job.hash_pixels else 2).astype(np.uint64)


def measure_shard(task: ShardTask, job: Job, statistics: None, watcher: Watcher) -> ChannelSums:
    """The sums over the pixels of one shard, without writing it. `statistics` is None: they are made of these sums."""
    output, name = _directory(job.output), f"{job.work.measured}/{task.name}.json"
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        sums = ChannelSums.from_json(json.loads(output.read(name)))
        watcher.keeps(task.records, 0)
        return sums
    sums = ChannelSums()
    for _, (record, _) in each_image(task, job, watcher, image_maker(job, ChannelSums())):
        sums += ChannelSums() if isinstance(record, Reject) else record.payload.sums
        watcher.counts(1)
    output.write(name, [json.dumps(asdict(sums)).encode()])
    return sums


@functools.lru_cache(8)
def _directory(place: str) -> Directory:
    return directory(place)


def _finished(task: ShardTask, job: Job, output: Directory) -> WrittenShard | None:
    """The description of a finished shard; None unless all its files are there, with the right checksums."""
    folder = f"{job.work.shards}/{task.name}"
    try:
        written, _ = read_written(task, job.work, output)
    except (FileNotFoundError, *UNREADABLE):
        return None
    names = {format: file.path for format, file in written.shard.files.items()}
    if names != {format: shard_name(task.split, task.number, task.count, format) for format in job.formats}:
        return None  # another program wrote it: its names may be those of any file
    if set(written.beside) != _beside(task, written.shard, job):
        return None
    expected = dict(written.beside)
    for file in written.shard.files.values():
        expected |= {file.path: file.sha256, index_name(file.path): file.index_sha256}
    for name, sha256 in expected.items():
        is_part = name in PART_NAMES
        # A publication that was interrupted may have renamed some of the files already.
        places = [part_path(name, task, job.work, output)] if is_part else [f"{folder}/{name}", name]
        if sha256 not in _checksums(output, places):
            return None
    return written


def _beside(task: ShardTask, shard: Shard, job: Job) -> set[str]:
    """The names of the files beside a shard that are not in the manifest."""
    indexed = [file.path for format, file in shard.files.items() if job.dali_index and SHARD_FORMATS[format].in_tfds]
    measured = [PIXELS_NAME] if task.split == job.statistics_split else []
    return {PART_NAME, *measured, *map(dali_name, indexed)}


def _checksums(output: Directory, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            yield output.sha256(name)


@contextlib.contextmanager
def _attempt(task: ShardTask, job: Job, output: Directory) -> Iterator[Path]:
    """A folder for one attempt at a shard, on OUTPUT's disk so that it can be renamed; for a store, on any disk."""
    if output.local is None:
        with tempfile.TemporaryDirectory(dir=job.staging, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    path = output.local / job.work.attempts / f"{task.name}.{uuid.uuid4().hex}"
    # Without its parents, which only the launcher makes: a straggler of a job that is over fails here.
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _write(task: ShardTask, job: Job, statistics: ChannelSums | None, watcher: Watcher, attempt: Path) -> WrittenShard:
    rejects, suspects, sums = list[Reject](), list[Suspect](), ChannelSums()
    classes, changed, hosts = Counter[int](), Counter[str](), dict[str, list[int]]()
    thumbnails = Thumbnails(job.thumbnail_share, task.split)
    shapes: dict[str, Shape] = {}
    is_measured, pixels = task.split == job.statistics_split, list[bytes]()
    began, meter = time.perf_counter(), Meter()

    def records() -> Iterator[Mapping[str, Any]]:
        nonlocal sums, shapes
        for _, (record, spent) in each_image(task, job, watcher, image_maker(job, statistics, thumbnails)):
            meter.restart()
            meter.add(spent)
            if isinstance(record, Reject):
                rejects.append(record)
                watcher.counts(1, record)
            else:
                sums += record.payload.sums
                if is_measured:
                    pixels.append(record.payload.sums.to_line())
                changed.update(record.changed)
                if record.host:
                    count = hosts.setdefault(record.host, [0, 0])
                    count[:] = count[0] + 1, count[1] + record.received
                shapes = common_shapes(shapes, record.shapes)
                if record.suspect:
                    suspects.append(Suspect(record.values["id"], task.split, record.suspect))
                if job.count_classes:
                    classes.update(labels_of(record.values))
                meter.lap("other")
                yield record.values
                meter.lap("write")
                watcher.counts(1)

    paths = {f: attempt / shard_name(task.split, task.number, task.count, f) for f in job.formats}
    shard = store(records(), paths, job.fields)
    if is_measured:
        (attempt / PIXELS_NAME).write_bytes(b"".join(pixels))
    _write_beside(task, shard, job, attempt)
    _secure(task, shard, attempt, job)
    meter.lap("write")
    written = WrittenShard(
        task=task,
        shard=shard,
        rejected=len(rejects),
        suspects=len(suspects),
        shapes=shapes,
        sums=sums,
        changed=dict(changed),
        beside={name: sha256_file(attempt / name) for name in sorted(_beside(task, shard, job))},
        metrics=ShardMetrics(
            run_id=job.run_id,
            seconds=time.perf_counter() - began,
            bytes_read=meter.bytes_read,
            cpu=meter.cpu,
            wall=meter.wall,
            rejects=dict(Counter(reject.reason for reject in rejects)),
        ),
    )
    listed = Listed(
        rejects=rejects,
        suspects=suspects,
        classes=np.array([[*classes], [*classes.values()]], np.int64),
        hosts=hosts,
        thumbnails=thumbnails.kept(),
    )
    write_whole(attempt / WRITTEN_NAME, [written.to_json(listed)])
    return written


def _write_beside(task: ShardTask, shard: Shard, job: Job, attempt: Path) -> None:
    """Write the shard's rows of `metadata.parquet` and, if asked for, its index for DALI."""
    format, file = next(iter(shard.files.items()))
    rows = index.load(attempt, file, shard.records, job.fields)
    write_part(attempt / PART_NAME, attempt / file.path, format, rows, job.fields)
    for indexed in shard.files.values():
        if dali_name(indexed.path) in _beside(task, shard, job):
            (attempt / dali_name(indexed.path)).write_bytes(dali_index(attempt / indexed.path))


def _secure(task: ShardTask, shard: Shard, attempt: Path, job: Job) -> None:
    """Upload the files of an attempt; on a disk, wait until they are on it."""
    output = _directory(job.output)
    paths = [path for file in shard.files.values() for path in (file.path, index_name(file.path))]
    targets = {path: path for path in (*paths, *_beside(task, shard, job))}
    targets |= {name: part_path(name, task, job.work, output) for name in PART_NAMES if name in targets}
    for path, target in targets.items():
        if output.local is None:
            output.put(attempt / path, target)
        else:
            sync(attempt / path)


def _finish(written: WrittenShard, attempt: Path, job: Job, output: Directory) -> WrittenShard:
    """Move the files of an attempt to the finished shards. Returns the shard of another attempt that was faster."""
    folder = f"{job.work.shards}/{written.task.name}"
    if output.local is None:
        # Last, since this object says that all the others are there.
        output.put(attempt / WRITTEN_NAME, f"{folder}/{WRITTEN_NAME}")
        return written
    sync(attempt)
    # A finished shard is the renamed folder of one attempt. Two attempts cannot both be it, a job that dies leaves it
    # whole or not there, and its name alone says that it is finished.
    while True:
        try:
            os.rename(attempt, output.local / folder)
            return written
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        other = _finished(written.task, job, output)
        if other is not None:
            return other
        output.delete_folder(folder)  # the folder in the way is damaged


Begin = Callable[[], None]
"""Says that an image has been read, and is being decoded."""


def image_maker(
    job: Job, statistics: ChannelSums | None, thumbnails: Thumbnails | None = None
) -> Callable[[Reference, Begin], tuple[Prepared | Reject, Meter]]:
    """A function that makes the record of a reference, and measures it."""
    decoding = _decoding(job)

    def make(reference: Reference, begin: Begin) -> tuple[Prepared | Reject, Meter]:
        meter = Meter()
        record: Prepared | Reject
        if job.copies is not None:
            record = copied_record(reference, job, meter)
        else:
            record = prepare_reference(reference, job, statistics, decoding(begin), thumbnails, meter)
        meter.lap("other")
        return record, meter

    return make


def _decoding(job: Job) -> Callable[[Begin], AbstractContextManager[None]]:
    """The context in which an image is decoded, of which there are at most `job.decoders` at the same time."""
    turn = threading.BoundedSemaphore(job.decoders)

    @contextlib.contextmanager
    def decoding(begin: Begin) -> Iterator[None]:
        with turn:
            begin()
            yield

    return decoding


def each_image(
    task: ShardTask, job: Job, watcher: Watcher, make: Callable[[Reference, Begin], _T]
) -> Iterator[tuple[Reference, _T]]:
    """Each reference of a shard with the result of `make`, in order. Threads work on the next few."""

    def prepare(numbered: tuple[int, Reference]) -> tuple[Reference, _T]:
        position, reference = numbered
        watcher.begins(position)
        result = reference, make(reference, functools.partial(watcher.decodes, position))
        watcher.ends(position)
        return result

    return in_order(prepare, enumerate(read_references(_directory(job.output), task)), job.threads)


def _index(path: Path, format: str, records: int, fields: Mapping[str, Field]) -> ShardFile:
    """Write the index of a closed shard file, and describe both."""
    # The index is built from the file itself, so that it cannot differ from what a reader will find there.
    rows = index.build(path, format, fields)
    if len(rows) != records:
        raise JobError(f"{path}: holds {len(rows)} records, {records} were written")
    index_path = path.with_name(index_name(path.name))
    index_path.write_bytes(index.to_bytes(rows))
    return ShardFile(
        path=path.name,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        index_sha256=sha256_file(index_path),
        index_crc32c=index.checksums_crc32c(rows),
    )
