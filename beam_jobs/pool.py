"""The processes that do the work when a job runs on this machine.

Beam's local runner gives one worker; its DoFns hand their elements to these processes instead. Beam
pickles DoFns, so they find the processes by the id of the run. A process that dies is an error at
once; none outlives the parent; Ctrl-C is for the parent, which asks them to stop.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_byte
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.images import ignore_image_warnings
from beam_jobs.sources import Reject

__all__ = ["Workers", "workers_of"]

_POLL_SECONDS = 0.1
_running: dict[str, Workers] = {}


def workers_of(run: str) -> Workers:
    """The processes of a run of this process.

    Raises:
        JobError: the run is over, and this is a straggler of it.
    """
    if run not in _running:
        raise JobError("stopped")
    return _running[run]


class Workers:
    """A pool of processes. As a context manager, it ends them, and waits for them, at the end.

    Args:
        count: how many.
        on_image: called in this process, from a thread, after each image in any of them; what it
            raises ends the run.
    """

    def __init__(self, count: int, on_image: Callable[[Reject | None], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self.run = uuid.uuid4().hex
        self.error: BaseException | None = None
        # No lock in what the processes share: one that is killed would take the lock with it.
        self._stop = context.RawValue("b", 0)
        self._reports, self._reporter = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(count, context, _start, (self._reporter, self._stop))
        self._listener = threading.Thread(target=self._listen, args=(on_image,), daemon=True)

    def __enter__(self) -> Workers:
        _running[self.run] = self
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        self._executor.shutdown(cancel_futures=True)
        self._reporter.close()  # the last writing end: the listener comes to the end of the reports
        self._listener.join()
        self._reports.close()
        del _running[self.run]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have `function(*arguments, on_image)` called in one of the processes."""
        # A blocked signal stays blocked in the child: what a terminal sends to all is for the parent alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            return self._executor.submit(_call, function, arguments)
        except BrokenProcessPool as error:
            self.stop(self._died(error))
        except OSError as error:
            self.stop(JobError(f"a worker process cannot be started ({error.strerror})"))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise self.error or JobError("stopped")

    def collect(self, futures: Iterable[Future[Any]]) -> Iterator[Any]:
        """Each result as it comes.

        Raises:
            JobError: the run was stopped, or a process died.
            Exception: what a function raised.
        """
        pending = set(futures)
        while pending:
            done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            self.check()
            for future in done:
                yield self._result(future)

    def check(self) -> None:
        """Raise the error that stopped the run, if it was stopped."""
        if self._stop.value:
            raise self.error or JobError("stopped")

    def stop(self, error: BaseException) -> None:
        """Have every process stop before its next image, and `check` raise `error`."""
        self.error = self.error or error
        self._stop.value = 1

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool as error:
            self.stop(self._died(error))
        except MemoryError:
            self.stop(JobError("a worker process has no memory left: try fewer --workers"))
        except Exception as error:
            self.stop(error)
        raise self.error or JobError("stopped")

    def _died(self, error: BrokenProcessPool) -> JobError:
        return JobError(
            "a worker process died: killed, out of memory (try fewer --workers), or crashed by a"
            " decoder. If this was called from a script, guard it with"
            f" `if __name__ == '__main__'`, which spawned processes need ({error})"
        )

    def _listen(self, on_image: Callable[[Reject | None], None]) -> None:
        while True:
            try:
                reject = self._reports.recv()
            except EOFError:
                return
            try:
                on_image(reject)
            except Exception as error:
                self.stop(error)


_child: tuple[Connection, c_byte] | None = None


def _start(reporter: Connection, stop: c_byte) -> None:
    global _child
    _child = reporter, stop
    ignore_image_warnings()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments, _on_image)


def _on_image(reject: Reject | None) -> None:
    if _child is None:
        raise RuntimeError("called outside a worker process")
    reporter, stop = _child
    if stop.value:
        raise JobError("stopped")
    if reject is not None:  # for display; a write of up to 4,096 bytes to a pipe is whole, without a lock
        reject = reject._replace(id="", uri=reject.uri[-400:], message=reject.message[:200])
    reporter.send(reject)
