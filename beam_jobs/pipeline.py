"""The job as a Beam pipeline. Only references cross a shuffle; image bytes never do.

```
ShardTask ── WriteShards ── WrittenShard ── all of them ── Publish ── manifest
    └────── MeasureShards ── ChannelSums ── summed ── to WriteShards     (--normalize dataset only)
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs.commit import Publication, publish
from beam_jobs.images import ChannelSums
from beam_jobs.plan import ShardTask, measured_tasks
from beam_jobs.pool import workers_of
from beam_jobs.sources import Reject
from beam_jobs.write import Job, WrittenShard, measure_shard, write_shard

__all__ = ["MeasureShards", "SpreadShards", "WriteShards", "build"]


def build(pipeline: beam.Pipeline, tasks: Sequence[ShardTask], job: Job, publication: Publication, run: str) -> None:
    """Add the whole job to `pipeline`."""
    statistics: Any = None
    if job.image.normalize == "dataset":
        measured = pipeline | "ListMeasured" >> SpreadShards(measured_tasks(tasks))
        sums = measured | "MeasureShards" >> MeasureShards(job, run)
        statistics = beam.pvalue.AsSingleton(sums | "SumStatistics" >> beam.CombineGlobally(_total))
    shards = pipeline | "ListShards" >> SpreadShards(tasks)
    written = shards | "WriteShards" >> WriteShards(job, run, statistics)
    _ = written | "Gather" >> beam.combiners.ToList() | "Publish" >> beam.Map(_publish, publication, run)


@dataclass
class SpreadShards(beam.PTransform):
    """Gives each `ShardTask` to whichever worker is free: without the shuffle one worker would do all."""

    tasks: Sequence[ShardTask]

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[ShardTask]:
        return pipeline | beam.Create(self.tasks, reshuffle=False) | beam.Reshuffle()


@dataclass
class WriteShards(beam.PTransform):
    """Turns each `ShardTask` into the files of a shard, described by a `WrittenShard`."""

    job: Job
    run: str
    statistics: Any

    def expand(self, tasks: beam.PCollection[ShardTask]) -> beam.PCollection[WrittenShard]:
        return tasks | beam.ParDo(_ForEachShard(write_shard, self.job, self.run), self.statistics)


@dataclass
class MeasureShards(beam.PTransform):
    """Turns each `ShardTask` into the `ChannelSums` of its images."""

    job: Job
    run: str

    def expand(self, tasks: beam.PCollection[ShardTask]) -> beam.PCollection[ChannelSums]:
        return tasks | beam.ParDo(_ForEachShard(measure_shard, self.job, self.run))


class _ForEachShard(beam.DoFn):
    """Calls a function for each task: in the run's processes on this machine, elsewhere in place."""

    def __init__(self, function: Callable[..., Any], job: Job, run: str) -> None:
        """`run` names the processes of this machine, "" is for anywhere else."""
        self._function, self._job, self._run = function, job, run

    def start_bundle(self) -> None:
        self._workers = workers_of(self._run) if self._run else None
        self._futures: list[Future[Any]] = []

    def process(self, task: ShardTask, statistics: Any = None) -> Iterator[Any]:
        if self._workers is None:
            yield self._function(task, self._job, statistics, _nobody_watches)
        else:
            self._futures.append(self._workers.submit(self._function, task, self._job, statistics))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._workers is not None:
            window = GlobalWindow()
            for result in self._workers.collect(self._futures):
                yield WindowedValue(result, window.max_timestamp(), [window])


def _publish(written: Sequence[WrittenShard], publication: Publication, run: str) -> None:
    if not run:
        publish(written, publication)
        return
    workers = workers_of(run)
    try:
        workers.check()
        publish(written, publication)
    except Exception as error:
        workers.stop(error)  # Beam would keep only its text
        raise


def _total(sums: Iterable[ChannelSums]) -> ChannelSums:
    return sum(sums, ChannelSums())


def _nobody_watches(reject: Reject | None) -> None:
    del reject
