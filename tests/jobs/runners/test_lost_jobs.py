"""A job on an engine whose OUTPUT another job has taken: it is cancelled there, and ends with that error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from beam_jobs.errors import LostJobError
from beam_jobs.runners import engines

WORDS = "OUTPUT x: another job has taken the lock"


class Result:
    """A job that runs until it is cancelled."""

    def __init__(self, end: Callable[[], None], failures: int) -> None:
        self._end, self._failures = end, failures
        self.cancels = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancels += 1
        if self.cancels <= self._failures:
            raise ConnectionError("no network")
        self._cancelled.set()

    def wait_until_finish(self) -> None:
        assert self._cancelled.wait(60)
        self._end()


def done() -> None:
    """The end of a job, as some engines see one that was cancelled."""


def failed() -> None:
    """The end, as others see it."""
    raise RuntimeError("the job was cancelled")


@pytest.mark.parametrize("end", [done, failed])
@pytest.mark.parametrize("failures", [0, 2])
def test_a_job_that_has_lost_its_output_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[], None], failures: int
) -> None:
    result = Result(end, failures)
    monkeypatch.setattr(engines, "_PROGRESS_SECONDS", 0.01)
    monkeypatch.setattr(engines, "make_pipeline", lambda *_: SimpleNamespace(run=lambda: result))
    looks: list[int] = []

    def progress() -> str:
        looks.append(1)
        if len(looks) == 1:
            raise OSError("the store is away for a moment")
        raise LostJobError(WORDS)

    def add_steps(*_: Any) -> None:
        raise AssertionError("no pipeline is made")

    with pytest.raises(LostJobError, match=WORDS):
        engines.run_on_engine(add_steps, {"runner": "FnApiRunner"}, progress)
    assert result.cancels == failures + 1
