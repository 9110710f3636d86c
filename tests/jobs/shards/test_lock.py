"""One job at a time in OUTPUT: on a disk, in object stores by conditional writes, and in one that has none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.places import filled, new_faulty_store
from support.servers import Store, first_of

from beam_jobs.cli.prepare import parse
from beam_jobs.errors import LostJobError, UsageError
from beam_jobs.shards import lock
from beam_jobs.shards.lock import locked
from beam_jobs.shards.output import Output
from beam_jobs.steps.prepare import prepare
from shard_reader.format.manifest import LOCK_NAME, MANIFEST_NAME
from shard_reader.storage.directory import Directory
from shard_reader.storage.libraries import conditional

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
    with locked(place, files) as held:
        assert LOCK_NAME in files.names()
        held.check()
        held.renew()
        held.remove()
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


def test_a_store_without_conditional_writes_is_named(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(store, filled(store, {"x": b""})):
        pass
    assert f"warning: OUTPUT {store}: the store has no conditional writes" in capsys.readouterr().err


@pytest.fixture(params=first_of("moto", "minio", "gcs", "azurite"))
def real(request: pytest.FixtureRequest, new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place in a store that has conditional writes."""
    found = new_store(request.param)
    found.use(monkeypatch)
    return found.url


def test_a_store_writes_by_condition(real: str) -> None:
    files = filled(real, {"x": b""})
    first = files.put_if("a", b"1", None)
    assert first is not None and first == files.tag("a") and files.tag("b") is None
    assert files.put_if("a", b"2", None) is None
    second = files.put_if("a", b"3", first)
    assert second is not None and second == files.tag("a") and files.read("a") == b"3"
    assert files.put_if("a", b"4", first) is None
    files.delete("a")
    assert files.put_if("a", b"5", second) is None and files.tag("a") is None


def test_of_two_that_write_by_condition_at_once_one_has_the_lock(
    real: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have read the same before either writes: once where there is no lock, and once where one was left."""
    files, seen = filled(real, {"x": b""}), lock._ObjectLock._seen
    use_waits(monkeypatch, nothing, nothing)
    for left in (None, LEFT_BEHIND):
        if left is not None:
            files.write(LOCK_NAME, [left])
        both, tried, outcomes = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60), list[bool]()
        looks = threading.local()
        last_look = 1 if left is None else 2  # before the write: a job looks again whether the lock has changed

        def look(
            self: lock._ObjectLock,
            looks: threading.local = looks,
            both: threading.Barrier = both,
            last_look: int = last_look,
        ) -> lock._Seen:
            found = seen(self)
            looks.number = getattr(looks, "number", 0) + 1
            if looks.number == last_look:
                both.wait()
            return found

        monkeypatch.setattr(lock._ObjectLock, "_seen", look)

        def take(tried: threading.Barrier = tried, outcomes: list[bool] = outcomes) -> None:
            try:
                with locked(real, files):
                    outcomes.append(True)
                    tried.wait()
            except UsageError:
                outcomes.append(False)
                tried.wait()

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [False, True]
        files.delete(LOCK_NAME)
    assert "no conditional writes" not in capsys.readouterr().err


def test_a_lock_that_is_renewed_is_not_taken_and_one_of_a_killed_job_is(
    real: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    files = filled(real, {"x": b""})
    use_waits(monkeypatch, lambda: next_beat(files), nothing)
    with locked(real, files):
        refused(real, files)
        killed = files.read(LOCK_NAME)
    files.write(LOCK_NAME, [killed])
    use_waits(monkeypatch, nothing, nothing)
    removed_at_the_end(real, files)


def test_a_lock_that_was_lost_is_an_error_and_is_left_to_the_other(real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 3600)  # it slept
    files, other = filled(real, {"x": b""}), b"another job 3"
    with pytest.raises(LostJobError, match="another job has taken the lock"), locked(real, files) as held:
        held.renew()
        files.write(LOCK_NAME, [other])
        held.check()  # asks nobody
        held.renew()
    assert files.read(LOCK_NAME) == other


def test_an_answer_that_is_lost_does_not_lose_the_lock(real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write is made, its answer does not come, and the second try is refused."""
    files, put, losses = filled(real, {"x": b""}), conditional.put_if, iter([True, True, True])

    def lossy(*arguments: Any) -> str | None:
        found = put(*arguments)
        if found is not None and next(losses, False):
            raise ConnectionResetError
        return found

    monkeypatch.setattr(conditional, "put_if", lossy)
    with locked(real, files) as held:
        held.renew()
        held.renew()
    assert files.read(LOCK_NAME).endswith(b"free")


def test_a_server_that_ignores_conditions_is_found_out(
    new_store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = new_store("moto")
    found.use(monkeypatch)

    def ignoring(file_system: Any, path: str, data: bytes, tag: str | None, timeout: float) -> str:
        bucket, key, _ = file_system.split_path(path)
        return str(file_system.call_s3("put_object", Bucket=bucket, Key=key, Body=data)["ETag"])

    monkeypatch.setitem(conditional._PUTS, "s3", ignoring)
    use_waits(monkeypatch, nothing, nothing)
    files = filled(found.url, {"x": b""})
    removed_at_the_end(found.url, files)
    assert "the store has no conditional writes" in capsys.readouterr().err


def test_a_job_that_has_lost_its_lock_ends_and_leaves_output_to_the_other(
    real: str, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, install, other = filled(f"{real}/out", {}), Output.install, b"another job 3"

    def installed(self: Output, paths: list[Path]) -> None:
        install(self, paths)
        files.write(LOCK_NAME, [other])

    monkeypatch.setattr(Output, "install", installed)
    words = ["prepare", str(class_folders), f"{real}/out", "--shards", "1", "--workers", "1"]
    with pytest.raises(LostJobError, match=r"another job has taken the lock.*leaves OUTPUT to the other"):
        prepare(parse(words))
    assert files.read(LOCK_NAME) == other and "_work" in files.names() and MANIFEST_NAME not in files.names()
