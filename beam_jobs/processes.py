"""Processes of this machine: a worker that answers messages, and a parallel map over several of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from beam_jobs.errors import JobError
from beam_jobs.signals import INTERRUPTS

__all__ = [
    "ParallelMap",
    "ProcessDiedError",
    "WorkerProcess",
    "answer_all",
    "end_with_parent",
    "in_parallel",
    "ready",
    "signals_wait",
]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
_Process = TypeVar("_Process", bound="WorkerProcess")

_starting = threading.Lock()

ParallelMap = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Gives the result of some work for each task, in order, wherever it is done. Work and tasks are pickled."""


class ProcessDiedError(Exception):
    """A worker process ended before its task did."""


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Hold back the signals of a terminal or a batch system while a process is started.

    This process receives them at the end. A process that is started within never receives them.
    """
    # A blocked signal stays blocked in a child, so that Ctrl-C reaches the parent alone, which ends the children.
    # Python starts its resource tracker with the first process, and unblocks SIGINT in doing so: it is started before.
    resource_tracker.ensure_running()
    # Another thread, as of a library in C, may receive what is blocked in this one. Python then calls the handler in
    # the main thread, where an error would leave a process with half of its arguments.
    held, handlers = list[int](), dict[signal.Signals, Any]()
    if threading.current_thread() is threading.main_thread():
        for number in INTERRUPTS:
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda received, _: held.append(received))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for received in held:
            signal.raise_signal(received)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module from a process that is started, which would import it, as `spawn` does."""
    # The work of these processes lies in modules. A script without a guard would run again in each of them, and a
    # notebook has no file to import.
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class WorkerProcess:
    """A process that does one task after the other, and the pipe to it.

    Args:
        serve: runs in the process, with its end of the pipe and the arguments.
        arguments: further arguments of `serve`.

    Raises:
        JobError: the process cannot be started.
    """

    # Each process has a pipe of its own, and shares no lock with anybody: a killed process keeps the locks that it
    # holds. With a queue or an event in place of the pipes, one killed worker in three hung the job.
    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, *arguments), daemon=True)
        try:
            with _without_main():
                self._process.start()
        except OSError as error:
            raise JobError(f"a worker process cannot be started ({error.strerror})") from error
        finally:
            other.close()  # otherwise the pipe would stay open when the process ends

    def send(self, message: Any) -> None:
        """Send a message. If the process has ended, `receive` raises the error."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(message)

    def receive(self) -> tuple[bool, Any]:
        """Receive a message: True and the result of the task, or False and a report of its progress.

        Raises:
            ProcessDiedError: the process has ended.
            Exception: the error of the task.
        """
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):  # OSError: the process ended in the middle of a message
            raise ProcessDiedError from None
        if kind == "error":
            raise value
        return kind == "result", value

    def cause_of_death(self) -> str:
        """The signal or the exit status that ended the process."""
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"{name}, by the system for want of memory, or by hand" if -code == signal.SIGKILL else name
        return f"exit status {code}"

    def kill(self) -> None:
        """End the process at once. Its unfinished task is lost."""
        with contextlib.suppress(ValueError):  # the process is closed already
            self._process.kill()

    def end(self) -> None:
        """End the process, and wait until it has ended."""
        self.kill()
        self._process.join()
        self.pipe.close()


def ready(processes: Iterable[_Process], seconds: float | None = None) -> list[_Process]:
    """Wait up to `seconds` for processes that have sent a message or have ended, and return them."""
    by_pipe = {process.pipe: process for process in processes}
    return [by_pipe[pipe] for pipe in connection.wait(list(by_pipe), seconds)]  # type: ignore[index]


def answer_all(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Answer each message with the result of `work`, or its error, until the pipe ends. For worker processes."""
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        try:
            answer = "result", work(message)
        except Exception as error:
            answer = "error", error
        pipe.send(answer)


def end_with_parent() -> None:
    """End this process when its parent has ended for any reason."""
    # A killed parent cannot end its children, and a process that is busy in C code does not read its pipe.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def in_parallel(
    work: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int | ParallelMap
) -> Iterator[_Result]:
    """The result of each task, in order.

    Args:
        work: computes a result.
        tasks: the tasks.
        workers: the most processes of this machine, of which 1 is this one; or another way to do the work.

    Raises:
        JobError: a process died, or cannot be started.
        Exception: the error of a task.
    """
    if not isinstance(workers, int):
        yield from workers(work, tasks)
        return
    count = min(workers, len(tasks))
    if count <= 1:
        yield from map(work, tasks)
        return
    processes = list[WorkerProcess]()
    try:
        for _ in range(count):
            with signals_wait():
                processes.append(WorkerProcess(_serve, work))
        yield from _in_order(processes, tasks)
    finally:
        for process in processes:
            process.end()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    end_with_parent()
    answer_all(pipe, work)


def _in_order(processes: Sequence[WorkerProcess], tasks: Sequence[_Task]) -> Iterator[Any]:
    idle, busy, done = list(processes), dict[WorkerProcess, int](), dict[int, Any]()
    sent = given = 0
    while given < len(tasks):
        while idle and sent < len(tasks):
            process = idle.pop()
            process.send(tasks[sent])
            busy[process] = sent
            sent += 1
        for process in ready(busy):
            done[busy.pop(process)] = _result(process)
            idle.append(process)
        while given in done:
            yield done.pop(given)
            given += 1


def _result(process: WorkerProcess) -> Any:
    try:
        _, value = process.receive()
    except ProcessDiedError:
        raise JobError("a worker process died, perhaps for want of memory; try fewer --workers") from None
    return value
