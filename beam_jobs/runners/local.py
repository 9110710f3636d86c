"""Running the pipeline on this machine, in processes of this project."""

from __future__ import annotations

import contextlib
import importlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.runners.beam_import import with_plain_labels, without_import_warnings
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.workers import Workers
from beam_jobs.terminal import is_verbose

__all__ = ["AddSteps", "import_beam_meanwhile", "is_local", "make_pipeline", "run_here", "temporary_files_in"]

AddSteps = Callable[[Any, str], None]
"""Adds steps to a Beam pipeline. The text is the id of the processes that do the work, "" for inline work."""

# All of Beam's names for "on this machine" mean the same here: one worker in memory, which passes its tasks on to the
# processes of `workers.py`.
_LOCAL_RUNNERS = (None, "DirectRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner", "FnApiRunner")
_HERE = {"runner": "FnApiRunner", "direct_num_workers": 1, "direct_running_mode": "in_memory"}


def is_local(beam_options: Mapping[str, Any]) -> bool:
    """Whether the job runs in processes of this machine, without an engine."""
    return beam_options.get("runner") in _LOCAL_RUNNERS


def import_beam_meanwhile() -> threading.Thread:
    """Import Beam in a thread. It takes half a second, in which the caller lists INPUT and waits for the sample."""

    def load() -> None:
        # An import that fails here fails again where it is needed, with its message.
        with contextlib.suppress(Exception), without_import_warnings():
            importlib.import_module("beam_jobs.runners.pipeline")

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    return thread


def run_here(
    add_steps: AddSteps,
    beam_options: Mapping[str, Any],
    workers: Workers | None,
    show_progress: Callable[[], None],
    scratch: Path,
) -> None:
    """Run a pipeline on this machine.

    Args:
        add_steps: adds the steps to the pipeline.
        beam_options: Beam's own options, by their names in `PipelineOptions`.
        workers: the processes; None to work in this one.
        show_progress: called ten times a second.
        scratch: a folder that is removed at the end, after a kill by the next job.

    Raises:
        JobError: the job failed.
    """
    # Errors are raised from here. Beam would print each of them as well, once for each of its layers.
    logging.getLogger("apache_beam").setLevel(logging.NOTSET if is_verbose() else logging.CRITICAL)
    # An earlier job of this process, on an engine, may have stopped all calls.
    inline_calls.allow()
    failures: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            # Beam makes temporary files when a pipeline is built, and a killed process would leave them.
            with temporary_files_in(str(scratch)):
                pipeline = make_pipeline(add_steps, {**beam_options, **_HERE}, workers.run if workers else "")
            pipeline.run()
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run)
    try:
        thread.start()
        # The event, not Thread.join: in CPython 3.11 an interrupted join marks the thread as ended while it still
        # runs, and the next join returns at once. OUTPUT would then be cleared up under a running pipeline.
        while not ended.wait(0.1):
            show_progress()
    except BaseException:
        if workers:
            # A JobError, not KeyboardInterrupt: Beam clears up only after errors derived from Exception.
            workers.stop(JobError("interrupted"))
        if thread.ident is not None:
            ended.wait()
        raise
    # Beam turns errors into text, with tracebacks in it. The processes have kept the original one.
    if workers and workers.error:
        raise workers.error
    if failures:
        said = str(failures[0]).strip().splitlines() or [type(failures[0]).__name__]
        raise JobError(f"the pipeline failed: {said[-1]}") from failures[0]


@contextlib.contextmanager
def temporary_files_in(place: str) -> Iterator[None]:
    """Make this process create its temporary files in a folder."""
    default, tempfile.tempdir = tempfile.tempdir, place
    try:
        yield
    finally:
        tempfile.tempdir = default


def make_pipeline(add_steps: AddSteps, beam_options: Mapping[str, Any], run: str, runner: Any = None) -> Any:
    """A Beam pipeline that is ready to run.

    Args:
        add_steps: adds the steps to the pipeline.
        beam_options: Beam's own options.
        run: the id of the processes that do the work; "" for inline work.
        runner: a runner to use instead of the one in the options.
    """
    # Imported here, not above: it takes a second, and worker processes, which import this module, do not need it.
    with without_import_warnings():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

    pipeline = beam.Pipeline(runner, PipelineOptions([], **beam_options))
    with with_plain_labels():
        add_steps(pipeline, run)
    return pipeline
