"""The processes on this machine: results, errors, and stragglers."""

from __future__ import annotations

from typing import Any

import pytest

from beam_jobs.errors import JobError
from beam_jobs.pool import Workers, workers_of
from beam_jobs.sources import Reject


def double(value: int, on_image: Any) -> int:
    on_image(Reject("id" * 5000, "uri" * 5000, "read", "damaged", "message" * 5000) if value % 2 else None)
    return 2 * value


def exhaust(value: int, on_image: Any) -> int:
    raise MemoryError


def test_results_and_reports_arrive() -> None:
    seen: list[Reject | None] = []
    with Workers(2, seen.append) as workers:
        assert workers_of(workers.run) is workers
        results = workers.collect([workers.submit(double, value) for value in range(20)])
        assert sorted(results) == list(range(0, 40, 2))
    assert len(seen) == 20
    assert sum(reject is not None for reject in seen) == 10


def test_no_memory_is_an_error_with_advice() -> None:
    with Workers(1, lambda reject: None) as workers, pytest.raises(JobError, match="try fewer --workers"):
        list(workers.collect([workers.submit(exhaust, 1)]))


def test_what_a_report_raises_ends_the_run() -> None:
    def refuse(reject: Reject | None) -> None:
        raise JobError("too many")

    with Workers(1, refuse) as workers, pytest.raises(JobError, match="too many"):
        for _ in range(10_000):
            list(workers.collect([workers.submit(double, 1)]))


def test_a_straggler_of_a_run_that_is_over_is_stopped() -> None:
    with Workers(1, lambda reject: None) as workers:
        pass
    with pytest.raises(JobError, match="stopped"):
        workers_of(workers.run)
