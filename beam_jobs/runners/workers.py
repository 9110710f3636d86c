"""The processes that do the work when a job runs on this machine.

Beam's local runner gets one worker, whose DoFns pass their tasks to these processes. The death of a process is an
error at once, which names the images it worked on. No process outlives the parent. Ctrl-C reaches the parent alone,
which ends the processes.
"""

# Beam's local runner has worker processes, too, but it hangs for ever when one of them is killed for its memory.
# `concurrent.futures` reports that a process died, and neither which one, nor of what, nor on which images. This pool
# knows all three, and it ends processes at once: the shards that they have not finished are worth nothing.

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from ctypes import Array, c_int64
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.images.decode import ignore_image_warnings
from beam_jobs.plan.tasks import ShardTask, reference_at
from beam_jobs.processes import ProcessDiedError, WorkerProcess, answer_all, end_with_parent, ready, signals_wait
from beam_jobs.shards.job import CLOCK_SECONDS, Job, Watcher, too_slow
from beam_jobs.sources.files.interface import Reference, Reject
from shard_reader.printable import printable
from shard_reader.storage.open import directory

__all__ = ["Workers", "workers_of"]

ShardFunction = Callable[[ShardTask, Job, Any, Watcher], Any]
"""Does a task of a job, given the statistics, reports to the watcher, and returns the result."""

_POLL_SECONDS = 0.1
_TRY_SECONDS = 120  # for a process to start and to read one image
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
# Beam pickles DoFns, and processes do not pickle: a DoFn carries the id of its run, and looks the processes up here.
_running: dict[str, Workers] = {}


def workers_of(run: str) -> Workers:
    """The processes of a run.

    Raises:
        JobError: the run is over.
    """
    if run not in _running:
        raise JobError("stopped")
    return _running[run]


class Workers:
    """A pool of processes that do tasks. Leaving its context ends them.

    Args:
        count: the number of processes. The attribute may be raised later.
        watcher: receives the progress of all processes, in the thread that waits for results. Its errors end the
            run. The attribute may be replaced.
        reject_crashers: whether an image that ends a process is rejected, and its shard begun again.

    Attributes:
        before_publishing: called before the dataset gets its manifest. It may raise to prevent that.
    """

    def __init__(self, count: int, watcher: Watcher, reject_crashers: bool = False) -> None:
        self.run = uuid.uuid4().hex
        self.error: BaseException | None = None
        self.count, self.watcher = count, watcher
        self.before_publishing: Callable[[], None] = lambda: None
        self._reject_crashers = reject_crashers
        self._processes: list[_ImageProcess] = []
        self._busy: dict[_ImageProcess, tuple[ShardTask, Job]] = {}

    def __enter__(self) -> Workers:
        _running[self.run] = self
        return self

    def __exit__(self, *_: object) -> None:
        del _running[self.run]
        try:
            self.end()
        except KeyboardInterrupt:
            # The command ignores signals after the first, so this second attempt runs to its end.
            self.end()
            raise

    def end(self) -> None:
        """End every process, and wait until it has."""
        self.stop(JobError("stopped"))
        for process in self._processes:
            process.end()

    def start(self) -> None:
        """Start the processes now, while there is other work to do. `do` would start them otherwise.

        Raises:
            JobError: a process cannot be started.
        """
        while len(self._processes) < self.count:
            self._start()

    def do(self, work: ShardFunction, tasks: Iterable[ShardTask], job: Job, statistics: Any = None) -> Iterator[Any]:
        """Do `work` with each task in the processes. Yields each result as it comes, in any order.

        Raises:
            JobError: the run was stopped, or a process died.
            Exception: the error of the work.
        """
        self.start()
        waiting = deque(tasks)
        idle, busy = list(self._processes), dict[_ImageProcess, tuple[ShardTask, Job]]()
        self._busy = busy
        looked = time.monotonic()
        while waiting or busy:
            self.check()
            while waiting and idle:
                process = idle.pop()
                busy[process] = waiting.popleft(), job
                process.send((work, *busy[process], statistics))
            if time.monotonic() - looked >= CLOCK_SECONDS:
                looked = time.monotonic()
                self._check_clocks()
            for process in ready(busy, _POLL_SECONDS):
                try:
                    done, value = process.receive()
                except ProcessDiedError:
                    task, _ = busy.pop(process)
                    job = self._without_crasher(process, task, job)
                    waiting.appendleft(task)
                    self._processes.remove(process)
                    process.end()
                    idle.append(self._start())
                    continue
                except BaseException as error:
                    self.stop(error)
                    raise
                if done:
                    del busy[process]
                    idle.append(process)
                    yield value
                else:
                    self._report(value)

    def in_work(self) -> list[str]:
        """The ids of the images that are being read or decoded."""
        busy = list(self._busy.items())
        return [reference.id for process, (task, job) in busy for reference in process.images(task, job)]

    def check(self) -> None:
        """Raise the error that has stopped the run, if there is one."""
        if self.error is not None:
            raise self.error

    def stop(self, error: BaseException) -> None:
        """End every process at once, and let `check` raise `error`. Unfinished tasks are lost."""
        self.error = self.error or error
        for process in list(self._processes):
            process.kill()

    def _check_clocks(self) -> None:
        """Stop the run at an image that is decoded for too long: in C code, which nothing else would end."""
        for process, (task, job) in self._busy.items():
            position = process.overdue(task, job.max_seconds)
            if position is not None:
                error = too_slow(reference_at(directory(job.output), task, position).id, job.max_seconds)
                self.stop(error)
                raise error

    def _start(self) -> _ImageProcess:
        self.check()
        # An interrupt between these two lines would leave a process that nobody ends.
        with signals_wait():
            process = _ImageProcess()
            self._processes.append(process)
        return process

    def _report(self, report: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = report
        try:
            getattr(self.watcher, name)(*arguments)
        except BaseException as error:
            self.stop(error)
            raise

    def _without_crasher(self, process: _ImageProcess, task: ShardTask, job: Job) -> Job:
        """The job, with the images added to its rejects that end a process.

        Raises:
            JobError: crashers are not to be rejected, or no suspect ends a process by itself.
        """
        self.check()
        # The threads of a process work on several images at a time, and any of them may have ended it, as may a lack
        # of memory. So each suspect is tried in a process of its own: only an image that ends it by itself, and will
        # do so again, may be a reject.
        why, suspects = process.cause_of_death(), process.images(task, job)
        named = ", ".join(printable(reference.id) for reference in suspects) or "none"
        if self._reject_crashers:
            crashers = {reference.id: cause for reference in suspects if (cause := _crash(reference, job))}
            if crashers:
                return replace(job, crashers={**job.crashers, **crashers})
        advice = "try fewer --workers" if "memory" in why else "leave the image out with --reject-crashers"
        if self._reject_crashers:
            advice = "none of them ends a process by itself, so that none is rejected; try fewer --workers"
        error = JobError(f"a worker process died ({why}). The images it was on: {named}. Possible remedy: {advice}")
        self.stop(error)
        raise error


class _ImageProcess(WorkerProcess):
    """A worker process, with the positions of the images that it is working on."""

    def __init__(self) -> None:
        # Shared memory without a lock, since a killed process would keep one. The positions in work lie close to each
        # other, so that no two threads write to the same one of the 1,024 numbers. A position from 1 is negative while
        # its image is decoded: to wait for a store, or for a turn, is not the image's fault.
        self._current = RawArray(c_int64, 1024)
        self._seen: dict[tuple[ShardTask, int], float] = {}  # images that are decoded, and since when at the latest
        super().__init__(_serve, self._current)

    def images(self, task: ShardTask, job: Job) -> list[Reference]:
        """The images of a task that were in work when the process died."""
        positions = sorted({abs(position) - 1 for position in self._current if position})
        return [reference_at(directory(job.output), task, position) for position in positions]

    def overdue(self, task: ShardTask, seconds: float) -> int | None:
        """The position of an image of a task that is decoded for longer than `seconds`, or None."""
        now = time.monotonic()
        decoded = [(task, -position - 1) for position in self._current if position < 0]
        self._seen = {image: self._seen.get(image, now) for image in decoded}
        return next((position for (_, position), since in self._seen.items() if now - since > seconds), None)


def _crash(reference: Reference, job: Job) -> str | None:
    """How an image by itself ends a process; None if it does not."""
    with signals_wait():
        process = WorkerProcess(_try)
    try:
        process.send((reference, job))
        if not ready([process], _TRY_SECONDS + job.max_seconds):
            raise too_slow(reference.id, job.max_seconds)
        with contextlib.suppress(ProcessDiedError):
            process.receive()
            return None
        return f"ends the process that decodes it ({process.cause_of_death()})"
    finally:
        process.end()


def _serve(pipe: Connection, current: Array[c_int64]) -> None:
    """Do tasks in a worker process, until it is ended."""
    _settle()
    answer_all(pipe, functools.partial(_do, _Reporter(pipe, current)))


def _do(reporter: _Reporter, message: tuple[ShardFunction, ShardTask, Job, Any]) -> Any:
    """The result of a task. Every error becomes one that pickles and has a text for the user."""
    work, task, job, statistics = message
    try:
        result = work(task, job, statistics, reporter)
        reporter.tell()
    except MemoryError:
        raise JobError("a worker process has no memory left: try fewer --workers") from None
    except JobError:
        raise
    except Exception as error:
        raise JobError(f"{type(error).__name__}: {error}") from error
    return result


def _try(pipe: Connection) -> None:
    """Decode one image, in a process that was started for it alone."""
    from beam_jobs.shards.records.record import prepare_reference

    _settle()
    reference, job = pipe.recv()
    with contextlib.suppress(Exception):
        prepare_reference(reference, job, None)
    pipe.send(("result", None))


def _settle() -> None:
    """Be quiet, give back memory, and end with the parent."""
    ignore_image_warnings()
    _give_back_memory()
    # Image libraries in C print their warnings straight to file descriptor 2. Errors are returned as well.
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    end_with_parent()


def _give_back_memory() -> None:
    """Let glibc return the memory of large images to the system at once. See mallopt(3)."""
    # By default glibc raises both thresholds with the largest block that was freed, and keeps as much from then on. So
    # one large image would cost each process its size for the rest of the job.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)


class _Reporter(Watcher):
    """Reports to the parent: rejects at once, other images ten times a second."""

    def __init__(self, pipe: Connection, current: Array[c_int64]) -> None:
        self._pipe, self._current = pipe, current
        self._untold, self._told = 0, time.monotonic()

    def begins(self, position: int) -> None:
        self._current[position % len(self._current)] = position + 1

    def decodes(self, position: int) -> None:
        self._current[position % len(self._current)] = -(position + 1)

    def ends(self, position: int) -> None:
        self._current[position % len(self._current)] = 0

    def counts(self, images: int, reject: Reject | None = None) -> None:
        self._untold += images
        if reject is not None or time.monotonic() - self._told >= _POLL_SECONDS:
            self.tell(reject)

    def tell(self, reject: Reject | None = None) -> None:
        """Send the images that were counted since the last report."""
        self._pipe.send(("report", ("counts", (self._untold, reject))))
        self._untold, self._told = 0, time.monotonic()

    def keeps(self, images: int, rejected: int) -> None:
        self._pipe.send(("report", ("keeps", (images, rejected))))
