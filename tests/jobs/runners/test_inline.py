"""Work without worker processes: an image that takes too long ends the attempt, with the words of worker processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import JobError
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.runners.inline import inline_calls
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.output import PLAN, Work
from beam_jobs.sources.files.interface import SourceOptions

TASK = ShardTask(split="train", number=0, count=1, records=1, plan=PLAN + "all.jsonl", start=0, end=29)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    inline_calls.allow()  # tests before may have stopped all calls of this process
    (tmp_path / PLAN).mkdir(parents=True)
    (tmp_path / PLAN / "all.jsonl").write_text('["0.png", 3, null, {}, null]\n')
    return Job(
        source=SourceOptions(input=str(tmp_path)),
        output=str(tmp_path),
        work=Work("x"),
        image=parse(["prepare", "in", "out"]).image,
        formats=(),
        fields={},
        boxes={},
        points={},
        count_classes=False,
        threads=1,
        max_seconds=0.2,
    )


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
        inline_calls.do(hang, TASK, job, None)
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
