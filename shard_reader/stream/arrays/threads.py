"""The threads of a stream, which all images of a batch share."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from shard_reader.system.cpus import available_cpus

__all__ = ["Threads"]


class Threads:
    """A pool of threads, started when the first task comes.

    Args:
        count: number of threads; by default one for each CPU that this process may use.
    """

    def __init__(self, count: int | None) -> None:
        self.count = available_cpus() if count is None else count
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def submit(self, task: Callable[[], None]) -> Future[None]:
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
