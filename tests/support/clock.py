"""Time that passes only where a test says so."""

from __future__ import annotations

import threading

__all__ = ["ThreadClock"]


class ThreadClock:
    """The module `time` for code that waits: each thread has its own time, which passes only while that thread sleeps.

    How long a machine holds a thread up, and how long the others sleep, changes nothing.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def monotonic(self) -> float:
        """The seconds that this thread has slept."""
        return getattr(self._local, "now", 0.0)

    def sleep(self, seconds: float) -> None:
        """Let this thread's time pass, at once."""
        self._local.now = self.monotonic() + seconds
