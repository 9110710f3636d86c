"""One job at a time in OUTPUT.

On a disk, the lock is a file lock, which the kernel releases when the process ends for any reason. An object store has
no locks: there, the holder rewrites an object every few seconds, and an object that does not change is stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from beam_jobs.errors import UsageError
from beam_jobs.terminal import print_status
from shard_reader.format.manifest import LOCK_NAME
from shard_reader.storage.directory import Directory

__all__ = ["locked"]

BEAT_SECONDS = 10.0


@contextlib.contextmanager
def locked(place: str, files: Directory) -> Iterator[Callable[[], None]]:
    """Hold the lock of OUTPUT. Its file stays there unless the yielded function is called, which removes it.

    Raises:
        UsageError: another job holds the lock.
    """
    hold = _file_lock(files.local / LOCK_NAME) if files.local is not None else _object_lock(files)
    with contextlib.ExitStack() as stack:
        try:
            remove = stack.enter_context(hold)
        except BlockingIOError:
            raise UsageError(f"OUTPUT {place}: another job is writing there") from None
        yield remove


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[Callable[[], None]]:
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A job that has just ended may have removed the file between `open` and `flock`. The lock is then on a
            # file without a name, and another job could lock a new file beside it.
            is_current = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except FileNotFoundError:
            is_current = False
        if not is_current:
            raise BlockingIOError
        yield path.unlink


@contextlib.contextmanager
def _object_lock(files: Directory) -> Iterator[Callable[[], None]]:
    holder, ended = uuid.uuid4().hex.encode(), threading.Event()

    def content() -> bytes:
        try:
            return files.read(LOCK_NAME)
        except FileNotFoundError:
            return b""

    def beat() -> None:
        number = 0
        while not ended.wait(BEAT_SECONDS):
            number += 1
            # Another job waits for 2.5 beats, so that a beat that fails does no harm.
            with contextlib.suppress(Exception):
                if not content().startswith(holder):
                    return  # another job has taken over, after several missed beats
                files.write(LOCK_NAME, [b"%s %d" % (holder, number)])

    def remove() -> None:
        stop()
        if content().startswith(holder):
            files.delete(LOCK_NAME)

    def stop() -> None:
        ended.set()
        beating.join()

    found = content()
    if found and not found.endswith(b"free"):
        print_status("waiting to see whether another job is at work there")
        time.sleep(2.5 * BEAT_SECONDS)
        if content() != found:
            raise BlockingIOError
    files.write(LOCK_NAME, [holder])
    # Another job may have read the same state and be writing now. The last writer holds the lock; the pause lets
    # the other write arrive before the check.
    time.sleep(BEAT_SECONDS / 20)
    if content() != holder:
        raise BlockingIOError
    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield remove
    finally:
        stop()
        # If the store is unreachable, nothing is lost: a lock that does not beat is free, too.
        with contextlib.suppress(Exception):
            if content().startswith(holder):
                files.write(LOCK_NAME, [holder + b" free"])
