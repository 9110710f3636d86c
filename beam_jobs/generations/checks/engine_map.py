"""Work on the shards of a dataset as a Beam job on an engine: the same functions, a shard an element.

Tasks and results are files in a place that the workers and this command see, since neither an element of a pipeline nor
the memory of one machine holds those of all shards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.generations.checks.engine_run import EngineRun
from beam_jobs.runners.engines import check_engine, check_places, run_on_engine
from beam_jobs.runners.local import AddSteps, is_local
from beam_jobs.terminal import print_status
from shard_reader.storage.open import directory, is_url

__all__ = ["EngineMap", "engine_map", "on_engine"]

Runs = Callable[[AddSteps, Mapping[str, Any], Callable[[], str]], None]


@dataclass(frozen=True, slots=True)
class EngineMap:
    """Does work on an engine: a `ParallelMap`.

    Args:
        beam: Beam's options, as `check_engine` gives them.
        place: a folder that the workers and this process see.
        run: runs a pipeline.
    """

    beam: Mapping[str, Any]
    place: str
    run: Runs = run_on_engine

    def __call__(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        """The result of each task, in order.

        Raises:
            JobError: the job failed.
            Exception: the error of a task.
        """
        name = f"image-shards-{uuid.uuid4().hex}"
        run = EngineRun(f"{self.place}/{name}", len(tasks), secrets.token_bytes(32))
        try:
            run.write_tasks(tasks)

            def add(pipeline: Any, _: str) -> None:
                from beam_jobs.generations.checks.map_pipeline import build  # which imports Beam

                build(pipeline, run, work)

            if tasks:
                self.run(add, self.beam, lambda: f"{run.finished()} of {run.tasks} shards looked at")
            yield from run.results()
        finally:
            directory(self.place).delete_folder(name)


@contextlib.contextmanager
def engine_map(beam: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[EngineMap]:
    """A map on the engine that Beam's options name.

    Tasks and results are in `--temp_location`, or in a folder of this machine where the workers see it.

    Args:
        beam: Beam's options.
        places: the places that the workers read, by their names on the command line.

    Raises:
        UsageError: the workers do not see a place, or an option does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="image-shards-") as here:
        place = str(beam.get("temp_location") or here).rstrip("/")
        check_places(beam, {**places, "--temp_location": place})
        yield EngineMap(check_engine(beam), place if is_url(place) else os.path.abspath(place))


@contextlib.contextmanager
def on_engine(beam: Mapping[str, Any], workers: int, place: str) -> Iterator[int | EngineMap]:
    """The way to do work that a command line asks for: processes of this machine, or an engine.

    Args:
        beam: Beam's options.
        workers: the number of processes.
        place: the dataset.
    """
    if is_local(beam):
        yield workers
        return
    with engine_map(beam, {"DATASET": place}) as found:
        print_status(f"{place}: each shard is looked at on {beam['runner']}")
        yield found
