"""From a shard's references to its files: read, transform, append. Pure functions, no Beam.

The files are an attempt, in a folder of their own; `commit.py` gives them their names.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from beam_jobs.errors import JobError
from beam_jobs.images import BadImage, ChannelSums, Payload, prepare_image
from beam_jobs.options import ImageOptions
from beam_jobs.plan import ShardTask, read_task
from beam_jobs.sources import Reference, Reject
from beam_jobs.sources.folder import read_image
from shard_reader import example, hdf5, index, tfrecord
from shard_reader.checksum import sha256_file
from shard_reader.format import REJECTS_NAME, Field, Shard, ShardFile, index_name, shard_name
from shard_reader.storage import write_whole

__all__ = ["Job", "OnImage", "WrittenShard", "image_fields", "measure_shard", "store", "write_shard"]

OnImage = Callable[[Reject | None], None]
"""Called after each image, with what was wrong with it, if anything was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every shard of a job has in common."""

    input: str
    attempts: str
    image: ImageOptions
    formats: tuple[str, ...]
    fields: Mapping[str, Field]
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenShard:
    """An attempt at a shard: the folder its files are in, and what the manifest says of them."""

    task: ShardTask
    attempt: str
    shard: Shard
    rejected: int
    sums: ChannelSums


def image_fields(image: ImageOptions, has_labels: bool) -> dict[str, Field]:
    """The fields of a record, in the order of the manifest."""
    size = (None, None) if image.fit == "cover" else (image.height, image.width)
    fields = {"image": Field(dtype=image.dtype, shape=(*size, 3), encoding=image.encoding)}
    if has_labels:
        fields["label"] = Field(dtype="int64")
    number = Field(dtype="int64")
    return fields | {"id": Field(dtype="string"), "height": number, "width": number}


def write_shard(task: ShardTask, job: Job, statistics: ChannelSums | None, on_image: OnImage) -> WrittenShard:
    """Write every file of one shard, in memory of a few images.

    Raises:
        JobError: an input could not be read for a reason that may pass, or the output not be written.
    """
    if job.image.normalize == "dataset" and not (statistics and statistics.pixels):
        raise JobError("--normalize dataset: of the split that is measured, no image can be used")
    attempt = Path(job.attempts) / f"{task.name}.{uuid.uuid4().hex}"
    attempt.mkdir(parents=True)
    rejects, sums = list[Reject](), ChannelSums()

    def records() -> Iterator[dict[str, Any]]:
        nonlocal sums
        for reference, payload in _prepared(task, job, statistics):
            if isinstance(payload, Reject):
                rejects.append(payload)
                on_image(payload)
            else:
                sums += payload.sums
                yield _record(reference, payload)
                on_image(None)

    paths = {f: attempt / shard_name(task.split, task.number, task.count, f) for f in job.formats}
    try:
        shard = store(records(), paths, job.fields)
    except OSError as error:
        raise JobError(f"{attempt}: cannot be written ({error.strerror or error})") from error
    write_whole(attempt / REJECTS_NAME, map(Reject.to_line, rejects))
    return WrittenShard(task=task, attempt=str(attempt), shard=shard, rejected=len(rejects), sums=sums)


def store(records: Iterable[Mapping[str, Any]], paths: Mapping[str, Path], fields: Mapping[str, Field]) -> Shard:
    """Write records to a file for each format, and an index beside each.

    Args:
        records: the value of every field, `image` as the bytes that are stored.
        paths: the file of each format.
        fields: the types of the values.
    """
    count = 0
    with ExitStack() as stack:
        writers = [_WRITERS[format](path, fields) for format, path in paths.items()]
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


def measure_shard(task: ShardTask, job: Job, statistics: None, on_image: OnImage) -> ChannelSums:
    """The sums over the pixels of one shard, without writing it; `statistics` are what it is for."""
    sums = ChannelSums()
    for _, payload in _prepared(task, job, ChannelSums()):
        sums += ChannelSums() if isinstance(payload, Reject) else payload.sums
        on_image(None)
    return sums


def _prepared(
    task: ShardTask, job: Job, statistics: ChannelSums | None
) -> Iterator[tuple[Reference, Payload | Reject]]:
    """Each image of a shard, in order, the next few of them made ahead by threads."""

    def prepare(reference: Reference) -> tuple[Reference, Payload | Reject]:
        return reference, _prepare(reference, job, statistics)

    if job.threads == 1:
        yield from map(prepare, read_task(task))
        return
    pending: deque[Future[tuple[Reference, Payload | Reject]]] = deque()
    with ThreadPoolExecutor(job.threads) as pool:
        try:
            for reference in read_task(task):
                pending.append(pool.submit(prepare, reference))
                if len(pending) > 2 * job.threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(reference: Reference, job: Job, statistics: ChannelSums | None) -> Payload | Reject:
    uri = os.path.join(job.input, reference.id)
    try:
        return prepare_image(read_image(job.input, reference.id), job.image, statistics)
    except BadImage as error:
        return Reject(reference.id, uri, "read", error.reason, str(error))
    except (FileNotFoundError, PermissionError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return Reject(reference.id, uri, "read", reason, error.strerror or str(error))
    except OSError as error:  # the disk or the network, not the image: another run may succeed
        raise JobError(f"{uri}: cannot be read ({error.strerror or error}); run the command again") from error


def _record(reference: Reference, payload: Payload) -> dict[str, Any]:
    record = {"image": payload.data, "id": reference.id, "height": payload.height, "width": payload.width}
    return record if reference.label is None else record | {"label": reference.label}


def _index(path: Path, format: str, records: int, fields: Mapping[str, Field]) -> ShardFile:
    """Write the index of a closed shard file, from what is in the file, and describe both."""
    rows = index.build(path, format, fields)
    if len(rows) != records:
        raise JobError(f"{path}: holds {len(rows)} records, {records} were written")
    index_path = path.with_name(index_name(path.name))
    write_whole(index_path, [index.to_bytes(rows)])
    return ShardFile(
        path=path.name,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        index_sha256=sha256_file(index_path),
    )


class _Writer(Protocol):
    def append(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class _TFRecordWriter:
    def __init__(self, path: Path, fields: Mapping[str, Field]) -> None:
        del fields  # an Example names its own
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115  # closed by close() or abort()

    def append(self, record: Mapping[str, Any]) -> None:
        tfrecord.write_record(self._file, example.encode(record))

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        self._file.close()


_WRITERS: Mapping[str, Callable[[Path, Mapping[str, Field]], _Writer]] = {
    "tfrecord": _TFRecordWriter,
    "hdf5": hdf5.ShardWriter,
}
