"""Work inside Beam's own process, without worker processes: in an engine's worker, or in the launcher.

An engine on this machine runs DoFns in threads of the launcher. They must end before OUTPUT is cleared up, and Ctrl-C
must end them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.images.decode import ignore_image_warnings
from beam_jobs.plan.tasks import ShardTask, reference_at
from beam_jobs.shards.job import CLOCK_SECONDS, Job, Watcher, too_slow
from beam_jobs.sources.files.interface import Reject
from shard_reader.storage.open import directory

__all__ = ["inline_calls"]


class _InlineCalls:
    """Calls functions, and can end them all before their next image."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self.is_stopped = False

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `function(*arguments)`.

        Raises:
            JobError: all calls were stopped.
        """
        with self._changed:
            if self.is_stopped:
                raise JobError("stopped")
            self._running += 1
        try:
            return function(*arguments)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def do(self, work: Callable[..., Any], task: ShardTask, job: Job, statistics: Any) -> Any:
        """The result of doing `work` with a task.

        Raises:
            JobError: all calls were stopped, or an image is decoded for too long.
            Exception: the error of the work.
        """
        return self.call(self._do, work, task, job, statistics)

    def allow(self) -> None:
        """Take calls again, after a stop."""
        self.is_stopped = False

    def stop(self) -> None:
        """End every call before its next image, and wait until all have ended."""
        with self._changed:
            self.is_stopped = True
            self._changed.wait_for(lambda: self._running == 0)

    def _do(self, work: Callable[..., Any], task: ShardTask, job: Job, statistics: Any) -> Any:
        """Do `work` in another thread, so that this one can give it up in the middle of a decoder's C code."""
        # Of a decoder's warnings, some quote the texts of a file, such as names of patients.
        ignore_image_warnings()
        attempt, result = _Attempt(self), Future[Any]()

        def run() -> None:
            try:
                result.set_result(work(task, job, statistics, attempt))
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        while not wait([result], CLOCK_SECONDS).done:
            position = attempt.overdue(job.max_seconds)
            if position is not None and not result.done():
                attempt.is_over = True
                raise too_slow(reference_at(directory(job.output), task, position).id, job.max_seconds)
        return result.result()


class _Attempt(Watcher):
    """One call that does a task, and the images that it decodes."""

    def __init__(self, calls: _InlineCalls) -> None:
        self._calls = calls
        self._decoded: dict[int, float] = {}  # positions, and since when
        self.is_over = False

    def decodes(self, position: int) -> None:
        """Start the clock of an image."""
        self._decoded[position] = time.monotonic()

    def ends(self, position: int) -> None:
        """Stop the clock of an image."""
        self._decoded.pop(position, None)

    def counts(self, images: int, reject: Reject | None = None) -> None:
        """Note that an image is done.

        Raises:
            JobError: all calls were stopped, or this one was given up.
        """
        # A thread cannot be ended from outside. This is called between two images, where an error ends it safely.
        if self._calls.is_stopped or self.is_over:
            raise JobError("stopped")

    def overdue(self, seconds: float) -> int | None:
        """The position of an image that is decoded for longer than `seconds`, or None."""
        now = time.monotonic()
        return next((position for position, since in list(self._decoded.items()) if now - since > seconds), None)


inline_calls = _InlineCalls()
"""The calls of this process."""
