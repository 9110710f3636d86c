"""One job at a time in OUTPUT.

On a disk, the lock is a file lock, which the kernel releases when the process ends for any reason. An object store has
no locks: there, the lock is an object that its holder replaces every few seconds, and an object that does not change is
stale. Every write has a condition, that there is no object, or still the one that this job has read or written, so that
of two jobs the store lets one write. A job whose write is refused has lost the lock, and ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from beam_jobs.errors import LostJobError, UsageError
from beam_jobs.terminal import print_status, print_warning
from shard_reader.format.manifest import LOCK_NAME
from shard_reader.storage.directory import Directory

__all__ = ["Lock", "locked"]

BEAT_SECONDS = 10.0
_LEASE = 2.5  # beats: so that one that fails does no harm
_TRIES = 3  # of a write that meets another one
_READ_ONLY = ("http://", "https://")
_IN_PROCESS = "memory:"  # a store that only this process sees


class Lock:
    """The lock of an OUTPUT on a disk, while this process holds it."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def check(self) -> None:
        """Check that the lock is not known to be lost. This asks nobody.

        Raises:
            LostJobError: another job has it.
        """

    def renew(self) -> None:
        """Make sure that the lock is held.

        Raises:
            LostJobError: another job has it.
        """

    def remove(self) -> None:
        """Remove the file of the lock."""
        if self._path is not None:
            self._path.unlink()


@contextlib.contextmanager
def locked(place: str, files: Directory) -> Iterator[Lock]:
    """Hold the lock of OUTPUT. Its file stays there unless `remove` of the lock is called.

    Raises:
        UsageError: another job holds the lock, or the place is on a web server.
    """
    if place.startswith(_READ_ONLY):
        raise UsageError(f"{place}: is on a web server, which takes no files; give a place on a disk or in a bucket")
    hold = _file_lock(files.local / LOCK_NAME) if files.local is not None else _object_lock(place, files)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(hold)
        except BlockingIOError:
            raise UsageError(f"OUTPUT {place}: another job is writing there") from None
        yield lock


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[Lock]:
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
        yield Lock(path)


@contextlib.contextmanager
def _object_lock(place: str, files: Directory) -> Iterator[Lock]:
    lock = _ObjectLock(place, files)
    lock.take()
    try:
        yield lock
    finally:
        lock.release()


class _Seen(NamedTuple):
    """The object of a lock at one time: its tag, and its bytes."""

    tag: str | None
    content: bytes

    @property
    def is_free(self) -> bool:
        return not self.content or self.content.endswith(b"free")


class _ObjectLock(Lock):
    """A lock in an object store. A thread renews it."""

    def __init__(self, place: str, files: Directory) -> None:
        super().__init__()
        self._place, self._files = place, files
        self._holder, self._number = uuid.uuid4().hex.encode(), 0
        self._tag: str | None = None
        self._has_conditions, self._is_lost = True, False
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Take the lock, after a wait if another job may hold it.

        Raises:
            BlockingIOError: another job holds it, or was faster.
        """
        found = self._seen()
        if not found.is_free:
            print_status("waiting to see whether another job is at work there")
            time.sleep(_LEASE * BEAT_SECONDS)
            if self._seen() != found:
                raise BlockingIOError
        self._tag = found.tag
        if not self._take_by_condition():
            self._has_conditions = False
            self._take_by_pause()
        self._beating.start()

    def check(self) -> None:
        if self._is_lost:
            raise LostJobError(
                f"OUTPUT {self._place}: another job has taken the lock, since this one did not renew it for"
                f" {_LEASE * BEAT_SECONDS:.0f} seconds (a computer that slept, or a network that was away); this job"
                " ends, and leaves OUTPUT to the other"
            )

    def renew(self) -> None:
        with self._turn:
            self.check()
            self._is_lost = not self._write(b"%d" % self._number)
        self.check()

    def remove(self) -> None:
        self._stop()
        if self._is_held():
            self._files.delete(LOCK_NAME)

    def release(self) -> None:
        """Say that the lock is free. Its object stays."""
        self._stop()
        # If the store is unreachable, nothing is lost: a lock that is not renewed is free, too.
        with contextlib.suppress(Exception):
            if not self._is_lost and self._is_held():
                self._write(b"free")

    def _take_by_condition(self) -> bool:
        """Take the lock by a write with a condition. False if the store does not hold to conditions."""
        try:
            if not self._write(b"0"):
                raise BlockingIOError
            replaced = self._tag
            if not self._write(b"1"):
                raise BlockingIOError
            # Some servers accept conditions, and ignore them. None of these writes may succeed.
            refused = [self._files.put_if(LOCK_NAME, self._holder, tag) is None for tag in (replaced, None)]
        except NotImplementedError:
            refused = [False]
        if not all(refused) and not self._place.startswith(_IN_PROCESS):
            print_warning(
                f"warning: OUTPUT {self._place}: the store has no conditional writes, so that two jobs that begin in"
                " the same second may both write there; begin one at a time"
            )
        return all(refused)

    def _take_by_pause(self) -> None:
        """Take the lock where writes have no conditions."""
        self._files.write(LOCK_NAME, [self._holder])
        # Another job may have read the same state and be writing now. The last writer holds the lock; the pause lets
        # the other write arrive before the check.
        time.sleep(BEAT_SECONDS / 20)
        if self._content() != self._holder:
            raise BlockingIOError

    def _write(self, word: bytes) -> bool:
        """Replace the object. False if another job has replaced it."""
        data = b"%s %s" % (self._holder, word)
        self._number += 1
        if not self._has_conditions:
            if self._is_held():
                self._files.write(LOCK_NAME, [data])
                return True
            return False
        for _ in range(_TRIES):
            tag = self._files.put_if(LOCK_NAME, data, self._tag)
            if tag is None:
                # The answer of a write may be lost, and its second try is then refused. Or the write met another one,
                # which was refused as well.
                seen = self._seen()
                tag = seen.tag if seen.content == data else None
                if tag is None and (seen.tag is None or seen.tag != self._tag):
                    return False
            if tag is not None:
                self._tag = tag
                return True
        return False

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and not self._is_lost:
            with contextlib.suppress(Exception):
                self.renew()

    def _stop(self) -> None:
        self._ended.set()
        if self._beating.ident is not None:
            self._beating.join()

    def _seen(self) -> _Seen:
        # The tag first: a condition on an old tag fails, whatever the content has become since.
        return _Seen(self._files.tag(LOCK_NAME), self._content())

    def _content(self) -> bytes:
        try:
            return self._files.read(LOCK_NAME)
        except FileNotFoundError:
            return b""

    def _is_held(self) -> bool:
        return self._content().startswith(self._holder)
