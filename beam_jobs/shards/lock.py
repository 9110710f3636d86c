"""One job at a time in OUTPUT.

On a disk: a lock that the kernel takes away when a process ends, however it ends. In an object store, which has none:
an object that its holder writes again every few seconds. One that does not change was left by a job that is gone.
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
    """Hold the lock of OUTPUT. Its file stays, unless the function that is handed out is called.

    Raises:
        UsageError: another job holds it.
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
            mine = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        except FileNotFoundError:  # removed by a job that has just ended
            mine = False
        if not mine:
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
            with contextlib.suppress(Exception):  # one beat, or two, may be missed
                if not content().startswith(holder):
                    return  # taken over, after many that were
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
    time.sleep(BEAT_SECONDS / 20)  # for one who read what we read, and writes now
    if content() != holder:
        raise BlockingIOError
    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield remove
    finally:
        stop()
        with contextlib.suppress(Exception):  # a store that is away: a lock that does not beat is free all the same
            if content().startswith(holder):
                files.write(LOCK_NAME, [holder + b" free"])
