"""Work inside Beam's own process, without worker processes: in an engine's worker, or in the launcher.

An engine on this machine runs DoFns in threads of the launcher. They must end before OUTPUT is cleared up, and Ctrl-C
must end them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from beam_jobs.errors import JobError
from beam_jobs.shards.job import Watcher
from beam_jobs.sources.files.interface import Reject

__all__ = ["inline_calls"]


class _InlineCalls(Watcher):
    """Calls functions, and can end them all before their next image."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._stopped = False

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `function(*arguments)`.

        Raises:
            JobError: all calls were stopped.
        """
        with self._changed:
            if self._stopped:
                raise JobError("stopped")
            self._running += 1
        try:
            return function(*arguments)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def allow(self) -> None:
        """Take calls again, after a stop."""
        self._stopped = False

    def stop(self) -> None:
        """End every call before its next image, and wait until all have ended."""
        with self._changed:
            self._stopped = True
            self._changed.wait_for(lambda: self._running == 0)

    def counts(self, images: int, reject: Reject | None = None) -> None:
        """Note that an image is done.

        Raises:
            JobError: all calls were stopped.
        """
        # A thread cannot be ended from outside. This is called between two images, where an error ends it safely.
        if self._stopped:
            raise JobError("stopped")


inline_calls = _InlineCalls()
"""The calls of this process."""
