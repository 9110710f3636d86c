"""The threads of a stream, which all images of a batch share."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from shard_reader.system.cpus import cpus_of_this_rank

__all__ = ["CallingThread", "Task", "Threads"]


class Task(Protocol):
    """Work under way."""

    def result(self) -> None:
        """Wait until it is done; raises its error."""

    def cancel(self) -> bool:
        """Drop it, unless it has begun."""


class Threads:
    """A pool of threads, started when the first task comes.

    Args:
        count: number of threads; by default one for each CPU of this rank.
    """

    def __init__(self, count: int | None) -> None:
        self.count = cpus_of_this_rank() if count is None else count
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def submit(self, task: Callable[[], None]) -> Task:
        """Have a thread do a task."""
        try:
            return self._running().submit(task)
        except RuntimeError:
            # Python is at its end, and its pools take no more tasks. A thread that is still in a loop, which Python
            # waits for, does them by itself: otherwise it would lose its batches, and the process end with status 0.
            done: Future[None] = Future()
            task()
            done.set_result(None)
            return done

    def close(self) -> None:
        """Stop the threads; the next task starts new ones."""
        # After a fork the pool's threads are the parent's: a shutdown would wait for a lock that they may hold.
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown(wait=False, cancel_futures=True)
        self._pool = None

    def _running(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = (os.getpid(), ThreadPoolExecutor(self.count, "shard_reader"))
        return self._pool[1]


class CallingThread(Threads):
    """No thread: a task is done by the thread that asks for its result, when it asks."""

    # A process for itself has nothing to gain from a second thread, and would pay for every change between the two.

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, task: Callable[[], None]) -> Task:
        return _Deferred(task)


class _Deferred:
    def __init__(self, task: Callable[[], None]) -> None:
        self._task: Callable[[], None] | None = task

    def result(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task()

    def cancel(self) -> bool:
        self._task = None
        return True
