"""The sample of a plan: some images are prepared, to estimate the size and the time of all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from beam_jobs.meter import Meter
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.record import Prepared
from beam_jobs.shards.write import each_image, image_maker, store
from beam_jobs.sources.files.interface import Reject
from shard_reader.format.manifest import shard_name

__all__ = ["Sample", "sample_shard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Result of preparing some images: the means of one.

    Attributes:
        images: the number of images.
        record_bytes: the size of a stored image.
        file_bytes: the size of a record in the files of all formats, with the indexes.
        input_bytes: the size of an input.
        cpu_seconds: the time for one image on one CPU.
        read_seconds: the part of it that reads the input.
        rejects: the images that cannot be used. Each counts with the size of its file.
    """

    images: int
    record_bytes: float
    file_bytes: float
    input_bytes: float
    cpu_seconds: float
    read_seconds: float
    rejects: tuple[Reject, ...] = ()


def sample_shard(task: ShardTask, job: Job, statistics: None, watcher: Watcher) -> Sample:
    """Prepare some images, and write a shard of them that is not kept."""
    results = list(each_image(task, job, watcher, image_maker(job, None)))
    records = [record for _, (record, _) in results if isinstance(record, Prepared)]
    rejects = [record for _, (record, _) in results if isinstance(record, Reject)]
    unusable = sum(max(0, reference.size) for reference, (record, _) in results if isinstance(record, Reject))
    meters = [meter for _, (_, meter) in results]
    count = max(1, len(results))
    write_seconds, stored = _stored(records, job)
    # Not the first image of a process, for which libraries are loaded.
    steady = _total(meters[1:] or meters)
    images = max(1, len(meters[1:] or meters))
    return Sample(
        images=len(results),
        record_bytes=(unusable + sum(len(record.payload.data) for record in records)) / count,
        file_bytes=(unusable + stored) / count,
        input_bytes=_total(meters).bytes_read / count,
        cpu_seconds=sum(steady.cpu.values()) / images + write_seconds / count,
        read_seconds=steady.cpu["read"] / images,
        rejects=tuple(rejects),
    )


def _stored(records: list[Prepared], job: Job) -> tuple[float, int]:
    """The CPU seconds of writing records to files of every format, and the size of the files."""
    meter = Meter()
    with tempfile.TemporaryDirectory(dir=job.output) as folder:
        paths = {format: Path(folder) / shard_name("sample", 0, 1, format) for format in job.formats}
        store((record.values for record in records), paths, job.fields)
        stored = sum(path.stat().st_size for path in Path(folder).iterdir())
    meter.lap("write")
    return meter.cpu["write"], stored


def _total(meters: list[Meter]) -> Meter:
    total = Meter()
    for meter in meters:
        total.add(meter)
    return total
