"""The processes on this machine: results, reports, errors, and what they die of."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from beam_jobs.errors import JobError
from beam_jobs.plan.tasks import ShardTask
from beam_jobs.runners.workers import Workers, workers_of
from beam_jobs.shards.job import Job, Watcher
from beam_jobs.shards.output import PLAN
from beam_jobs.sources import Reject


class Seen(Watcher):
    def __init__(self) -> None:
        self.images = self.rejects = self.kept = 0

    def counts(self, images: int, reject: Reject | None = None) -> None:
        self.images += images
        self.rejects += reject is not None

    def keeps(self, images: int, rejected: int) -> None:
        self.kept += images


class Refusing(Watcher):
    def counts(self, images: int, reject: Reject | None = None) -> None:
        raise JobError("too many")


def tasks(count: int) -> list[ShardTask]:
    plan = {"plan": PLAN + "all.jsonl", "start": 0, "end": 58}
    return [ShardTask(split="train", number=n, count=count, records=2, **plan) for n in range(count)]  # type: ignore[arg-type]


def double(task: ShardTask, job: Job, statistics: Any, watcher: Watcher) -> int:
    if task.number % 2:
        watcher.counts(1, Reject("id" * 5000, "uri" * 5000, "read", "damaged", "message" * 5000))
    watcher.keeps(1, 0)
    return 2 * task.number


def exhaust(task: ShardTask, job: Job, statistics: Any, watcher: Watcher) -> int:
    raise MemoryError


def fail(task: ShardTask, job: Job, statistics: Any, watcher: Watcher) -> int:
    raise KeyError("what a library might raise")


def die(task: ShardTask, job: Job, statistics: int, watcher: Watcher) -> int:
    """End the process that this runs in, on the second image, as a decoder would."""
    watcher.begins(0)
    watcher.ends(0)
    watcher.begins(1)
    if statistics < 0:
        os._exit(-statistics)
    os.kill(os.getpid(), statistics)
    return 0


def hang(task: ShardTask, job: Job, statistics: Any, watcher: Watcher) -> int:
    """Decode the second image for ever, in C code that lets no other thread run."""
    watcher.begins(0)
    watcher.begins(1)
    watcher.decodes(1)
    ctypes.PyDLL(None).sleep(1000)
    return 0


def wait(task: ShardTask, job: Job, statistics: Any, watcher: Watcher) -> int:
    """Wait for a store, or for a turn, longer than an image may take."""
    watcher.begins(0)
    time.sleep(2)
    return 1


def test_an_image_that_takes_too_long_fails_the_run_and_is_named(job: Job) -> None:
    slow = replace(job, max_seconds=0.5)
    with Workers(2, Watcher()) as workers, pytest.raises(JobError) as caught:
        list(workers.do(hang, tasks(2), slow))
    assert str(caught.value) == (
        "1.png: is not decoded after --max-seconds 0.5; leave it out with --exclude FILE, a file of such ids, one a"
        " line, or allow more"
    )


def test_waiting_is_no_fault_of_an_image(job: Job) -> None:
    with Workers(1, Watcher()) as workers:
        assert list(workers.do(wait, tasks(1), replace(job, max_seconds=0.1))) == [1]


def test_the_images_in_work_have_names(job: Job) -> None:
    with Workers(1, Watcher()) as workers:
        results = threading.Thread(target=lambda: list(workers.do(wait, tasks(1), job)))
        results.start()
        while not (named := workers.in_work()):
            time.sleep(0.01)
        results.join()
    assert named == ["0.png"]


def test_results_and_reports_arrive(job: Job) -> None:
    seen = Seen()
    with Workers(2, seen) as workers:
        assert workers_of(workers.run) is workers
        assert sorted(workers.do(double, tasks(20), job)) == list(range(0, 40, 2))
        assert list(workers.do(double, tasks(1), job)) == [0]
        assert list(workers.do(double, [], job)) == []
    assert (seen.images, seen.rejects, seen.kept) == (10, 10, 21)


@pytest.mark.parametrize(
    ("work", "message"), [(exhaust, "try fewer --workers"), (fail, "KeyError: 'what a library might raise'")]
)
def test_what_the_work_raises_is_raised(job: Job, work: Any, message: str) -> None:
    with Workers(1, Watcher()) as workers, pytest.raises(JobError, match=message):
        list(workers.do(work, tasks(1), job))


def test_what_a_report_raises_ends_the_run(job: Job) -> None:
    with Workers(2, Refusing()) as workers:
        with pytest.raises(JobError, match="too many"):
            list(workers.do(double, tasks(50), job))
        with pytest.raises(JobError, match="too many"):
            workers.check()


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (signal.SIGSEGV, r"died \(SIGSEGV\).*leave the image out with --reject-crashers"),
        (signal.SIGKILL, r"died \(SIGKILL, by the system for want of memory, or by hand\).*try fewer --workers"),
        (-3, r"died \(exit status 3\)\..*"),
    ],
)
def test_a_process_that_dies_is_an_error_that_names_the_image(job: Job, ending: int, message: str) -> None:
    with Workers(2, Watcher()) as workers:
        with pytest.raises(JobError, match=message) as caught:
            list(workers.do(die, tasks(3), job, ending))
        assert "The images it was on: 1.png." in str(caught.value)


def test_an_image_that_ends_no_process_by_itself_is_not_rejected(job: Job) -> None:
    with Workers(1, Watcher(), reject_crashers=True) as workers, pytest.raises(JobError, match="none is rejected"):
        list(workers.do(die, tasks(1), job, int(signal.SIGKILL)))


def test_a_straggler_of_a_run_that_is_over_is_stopped(job: Job) -> None:
    with Workers(1, Watcher()) as workers:
        pass
    with pytest.raises(JobError, match="stopped"):
        workers_of(workers.run)
    with pytest.raises(JobError, match="stopped"):
        list(workers.do(double, tasks(1), job))
