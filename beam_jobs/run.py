"""Running the pipeline: on this machine with processes and a progress display, or on a Beam runner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.commit import Publication
from beam_jobs.errors import JobError
from beam_jobs.plan import ShardTask, measured_tasks
from beam_jobs.pool import Workers
from beam_jobs.quiet import quiet
from beam_jobs.report import Progress
from beam_jobs.write import Job

__all__ = ["run"]

# "DirectRunner" is Beam's name for "on this machine"; what it does there is decided here.
_LOCAL_RUNNERS = (None, "DirectRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner", "FnApiRunner")


def run(
    tasks: Sequence[ShardTask],
    job: Job,
    publication: Publication,
    beam_options: Mapping[str, Any],
    processes: int,
) -> None:
    """Write and publish every shard.

    Args:
        tasks: the shards.
        job, publication: what they have in common, and what the manifest says of them.
        beam_options: Beam's own, by their names in `PipelineOptions`.
        processes: how many on this machine, if it is the runner.

    Raises:
        JobError: the job failed.
    """
    runner = beam_options.get("runner")
    if runner not in _LOCAL_RUNNERS:
        try:
            _run_pipeline(tasks, job, publication, beam_options, "")
        except Exception as error:
            raise JobError(f"{runner} failed: {_last_line(error)}") from error
        return
    # What fails here is raised here; Beam would also print it, once for each of its layers.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    here = {"runner": "FnApiRunner", "direct_num_workers": 1, "direct_running_mode": "in_memory"}
    progress = _progress(tasks, job, publication)
    try:
        with Workers(processes, progress.on_image) as workers:
            arguments = (tasks, job, publication, {**beam_options, **here}, workers.run)
            _run_beside(workers, progress, arguments)
    finally:
        progress.close()


def _progress(tasks: Sequence[ShardTask], job: Job, publication: Publication) -> Progress:
    measured = measured_tasks(tasks) if job.image.normalize == "dataset" else []
    rejects = publication.listing_rejects
    steps = publication.planned + sum(task.records for task in measured)
    return Progress(steps, publication.planned + len(rejects), rejects, publication.max_rejects)


def _run_beside(workers: Workers, progress: Progress, arguments: tuple[Any, ...]) -> None:
    """Run the pipeline in a thread, so that this one can show progress and hear Ctrl-C."""
    failures: list[BaseException] = []
    ended = threading.Event()

    def pipeline() -> None:
        try:
            _run_pipeline(*arguments)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=pipeline).start()
    try:
        # Not Thread.join: interrupted, it takes the thread for ended (CPython 3.11), and it is not.
        while not ended.wait(0.1):
            progress.show()
    except BaseException:
        workers.stop(JobError("interrupted"))  # an Exception: Beam clears up behind no other kind
        ended.wait()
        raise
    if workers.error:  # as it was: Beam turns errors into text
        raise workers.error
    if failures:
        raise JobError(f"the pipeline failed: {_last_line(failures[0])}") from failures[0]


def _last_line(error: BaseException) -> str:
    """What an error says, without the traceback that Beam puts into its text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _run_pipeline(
    tasks: Sequence[ShardTask],
    job: Job,
    publication: Publication,
    beam_options: Mapping[str, Any],
    run: str,
) -> None:
    with quiet():  # imported here: it takes a second, and the worker processes do without it
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from beam_jobs.pipeline import build

    with beam.Pipeline(options=PipelineOptions([], **beam_options)) as pipeline:
        build(pipeline, tasks, job, publication, run)
