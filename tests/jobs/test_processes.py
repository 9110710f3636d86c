"""Simple work in several processes: in order, and ended when nobody waits for it or one dies."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

from beam_jobs.errors import JobError
from beam_jobs.processes import in_parallel


def die(task: int) -> int:
    os._exit(task)


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(JobError, match="a worker process died"):
        list(in_parallel(die, [3, 4], 2))


def test_work_in_parallel_is_in_order() -> None:
    assert list(in_parallel(abs, [-3, 2, -1], 2)) == list(in_parallel(abs, [-3, 2, -1], 1)) == [3, 2, 1]


def test_work_that_nobody_waits_for_is_ended() -> None:
    results = in_parallel(time.sleep, [0, 60, 60], 2)
    assert next(results) is None
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
