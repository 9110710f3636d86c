"""The sample of a plan: some images are prepared, to estimate the size and the time of all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.meter import Meter
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.records.record import Prepared
from beam_jobs.shards.thumbnails import Thumbnails
from beam_jobs.shards.write import each_image, image_maker, store
from beam_jobs.sources.files.interface import Reference, Reject
from shard_reader.format.manifest import shard_name

__all__ = ["Sample", "sample_shard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Result of preparing some images: the means of one.

    Attributes:
        images: the number of images.
        record_bytes: the size of the stored images and bytes of a record.
        file_bytes: the size of a record in the files of all formats, with the indexes.
        input_bytes: the size of an input.
        cpu_seconds: the time for one image on one CPU, without its thumbnail.
        read_seconds: the part of it that reads the input.
        start_seconds: the time that the first image of a process takes longer on a CPU, for which it loads libraries.
        thumbnail_seconds: the time for all thumbnails on one CPU, about as many as a shard has.
        clock_seconds: the time for one image by the clock, in one process: it also waits for a disk, a store or a CPU.
        rejects: the images that cannot be used. Each counts with the size of its file.
    """

    images: int
    record_bytes: float
    file_bytes: float
    input_bytes: float
    cpu_seconds: float
    read_seconds: float
    start_seconds: float
    thumbnail_seconds: float
    clock_seconds: float
    rejects: tuple[Reject, ...] = ()


def sample_shard(task: ShardTask, job: Job, statistics: None, watcher: Watcher) -> Sample:
    """Prepare some images, and write a shard of them that is not kept, in memory of a few images.

    Raises:
        JobError: an input could not be read for a reason that may pass, or the shard could not be written.
    """
    found = _Measured()
    make = image_maker(job, None, Thumbnails(job.thumbnail_share, task.split))
    try:
        with tempfile.TemporaryDirectory(dir=job.output) as folder:
            paths = {format: Path(folder) / shard_name("sample", 0, 1, format) for format in job.formats}
            store(found.records(each_image(task, job, watcher, make)), paths, job.fields)
            stored = sum(path.stat().st_size for path in Path(folder).iterdir())
    except OSError as error:
        raise JobError(f"{job.output}: cannot be written ({error.strerror or error})") from error
    found.meter.lap("write")
    return found.sample(stored)


class _Measured:
    """Measures the images of a sample, one after the other."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._images = self._stored = self._unusable = 0
        self._rejects = list[Reject]()
        self._first = Meter()
        self._began = 0.0

    def records(
        self, images: Iterator[tuple[Reference, tuple[Prepared | Reject, Meter]]]
    ) -> Iterator[Mapping[str, Any]]:
        for reference, (record, spent) in images:
            self.meter.restart()
            if not self._images:
                self._first, self._began = spent, time.perf_counter()
            self._images += 1
            self.meter.add(spent)
            if isinstance(record, Reject):
                self._rejects.append(record)
                self._unusable += max(0, reference.size)
            else:
                self._stored += record.stored
                yield record.values
                self.meter.lap("write")

    def sample(self, stored: int) -> Sample:
        """The result, with the size of the files."""
        images, steady = max(1, self._images), max(1, self._images - 1)
        first = self._first if self._images > 1 else Meter()
        cpu_seconds = (_without_thumbnails(self.meter) - _without_thumbnails(first)) / steady
        return Sample(
            images=self._images,
            record_bytes=(self._unusable + self._stored) / images,
            file_bytes=(self._unusable + stored) / images,
            input_bytes=self.meter.bytes_read / images,
            cpu_seconds=cpu_seconds,
            read_seconds=(self.meter.cpu["read"] - first.cpu["read"]) / steady,
            start_seconds=max(0.0, _without_thumbnails(first) - cpu_seconds),
            thumbnail_seconds=self.meter.cpu["thumbnails"],
            clock_seconds=(time.perf_counter() - self._began - self.meter.wall["thumbnails"]) / steady,
            rejects=tuple(self._rejects),
        )


def _without_thumbnails(meter: Meter) -> float:
    return sum(meter.cpu.values()) - meter.cpu["thumbnails"]
