"""A pipeline of the job, run on this machine or on an engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beam_jobs.runners.engines import run_on_engine
from beam_jobs.runners.local import AddSteps, is_local, run_here
from beam_jobs.runners.workers import Workers
from beam_jobs.shards.job import Job
from beam_jobs.shards.publish import Publication
from beam_jobs.terminal import ProgressLine

__all__ = ["add_hashing", "add_writing", "run_pipeline"]

_LINE_SECONDS = 10.0  # between two lines of progress, where there is no terminal


def add_hashing(job: Job, pipeline: Any, run: str) -> None:
    """Add the pre-pass that hashes every input to a Beam pipeline. `run` is the id of this machine's processes."""
    from beam_jobs.runners.pipeline import build_hashing  # which imports Beam

    build_hashing(pipeline, job, run)


def add_writing(job: Job, publication: Publication, pipeline: Any, run: str) -> None:
    """Add the writing of all shards to a Beam pipeline. `run` is the id of this machine's processes."""
    from beam_jobs.runners.pipeline import build  # which imports Beam

    build(pipeline, job, publication, run)


def run_pipeline(
    add_steps: AddSteps,
    beam_options: Mapping[str, Any],
    workers: Workers | None,
    *,
    progress: Callable[[bool], str],
    tasks_done: Callable[[], str],
    check: Callable[[], None],
    scratch: Path,
) -> None:
    """Run a pipeline, and show its progress.

    Args:
        add_steps: adds the steps to the pipeline.
        beam_options: Beam's own options.
        workers: the processes of this machine; None to work in this one.
        progress: returns the text about a run on this machine, as a bar or in words.
        tasks_done: returns the text about a run on an engine.
        check: called with each of them. Its error ends the run.
        scratch: a folder on this machine.

    Raises:
        JobError: the job failed.
    """

    def checked_progress(as_bar: bool) -> str:
        check()
        return progress(as_bar)

    def checked_tasks_done() -> str:
        check()
        return tasks_done()

    if not is_local(beam_options):
        if workers is not None:
            workers.end()
        run_on_engine(add_steps, beam_options, checked_tasks_done)
        return
    line = ProgressLine(_LINE_SECONDS)
    _show(line, progress)
    try:
        if workers is not None:
            # The processes need a while to import, and so does Beam, which a thread of this process is importing.
            workers.start()
        run_here(add_steps, beam_options, workers, functools.partial(_show, line, checked_progress), scratch)
    finally:
        line.leave(progress(line.is_on_terminal))


def _show(line: ProgressLine, progress: Callable[[bool], str]) -> None:
    line.show(progress(line.is_on_terminal))
