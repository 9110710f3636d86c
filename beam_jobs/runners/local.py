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
from beam_jobs.runners.beam_import import without_import_warnings
from beam_jobs.runners.inline import inline_calls
from beam_jobs.runners.workers import Workers

__all__ = ["AddSteps", "import_beam_meanwhile", "is_local", "make_pipeline", "run_here", "temporary_files_in"]

AddSteps = Callable[[Any, str], None]
"""Adds steps to a Beam pipeline; the text names the processes that do the work, "" where it is done inline."""

# "DirectRunner" is Beam's name for "on this machine"; what it does there is decided here.
_LOCAL_RUNNERS = (None, "DirectRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner", "FnApiRunner")
_HERE = {"runner": "FnApiRunner", "direct_num_workers": 1, "direct_running_mode": "in_memory"}


def is_local(beam_options: Mapping[str, Any]) -> bool:
    """Whether the job runs in processes of this machine, without an engine."""
    return beam_options.get("runner") in _LOCAL_RUNNERS


def import_beam_meanwhile() -> None:
    """Import Beam in a thread: it takes half a second, in which this one lists INPUT and waits for the sample."""

    def load() -> None:
        with contextlib.suppress(Exception), without_import_warnings():  # what fails, fails again where it is needed
            importlib.import_module("beam_jobs.runners.pipeline")

    threading.Thread(target=load, daemon=True).start()


def run_here(
    add_steps: AddSteps,
    beam_options: Mapping[str, Any],
    workers: Workers | None,
    show_progress: Callable[[], None],
    scratch: Path,
) -> None:
    """Run a pipeline on this machine.

    Args:
        add_steps: adds what there is to do.
        beam_options: Beam's own, by their names in `PipelineOptions`.
        workers: the processes; None to work in this one.
        show_progress: is called some times a second.
        scratch: a folder that is removed at the end, if need be by the next job.

    Raises:
        JobError: the job failed.
    """
    # What fails here is raised here; Beam would also print it, once for each of its layers.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    inline_calls.allow()  # a job of this process on an engine may have stopped it
    failures: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            with temporary_files_in(str(scratch)):  # Beam's files, which a process that is killed would leave
                pipeline = make_pipeline(add_steps, {**beam_options, **_HERE}, workers.run if workers else "")
            pipeline.run()
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run)
    try:
        thread.start()
        # Not Thread.join: interrupted, it takes the thread for ended (CPython 3.11), and it is not.
        while not ended.wait(0.1):
            show_progress()
    except BaseException:
        if workers:
            workers.stop(JobError("interrupted"))  # an Exception: Beam clears up after no other kind
        if thread.ident is not None:
            ended.wait()
        raise
    if workers and workers.error:  # as it was: Beam turns errors into text
        raise workers.error
    if failures:
        said = str(failures[0]).strip().splitlines() or [type(failures[0]).__name__]
        raise JobError(f"the pipeline failed: {said[-1]}") from failures[0]  # without the traceback in Beam's text


@contextlib.contextmanager
def temporary_files_in(place: str) -> Iterator[None]:
    """Have Python make temporary files there, in this process."""
    before, tempfile.tempdir = tempfile.tempdir, place
    try:
        yield
    finally:
        tempfile.tempdir = before


def make_pipeline(add_steps: AddSteps, beam_options: Mapping[str, Any], run: str, runner: Any = None) -> Any:
    """A Beam pipeline that is ready to run.

    Args:
        add_steps: adds what there is to do.
        beam_options: Beam's own.
        run: names the processes that do the work; "" where it is done inline.
        runner: if it is another than the options name.
    """
    with without_import_warnings():  # imported here: it takes a second, and the worker processes do without it
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

    pipeline = beam.Pipeline(runner, PipelineOptions([], **beam_options))
    add_steps(pipeline, run)
    return pipeline
