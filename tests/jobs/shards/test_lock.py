"""One job at a time in OUTPUT: on a disk, and in an object store, where its holder rewrites an object."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.places import filled, new_faulty_store

from beam_jobs.errors import UsageError
from beam_jobs.shards import lock
from beam_jobs.shards.lock import locked
from shard_reader.format.manifest import LOCK_NAME
from shard_reader.storage.directory import Directory

LEFT_BEHIND = b"a job that was killed 7"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in an object store, in which a lock beats ten times a second."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    return new_faulty_store(monkeypatch)


def use_waits(
    monkeypatch: pytest.MonkeyPatch, for_a_beat: Callable[[], object], for_another_writer: Callable[[], object]
) -> None:
    """Have the two waits of a job that takes a lock end by an event, however slow the machine is."""

    def sleep(seconds: float) -> None:
        for_a_beat() if seconds > lock.BEAT_SECONDS else for_another_writer()

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=sleep))


def nothing() -> None:
    """Wait for nothing."""


def next_beat(files: Directory) -> None:
    """Wait until the holder of the lock has rewritten it."""
    seen, deadline = files.read(LOCK_NAME), time.monotonic() + 60
    while files.read(LOCK_NAME) == seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(place: str, files: Directory) -> None:
    with pytest.raises(UsageError, match="another job is writing there"), locked(place, files):
        pass


def removed_at_the_end(place: str, files: Directory) -> None:
    with locked(place, files) as remove:
        assert LOCK_NAME in files.names()
        remove()
    assert LOCK_NAME not in files.names()


def test_a_lock_on_a_disk_is_held_by_one(tmp_path: Path) -> None:
    place = str(tmp_path)
    files = filled(place, {"x": b""})
    with locked(place, files):
        refused(place, files)
    removed_at_the_end(place, files)


def test_a_lock_in_a_store_is_held_by_one(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = filled(store, {"x": b""})
    use_waits(monkeypatch, lambda: next_beat(files), nothing)
    with locked(store, files):
        refused(store, files)
        refused(store, files)
    removed_at_the_end(store, files)


def test_a_lock_that_was_left_behind_is_taken(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, waits = filled(store, {LOCK_NAME: LEFT_BEHIND}), list[None]()
    use_waits(monkeypatch, lambda: waits.append(None), nothing)
    with locked(store, files):
        assert b"killed" not in files.read(LOCK_NAME)
    assert len(waits) == 1


def test_a_lock_that_was_given_back_is_taken_at_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, waits = filled(store, {"x": b""}), list[None]()
    use_waits(monkeypatch, lambda: waits.append(None), nothing)
    for _ in range(2):
        with locked(store, files):
            pass
    assert waits == []


def test_of_two_that_take_a_lock_at_once_one_has_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read the same, and neither looks again before the other has written its name, or was refused."""
    files = filled(store, {LOCK_NAME: LEFT_BEHIND})
    held, refused, settled = list[int](), list[int](), set[int]()
    both_have_read, changed = threading.Barrier(2, timeout=60), threading.Condition()

    def settle() -> None:
        with changed:
            settled.add(threading.get_ident())
            changed.notify_all()

    def other_is_settled() -> None:
        settle()
        with changed:
            assert changed.wait_for(lambda: len(settled) == 2, 60)

    def take() -> None:
        try:
            with locked(store, files):
                held.append(1)
        except UsageError:
            refused.append(1)
        finally:
            settle()

    use_waits(monkeypatch, both_have_read.wait, other_is_settled)
    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)
