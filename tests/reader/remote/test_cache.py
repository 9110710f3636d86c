"""The cache: what is whole is there for all processes, never more than its bound, and what is mapped stays."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import bytes_in

from shard_reader.remote.cache import Cache
from shard_reader.remote.cache_entry import CacheEntry, CacheError, DiskFullError
from shard_reader.system.file_locks import FileLocks

SIZE = 1000


def entry_of(number: int, size: int = SIZE) -> CacheEntry:
    content = f"{number}".encode()
    return CacheEntry(f"train-{number:05d}", hashlib.sha256(content).hexdigest(), "0" * 64, size - 104, 64)


def whole(number: int, size: int = SIZE) -> bytes:
    return bytes([number % 256]) * entry_of(number, size).size


def store(cache: Cache, number: int, size: int = SIZE) -> None:
    download = cache.begin(entry_of(number, size))
    assert download is not None
    download.write(whole(number, size), 0)
    download.finish()


def names(path: Path) -> list[str]:
    return sorted(one.name.partition("-")[2] for one in path.iterdir() if one.name != "locks")


def test_what_is_stored_is_found_by_others_as_it_was(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, None), Cache(tmp_path, None)
    assert other.find(entry_of(1)) is None
    store(one, 1)
    found = other.find(entry_of(1))
    assert found is not None
    assert found.tobytes() == whole(1)
    assert one.begin(entry_of(1)) is None
    assert one.size() == entry_of(1).size


@pytest.mark.parametrize("bytes_, index", [(0, 64), (0, 0), (1, 1), (64, 0), (65, 7)])
def test_any_sizes_have_room_of_exactly_their_size(tmp_path: Path, bytes_: int, index: int) -> None:
    entry = CacheEntry("a", "0" * 64, "1" * 64, bytes_, index)
    cache = Cache(tmp_path, entry.size)
    download = cache.begin(entry)
    assert download is not None
    download.finish()
    found = cache.find(entry)
    assert found is not None
    assert found.size == entry.size == cache.size()
    assert entry.index_start % 64 == 0


def test_what_is_noted_of_the_size_is_believed_only_where_it_must_be_true(tmp_path: Path) -> None:
    size = entry_of(0).size
    one, other = Cache(tmp_path, 3 * size), Cache(tmp_path, 3 * size)
    for number, cache in enumerate((one, other, one)):
        store(cache, number)
    for note in (b"0 of-another-start-of-the-machine", b"", b"x" * 80, b"0"):
        one._file_locks.note = note
        store(one, 3 + len(note))
        assert one.size() == 3 * size
    for path in tmp_path.glob("*-train-*"):  # by hand: more is noted than there is
        path.unlink()
    for number in range(20, 23):
        store(other, number)
    assert (names(tmp_path), other.evictions) == (["train-00020", "train-00021", "train-00022"], 0)


def test_of_many_files_a_few_more_are_removed_at_a_time(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 400 * entry_of(0).size)
    for number in range(405):
        store(cache, number)
        os.utime(tmp_path / entry_of(number).name, (number, number))
    assert cache.evictions == 8  # four for the 401st, which leaves room for three
    assert not (tmp_path / entry_of(7).name).exists() and (tmp_path / entry_of(8).name).exists()


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * entry_of(0).size)
    for number in range(3):
        store(cache, number)
        os.utime(tmp_path / entry_of(number).name, (number, number))
    cache.find(entry_of(0))
    store(cache, 3)
    assert names(tmp_path) == ["train-00000", "train-00002", "train-00003"]
    assert cache.evictions == 1


def test_what_is_mapped_stays_until_it_is_not(tmp_path: Path) -> None:
    one, other = (Cache(tmp_path, 2 * entry_of(0).size) for _ in range(2))
    store(one, 0)
    store(one, 1)
    held = one.find(entry_of(0)), other.find(entry_of(1))
    part = held[0][5:7]  # type: ignore[index]
    for cache in (one, other):
        with pytest.raises(CacheError, match="are in use, and"):
            cache.begin(entry_of(2))
    del held
    store(one, 2)  # in place of 1
    assert names(tmp_path) == ["train-00000", "train-00002"]
    with pytest.raises(CacheError):
        other.begin(entry_of(3, 2 * SIZE))
    assert part.tobytes() == whole(0)[5:7]
    del part
    store(other, 3, 2 * SIZE - 104)
    assert names(tmp_path) == ["train-00003"]


def test_one_downloads_and_others_wait(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, None), Cache(tmp_path, None)
    download = one.begin(entry_of(0))
    assert download is not None
    assert one.begin(entry_of(0)) is None and other.begin(entry_of(0)) is None
    assert one.find(entry_of(0)) is None and other.find(entry_of(0)) is None
    assert other.written(entry_of(0)) > 0
    download.abort()
    assert names(tmp_path) == []
    assert other.written(entry_of(0)) == 0
    store(other, 0)
    assert one.find(entry_of(0)) is not None


def test_what_a_download_has_not_yet_written_is_counted(tmp_path: Path) -> None:
    one, other = (Cache(tmp_path, 2 * entry_of(0).size) for _ in range(2))
    downloads = [one.begin(entry_of(0)), other.begin(entry_of(1))]
    assert one.size() == 2 * entry_of(0).size
    with pytest.raises(CacheError):
        one.begin(entry_of(2))
    for download in downloads:
        assert download is not None
        download.abort()
    store(one, 2)


def test_no_file_gets_its_name_while_somebody_adds_up_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard_reader.remote.cache._PATIENCE", 3600)
    cache, room = Cache(tmp_path, None), FileLocks(tmp_path / "locks")
    download = cache.begin(entry_of(0))
    assert download is not None
    assert room.take(0)  # as who looks for room: a listing may have neither the old name nor the new one
    thread = threading.Thread(target=download.finish)
    thread.start()
    thread.join(0.1)
    assert names(tmp_path) == ["train-00000.part"]
    room.release(0)
    thread.join(300)
    assert names(tmp_path) == ["train-00000"]


def test_a_stopped_process_keeps_no_file_from_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.remote.cache._PATIENCE", 0.05)
    cache, room = Cache(tmp_path, None), FileLocks(tmp_path / "locks")
    download = cache.begin(entry_of(0))
    assert download is not None
    assert room.take(0)  # and lets nobody else have it
    download.finish()
    assert names(tmp_path) == ["train-00000"]


@pytest.mark.parametrize("suffix", ["", ".part"])
def test_what_others_left_behind_makes_room_for_itself(tmp_path: Path, suffix: str) -> None:
    cache = Cache(tmp_path, entry_of(0).size)  # for one file and no more
    (tmp_path / (entry_of(0).name + suffix)).write_bytes(b"torn" * 20)
    store(cache, 0)
    found = cache.find(entry_of(0))
    assert found is not None and found.tobytes() == whole(0)
    (tmp_path / (entry_of(7).name + ".part")).write_bytes(bytes(SIZE))
    assert cache.size() > entry_of(0).size
    del found
    store(cache, 1)
    assert names(tmp_path) == ["train-00001"]


def test_what_is_not_ours_is_neither_counted_nor_touched(tmp_path: Path) -> None:
    foreign = {"notes.txt": 5000, "zzzz": 1, ".part": 3, "0" * 32: 9, "x.part": 10}
    for name, size in foreign.items():
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "folder").mkdir()
    (tmp_path / ("0" * 32 + "-folder")).mkdir()
    cache = Cache(tmp_path, entry_of(0).size)
    for number in range(3):
        store(cache, number)
    assert cache.size() == entry_of(0).size
    assert {name: (tmp_path / name).stat().st_size for name in foreign} == foreign
    assert (tmp_path / "folder").is_dir()


def test_a_damaged_file_that_others_have_mapped_is_no_reason_to_wait(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, None), Cache(tmp_path, None)
    store(one, 0)
    held = one.find(entry_of(0))
    other.discard(entry_of(0))
    for cache in (one, other):
        with pytest.raises(CacheError, match="was removed, and is still in use"):
            cache.begin(entry_of(0))
    assert held is not None and held.tobytes() == whole(0)
    del held
    store(other, 0)


def test_long_names_and_those_of_any_script_fit_into_a_directory(tmp_path: Path) -> None:
    for shard in ("ä" * 200, "a" * 250, "漢" * 80 + ".tfrecord"):
        entry = entry_of(0)._replace(shard=shard)
        cache = Cache(tmp_path, None)
        download = cache.begin(entry)
        assert download is not None
        download.finish()
        assert cache.find(entry) is not None


def test_a_full_disk_is_told_from_a_full_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, 1 << 60)
    with pytest.raises(DiskFullError, match="the disk has"):
        cache.begin(entry_of(0, 1 << 59))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(DiskFullError, match="the disk is full"):
        cache.begin(entry_of(0))
    monkeypatch.undo()
    assert names(tmp_path) == []
    store(cache, 0)


def test_by_default_a_twentieth_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.remote.cache._MOST_SPARE", 10 * 2**30)
    disk = type("Usage", (), {"total": 100_000, "used": 0, "free": 6_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    cache = Cache(tmp_path, None)
    assert cache.most_bytes == 1_000
    disk.free = 4_000
    assert cache.most_bytes == 0
    disk.total, disk.free = 10**13, 10**11
    assert cache.most_bytes == 10**11 - 10 * 2**30


def test_leases_and_locks_may_be_dropped_in_any_order(tmp_path: Path) -> None:
    cache = Cache(tmp_path, None)
    store(cache, 0)
    held = cache.find(entry_of(0))
    cache._file_locks.__del__()
    del held
    assert Cache(tmp_path, 2 * SIZE).begin(entry_of(1)) is not None


def _hold(path: Path, connection: Connection) -> None:
    cache = Cache(path, None)
    held = cache.begin(entry_of(0)), cache.find(entry_of(1))
    cache._file_locks.take(0)
    connection.send(held[1] is not None)
    connection.recv()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_killed_process_had_locked_is_free(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, 2 * entry_of(0).size)
    store(cache, 1)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process: Any = context.Process(target=_hold, args=(tmp_path, there), daemon=True)
    process.start()
    assert here.poll(300) and here.recv()
    assert cache.begin(entry_of(0)) is None
    monkeypatch.setattr("shard_reader.remote.cache._PATIENCE", 0.1)
    with pytest.raises(CacheError, match="another process makes room, and does not end"):
        cache.begin(entry_of(2))
    process.kill()
    process.join(300)
    store(cache, 2)  # in place of what was left behind
    assert names(tmp_path) == ["train-00001", "train-00002"]
    store(cache, 3)
    assert names(tmp_path) == ["train-00002", "train-00003"]


def test_threads_share_a_cache_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.remote.cache._PATIENCE", 3600)  # `bytes_in` keeps the others waiting
    most = 5 * entry_of(0).size
    caches = [Cache(tmp_path, most), Cache(tmp_path, most)]
    problems: list[object] = []
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(bytes_in(tmp_path))

    def use(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            for wanted in rng.integers(0, 12, 60).tolist():
                _use(caches[number % 2], wanted)
        except Exception as error:
            problems.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    stop.set()
    watcher.join()
    seen.append(bytes_in(tmp_path))
    assert not problems
    assert 3 * entry_of(0).size < max(seen) <= most
    assert not [name for name in names(tmp_path) if name.endswith(".part")]
    assert all(not cache._users and not cache._downloads for cache in caches)


def _use(cache: Cache, number: int) -> None:
    found = cache.find(entry_of(number))
    if found is None:
        try:
            download = cache.begin(entry_of(number))
        except CacheError:
            return
        if download is None:
            return
        if number % 5 == 0:
            download.abort()
            return
        download.write(whole(number), 0)
        download.finish()
        found = cache.find(entry_of(number))
    if found is not None:
        assert found.tobytes() == whole(number)
