"""Processes of this machine: what those of all commands have in common, and simple work in several of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from beam_jobs.errors import JobError

__all__ = ["end_with_parent", "in_parallel", "signals_wait"]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Keep what a terminal or a batch system sends waiting, in this process for a moment.

    A process that is started here never hears it: a blocked signal stays blocked in a child.
    """
    resource_tracker.ensure_running()  # which is started with the first process, and lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have this process end when the one that started it has, however that came."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def in_parallel(work: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int) -> Iterator[_Result]:
    """The result of each task, in order, from so many processes; from this one if one is enough.

    Raises:
        JobError: a process died.
        Exception: what the work raised.
    """
    count = min(workers, len(tasks))
    if count <= 1:
        yield from map(work, tasks)
        return
    processes = list[_Process]()
    try:
        for _ in range(count):
            with signals_wait():
                processes.append(_Process(work))
        yield from _in_order([process.pipe for process in processes], tasks)
    finally:
        for process in processes:
            process.end()


class _Process:
    """A process that does one task after the other. It shares a pipe with this one, and no lock."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, work), daemon=True)
        self._process.start()
        other.close()  # so that the pipe ends when the process does

    def end(self) -> None:
        self._process.kill()  # what it has not finished, nobody waits for any more
        self._process.join()
        self.pipe.close()


def _in_order(pipes: Sequence[Connection], tasks: Sequence[_Task]) -> Iterator[Any]:
    idle, busy, done = list(pipes), dict[Connection, int](), dict[int, Any]()
    sent = given = 0
    while given < len(tasks):
        while idle and sent < len(tasks):
            pipe = idle.pop()
            with contextlib.suppress(OSError):  # it has died, as `_receive` will say
                pipe.send(tasks[sent])
            busy[pipe] = sent
            sent += 1
        for ready in connection.wait(list(busy)):
            pipe = next(pipe for pipe in busy if pipe is ready)
            done[busy.pop(pipe)] = _receive(pipe)
            idle.append(pipe)
        while given in done:
            yield done.pop(given)
            given += 1


def _receive(pipe: Connection) -> Any:
    try:
        is_result, value = pipe.recv()
    except (EOFError, OSError):
        raise JobError(
            "a worker process died, perhaps for want of memory; try fewer --workers. If this was called from a script,"
            " guard it with `if __name__ == '__main__'`, which spawned processes need"
        ) from None
    if not is_result:
        raise value
    return value


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    end_with_parent()
    with contextlib.suppress(EOFError):
        while True:
            task = pipe.recv()
            try:
                answer = True, work(task)
            except Exception as error:
                answer = False, error
            pipe.send(answer)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
