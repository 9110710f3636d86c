"""Turns at asking a host: a few requests at a time, over all threads and processes of this machine, and pauses."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from shard_reader.system.file_locks import FileLocks

__all__ = ["Hosts"]

_SHORTEST, _LONGEST = 0.01, 0.05  # seconds between two looks whether it is this thread's turn
_MOST = 12  # bits of the number of a turn


class Hosts:
    """Hosts that are asked by a bounded number of requests at a time.

    Args:
        limit: the most requests to a host at a time.
        folder: a folder of the processes that share the limit; None for the threads of this process alone.
    """

    # Turns are byte ranges of one file, which the kernel gives back when a process is killed. Threads look for a free
    # one now and then, and do not pass theirs on: a process would otherwise keep a host for its own threads.

    def __init__(self, limit: int, folder: str | None) -> None:
        self._limit, self._folder = limit, Path(folder) if folder is not None else None
        self._locks: FileLocks | None = None
        if self._folder is not None:
            with contextlib.suppress(OSError):  # not Linux: the limit holds for each process by itself
                self._locks = FileLocks(self._folder / "turns")
        self._held: dict[int, set[int]] = {}
        self._changes = threading.Lock()
        self._paused: dict[str, float] = {}

    @contextlib.contextmanager
    def turn(self, host: str, limit: int | None = None) -> Iterator[None]:
        """Wait until the host may be asked, and have a turn at it. `limit` is another limit for this name."""
        first = _number(host)
        while self.pause_of(host) > 0 or (turn := self._take(first, limit or self._limit)) is None:
            time.sleep(random.uniform(_SHORTEST, _LONGEST))
        try:
            yield
        finally:
            self._give_back(first, turn)

    def pause(self, host: str, seconds: float) -> None:
        """Have nobody ask a host for some seconds."""
        until = time.time() + seconds
        self._paused[host] = until
        if self._folder is not None:
            # The time of a file, which costs a request that is not paused no more than a look.
            path = self._pause_path(host)
            path.touch()
            os.utime(path, (until, until))

    def pause_of(self, host: str) -> float:
        """The seconds for which a host is not to be asked."""
        until = self._paused.get(host, 0.0)
        if self._folder is not None:
            with contextlib.suppress(FileNotFoundError):
                until = max(until, self._pause_path(host).stat().st_mtime)
        return until - time.time()

    def _pause_path(self, host: str) -> Path:
        return Path(self._folder or "") / f"pause-{_number(host):x}"

    def _take(self, first: int, limit: int) -> int | None:
        with self._changes:
            held = self._held.setdefault(first, set())
            for turn in range(limit):
                if turn not in held and (self._locks is None or self._locks.take(first + turn)):
                    held.add(turn)
                    return turn
            return None

    def _give_back(self, first: int, turn: int) -> None:
        with self._changes:
            held = self._held[first]
            held.remove(turn)
            if not held:
                del self._held[first]
            if self._locks is not None:
                self._locks.release(first + turn)


def _number(host: str) -> int:
    """The number of the first turn at a host, of 60 bits."""
    return int.from_bytes(hashlib.sha256(host.encode()).digest()[:6]) << _MOST
