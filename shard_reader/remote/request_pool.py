"""Threads for requests: urgent requests first, with a bound on the bytes under way."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["RequestPool", "is_wanted", "own_pool"]

_T = TypeVar("_T")
_IDLE_SECONDS = 10.0  # the time after which a thread without work ends
_here = threading.local()


class RequestPool:
    """A pool of threads that wait for a store's answers.

    Threads take urgent tasks first. A future that is cancelled while its call is under way is cancelled at once; the
    call goes on, and its result is dropped.

    Args:
        threads: the most requests under way.
        most_bytes: the most bytes under way; a request for more goes alone.
    """

    # The threads are daemons of this project's own, since those of `concurrent.futures` keep Python from exiting until
    # a store answers, and an unreachable one may take minutes.

    def __init__(self, threads: int, most_bytes: int) -> None:
        self._threads, self._most_bytes = threads, most_bytes
        self._tasks: list[tuple[int, int, int, Future[Any], Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._started = self._idle = self._bytes = 0
        self._is_closed = False

    def submit(self, call: Callable[[], _T], *, size: int, urgent: bool) -> Future[_T]:
        """Have a thread make a call that will fetch `size` bytes.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[_T] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the pool is closed")
            heapq.heappush(self._tasks, (not urgent, next(self._numbers), size, future, call))
            self._find_thread()
            is_alone = self._started == 0
        if is_alone:
            self._work_here()
        return future

    def close(self) -> None:
        """Cancel the tasks that have not begun. Threads end after their current one."""
        with self._changed:
            self._is_closed = True
            tasks, self._tasks = self._tasks, []
            self._changed.notify_all()
        for *_, future, _call in tasks:
            future.cancel()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            size, future, call = task
            del task
            try:
                if not future.cancelled():
                    _here.task = self, future
                    _settle(future, call)
            finally:
                _here.task = None
                del future, call  # a waiting thread must not keep the result alive
                with self._changed:
                    self._bytes -= size
                    self._changed.notify()

    def _work_here(self) -> None:
        """Do the tasks in the thread that submits them, where no other can be started."""
        while True:
            with self._changed:
                if not self._tasks:
                    return
                *_, future, call = heapq.heappop(self._tasks)
            if not future.cancelled():
                _settle(future, call)

    def _next(self) -> tuple[int, Future[Any], Callable[[], Any]] | None:
        """The next task, once there is room for it; None when the pool is closed, or the thread was idle for long."""
        with self._changed:
            while not (self._tasks and self._fits(self._tasks[0][2])):
                if self._is_closed:
                    return None
                self._idle += 1
                try:
                    was_told = self._changed.wait(_IDLE_SECONDS)
                finally:
                    self._idle -= 1
                if not was_told and not self._tasks:
                    self._started -= 1
                    return None
            _, _, size, future, call = heapq.heappop(self._tasks)
            self._bytes += size
            if self._tasks:
                self._find_thread()  # there may be room for another one
            return size, future, call

    def _find_thread(self) -> None:
        """Have a thread take the next task: an idle thread or, if there is room for the bytes, a new one."""
        # A thread that was woken for a task, and has not taken it yet, still counts as idle: hence more tasks than
        # idle.
        if len(self._tasks) > self._idle and self._started < self._threads and self._fits(self._tasks[0][2]):
            thread = threading.Thread(target=self._work, name="shard_reader-fetch", daemon=True)
            with suppress(RuntimeError):  # Python is at its end, and starts no threads: see `submit`
                thread.start()
                self._started += 1
        self._changed.notify()

    def _fits(self, size: int) -> bool:
        return self._bytes == 0 or self._bytes + size <= self._most_bytes


def own_pool() -> RequestPool | None:
    """The pool of this thread, if it belongs to one."""
    task: tuple[RequestPool, Future[Any]] | None = getattr(_here, "task", None)
    return task and task[0]


def is_wanted() -> bool:
    """Whether somebody waits for the task of this thread; true for threads outside of pools."""
    task: tuple[RequestPool, Future[Any]] | None = getattr(_here, "task", None)
    return task is None or not (task[0]._is_closed or task[1].cancelled())


def _settle(future: Future[_T], call: Callable[[], _T]) -> None:
    with suppress(InvalidStateError):  # the future was cancelled
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
