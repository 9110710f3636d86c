"""The pipeline of an `EngineMap`: files of tasks, tasks, results. Only numbers and tasks cross a shuffle.

```
EngineRun ── ListTasks ── number of a file ── ReadTasks ── task ── DoTasks ── number of a result in PLACE
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam

from beam_jobs.generations.checks.engine_run import EngineRun

__all__ = ["build"]


def build(pipeline: beam.Pipeline, run: EngineRun, work: Callable[[Any], Any]) -> None:
    """Add the work on all tasks to `pipeline`."""
    numbers = pipeline | beam.Create([run], reshuffle=False) | "ListTasks" >> beam.FlatMap(_files) | beam.Reshuffle()
    tasks = numbers | "ReadTasks" >> beam.FlatMap(_tasks, run) | "Spread" >> beam.Reshuffle()
    _ = tasks | "DoTasks" >> beam.Map(_do, run, work)


def _files(run: EngineRun) -> Iterator[int]:
    yield from range(run.files)


def _tasks(number: int, run: EngineRun) -> Iterator[tuple[int, Any]]:
    yield from run.read_tasks(number)


def _do(task: tuple[int, Any], run: EngineRun, work: Callable[[Any], Any]) -> int:
    return run.do(work, task)
