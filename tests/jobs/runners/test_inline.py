"""Work without worker processes: an image that takes too long ends the attempt, with the words of worker processes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from beam_jobs.errors import JobError
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.runners.inline import inline_calls
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.output import PLAN

TASK = ShardTask(split="train", number=0, count=1, records=1, plan=PLAN + "all.jsonl", start=0, end=29)


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Calls of this process, all of which tests before may have stopped."""
    inline_calls.allow()


def test_an_image_that_takes_too_long_ends_the_attempt(job: Job) -> None:
    given_up, ended = threading.Event(), list[BaseException]()

    def hang(task: ShardTask, job: Job, statistics: Any, watcher: Watcher) -> None:
        watcher.decodes(0)
        given_up.wait()
        try:
            watcher.counts(1)
        except JobError as error:
            ended.append(error)
        given_up.clear()

    with pytest.raises(JobError, match=r"^0.png: is not decoded after --max-seconds 0.2; leave it out with --exclude"):
        inline_calls.do(hang, TASK, replace(job, max_seconds=0.2), None)
    given_up.set()
    while given_up.is_set():
        pass
    assert [str(error) for error in ended] == ["stopped"]


def test_results_and_errors_come_back(job: Job) -> None:
    assert inline_calls.do(lambda task, job, statistics, watcher: (task, statistics), TASK, job, 3) == (TASK, 3)

    def fail(*_: object) -> None:
        raise TimeoutError("of a store")

    with pytest.raises(TimeoutError, match="of a store"):
        inline_calls.do(fail, TASK, job, None)
