"""The job as a Beam pipeline. Tasks cross a shuffle; references and image bytes never do.

```
OUTPUT ── ListShards ── ShardTask ── WriteShards ── WrittenShard ── their number ── Publish ── manifest
  └── ListMeasured ── ShardTask ── MeasureShards ── ChannelSums ── summed ── to WriteShards  (--normalize dataset only)
OUTPUT ── ListInputs ── ShardTask ── HashInputs      (for duplicates and --append; a pipeline of its own, before)
```
"""

# The launcher makes the plan, and the pipeline has the same size for any number of shards. Its only element is OUTPUT's
# name, from which workers read the tasks; a task names the bytes of a plan file with its references. So no engine's
# limit on the size of a pipeline or of an element (Dataflow: 10 MB for a job) limits the dataset. The other way, no
# description of a shard crosses a shuffle either: publishing reads them in OUTPUT.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.plan.order import statistics_split
from beam_jobs.plan.tasks import HASH_TASKS_NAME, KNOWN_TASKS_NAME, TASKS_NAME, ShardTask, read_tasks
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.workers import ShardFunction, workers_of
from beam_jobs.shards.job import Job
from beam_jobs.shards.output import PLAN
from beam_jobs.shards.publish import Publication, publish
from beam_jobs.shards.write import hash_shard, measure_shard, write_shard
from beam_jobs.shards.written_shard import WrittenShard
from shard_reader.storage.open import directory

NAMESPACE = "image-shards"
"""The namespace of the metrics."""

__all__ = ["NAMESPACE", "HashInputs", "ListShards", "MeasureShards", "WriteShards", "build", "build_hashing"]


def build_hashing(pipeline: beam.Pipeline, job: Job, run: str) -> None:
    """Add the pre-pass that hashes inputs to `pipeline`: all of them, or those with the id of a record."""
    name = KNOWN_TASKS_NAME if job.hash_values else HASH_TASKS_NAME
    tasks = pipeline | "ListInputs" >> ListShards(job.output, name=name)
    _ = tasks | "HashInputs" >> HashInputs(job, run)


def build(pipeline: beam.Pipeline, job: Job, publication: Publication, run: str) -> None:
    """Add the whole job to `pipeline`."""
    statistics: Any = job.normalization
    if statistics is None and job.image.normalize == "dataset":
        measured = pipeline | "ListMeasured" >> ListShards(job.output, statistics_split(publication.splits))
        sums = measured | "MeasureShards" >> MeasureShards(job, run)
        statistics = beam.pvalue.AsSingleton(sums | "SumStatistics" >> beam.CombineGlobally(_total))
    shards = pipeline | "ListShards" >> ListShards(job.output)
    written = shards | "WriteShards" >> WriteShards(job, run, statistics)
    _ = written | "Count" >> beam.combiners.Count.Globally() | "Publish" >> beam.Map(_publish, publication, run)


@dataclass
class ListShards(beam.PTransform):
    """Reads every `ShardTask` of the plan in OUTPUT, or of one split, and spreads them over the workers."""

    output: str
    split: str | None = None
    name: str = TASKS_NAME

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[ShardTask]:
        output = pipeline | beam.Create([self.output], reshuffle=False)
        # Without the reshuffle, engines fuse the steps, and one worker does all tasks.
        return output | beam.FlatMap(_tasks, self.split, self.name) | beam.Reshuffle()


@dataclass
class WriteShards(beam.PTransform):
    """Turns each `ShardTask` into a finished shard, described by a `WrittenShard`."""

    job: Job
    run: str
    statistics: Any

    def expand(self, tasks: beam.PCollection[ShardTask]) -> beam.PCollection[WrittenShard]:
        return tasks | beam.ParDo(_ForEachShard(write_shard, self.job, self.run, _count), self.statistics)


@dataclass
class MeasureShards(beam.PTransform):
    """Turns each `ShardTask` into the `ChannelSums` of its images."""

    job: Job
    run: str

    def expand(self, tasks: beam.PCollection[ShardTask]) -> beam.PCollection[ChannelSums]:
        return tasks | beam.ParDo(_ForEachShard(measure_shard, self.job, self.run))


@dataclass
class HashInputs(beam.PTransform):
    """Stores the hashes of the inputs of each `ShardTask`, and returns their number."""

    job: Job
    run: str

    def expand(self, tasks: beam.PCollection[ShardTask]) -> beam.PCollection[int]:
        return tasks | beam.ParDo(_ForEachShard(hash_shard, self.job, self.run))


class _ForEachShard(beam.DoFn):
    """Does each task: in the run's processes on this machine, inline anywhere else."""

    def __init__(
        self, work: ShardFunction, job: Job, run: str, count: Callable[[Any, Job], None] | None = None
    ) -> None:
        """`run` is the id of the processes of this machine, "" for inline work. `count` takes each result."""
        self._work, self._job, self._run, self._count = work, job, run, count

    def start_bundle(self) -> None:
        self._tasks: list[ShardTask] = []
        self._statistics: Any = None

    def process(self, task: ShardTask, statistics: Any = None) -> Iterator[Any]:
        # Tasks are collected until the bundle ends: one worker of Beam's would otherwise wait for each of them in
        # turn, with one process busy at a time.
        if self._run:
            self._tasks.append(task)
            self._statistics = statistics
        else:
            yield self._counted(inline_calls.do(self._work, task, self._job, statistics))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._tasks:
            window = GlobalWindow()
            for result in workers_of(self._run).do(self._work, self._tasks, self._job, self._statistics):
                yield WindowedValue(self._counted(result), window.max_timestamp(), [window])

    def _counted(self, result: Any) -> Any:
        if self._count is not None:
            self._count(result, self._job)
        return result


def _count(written: WrittenShard, job: Job) -> None:
    """Add a shard to Beam's metrics. A bundle that an engine does again may count its shards twice."""
    found = written.metrics
    if found.run_id != job.run_id:
        Metrics.counter(NAMESPACE, "shards_kept").inc()
        return
    counts = {"shards": 1, "images": written.shard.records, "rejected": written.rejected}
    counts |= {"bytes_in": found.bytes_read, "bytes_out": written.size}
    for name, count in counts.items():
        Metrics.counter(NAMESPACE, name).inc(count)
    for reason, count in found.rejects.items():
        Metrics.counter(NAMESPACE, f"rejected_{_metric(reason)}").inc(count)
    for stage, seconds in found.wall.items():
        Metrics.distribution(NAMESPACE, f"{stage}_ms").update(round(1000 * seconds))


def _metric(reason: str) -> str:
    """A name for a metric. A source of others may have reasons of any text."""
    return reason.replace("-", "_") if re.fullmatch(r"[a-z-]{1,40}", reason) else "other"


def _tasks(output: str, split: str | None, name: str) -> Iterator[ShardTask]:
    return (task for task in read_tasks(directory(output), PLAN + name) if split in (None, task.split))


def _publish(count: int, publication: Publication, run: str) -> None:
    # The number says that all are there. It may be too large: an engine may do a task twice.
    if not run:
        inline_calls.call(publish, publication)
        return
    workers = workers_of(run)
    try:
        workers.check()
        workers.before_publishing()
        publish(publication)
    except Exception as error:
        workers.stop(error)  # keeps the error, of which Beam passes on only the text
        raise


def _total(sums: Iterable[ChannelSums]) -> ChannelSums:
    return sum(sums, ChannelSums())
