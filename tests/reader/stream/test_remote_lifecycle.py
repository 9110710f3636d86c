"""What a loop over a store takes, it gives back: threads, memory, room in the cache. Processes disturb no others."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fault_proxy import FaultProxy, Faults
from support.remote_data import bytes_in, digests, options_of, write_dataset
from support.servers import Servers, Store

from shard_reader import Dataset, open_dataset
from shard_reader.format.checksum import crc32c
from shard_reader.remote.ranges import Extents, Range
from shard_reader.shards.fetch import _copied

WINDOW = {"shuffle": "window", "lanes": 2, "window": 1}


@pytest.fixture(scope="module")
def stored(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    local = write_dataset(tmp_path_factory.mktemp("data") / "raw", [40] * 16, formats=("tfrecord",), size=(48, 64, 3))
    store = servers.store("moto")
    store.copy(local, "raw")
    return local, store


@pytest.fixture(params=["ranges", "cache"])
def opened(
    request: pytest.FixtureRequest, stored: tuple[Path, Store], proxy: FaultProxy, tmp_path: Path
) -> Callable[..., Dataset]:
    cache = {"cache": tmp_path / "cache"} if request.param == "cache" else {}
    return lambda **options: open_dataset(f"{stored[1].url}/raw", **{"ahead_bytes": "300kB"} | cache | options)


def own_threads(but: str = "none") -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("shard_reader") and not one.name.endswith(but)}


def ended(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(300)
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("leave", ["close", "forget", "exception", "never begun"])
def test_a_loop_that_is_left_ends_its_threads(opened: Callable[..., Dataset], leave: str) -> None:
    before = own_threads()
    data = opened()
    stream = data.stream(**options_of("raw"), shuffle="none")
    if leave == "never begun":
        batches = stream.batches(0)
        del batches
    elif leave == "exception":
        with contextlib.suppress(ZeroDivisionError):
            for _ in stream:
                raise ZeroDivisionError
    else:
        loop = iter(stream)
        next(loop)
        if leave == "forget":
            del loop
    stream.close()
    # Those that fetch may be at it; they end when they have nothing to do.
    assert ended(own_threads(but="fetch") - before)
    data.close()
    assert ended(own_threads() - before)


@pytest.mark.slow
def test_no_more_is_in_memory_than_may_be(stored: tuple[Path, Store], proxy: FaultProxy) -> None:
    data = open_dataset(f"{stored[1].url}/raw", ahead_bytes="600kB")
    stream = data.stream(batch_size=8, shuffle="none", verify="never")
    list(itertools.islice(stream, 10))
    gc.collect()
    tracemalloc.start()
    try:
        seen = []
        for _ in itertools.islice(stream, 60):
            seen.append(tracemalloc.get_traced_memory()[0])
            time.sleep(0.005)
    finally:
        tracemalloc.stop()
    # All of it has 6 MB; a range is in memory twice while its request ends, and batches have some, too.
    assert max(seen) < 2_200_000, max(seen)


def test_a_loop_that_breaks_off_leaves_room_for_the_next(
    stored: tuple[Path, Store], proxy: FaultProxy, tmp_path: Path
) -> None:
    url = f"{stored[1].url}/raw"
    largest = open_dataset(url)._shards.largest  # type: ignore[union-attr]
    data = open_dataset(url, cache=tmp_path, cache_bytes=4 * largest)
    near = open_dataset(stored[0]).stream(batch_size=40, **WINDOW)
    stream = data.stream(batch_size=40, **WINDOW)
    for stop in (1, 3, 2, 5, 16):
        found, expected = (digests(itertools.islice(one, stop)) for one in (stream, near))
        assert found == expected
        assert bytes_in(tmp_path) <= 4 * largest
    assert stream.stats().uncached < 20


def _stream(url: str, cache: Path, shards: int, seed: int, connection: Any) -> None:
    largest = open_dataset(url)._shards.largest  # type: ignore[union-attr]
    data = open_dataset(url, cache=cache, cache_bytes=shards * largest, retry_for=3)
    stream = data.stream(batch_size=40, **WINDOW, seed=seed)
    for _ in range(3):
        connection.send(digests(stream))
    connection.send(data.fetched().uncached)


def _receive(receiver: Any, seconds: float) -> Any:
    assert receiver.poll(seconds), "it hangs"
    return receiver.recv()


@pytest.fixture
def start(stored: tuple[Path, Store], proxy: FaultProxy, tmp_path: Path) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Starts processes that stream through one cache."""
    context, running = multiprocessing.get_context("spawn"), []

    def begin(shards: int, seed: int) -> tuple[Any, Any]:
        receiver, sender = context.Pipe(duplex=False)
        url = f"{stored[1].url}/raw"
        process = context.Process(target=_stream, args=(url, tmp_path / "cache", shards, seed, sender), daemon=True)
        process.start()
        sender.close()
        running.append(process)
        return process, receiver

    yield begin
    for process in running:
        process.kill()
        process.join(300)


def expected_of(local: Path, seed: int) -> list[list[str]]:
    stream = open_dataset(local).stream(batch_size=40, **WINDOW, seed=seed)
    return [digests(stream) for _ in range(3)]


@pytest.mark.slow
def test_processes_with_bounds_of_their_own_keep_to_the_largest(
    stored: tuple[Path, Store], start: Callable[..., tuple[Any, Any]], tmp_path: Path
) -> None:
    largest = open_dataset(f"{stored[1].url}/raw")._shards.largest  # type: ignore[union-attr]
    (tmp_path / "cache").mkdir()
    seen, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(bytes_in(tmp_path / "cache"))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        receivers = [start(shards, seed)[1] for shards, seed in ((4, 0), (6, 1), (8, 2))]
        for seed, receiver in enumerate(receivers):
            assert [_receive(receiver, 300) for _ in range(3)] == expected_of(stored[0], seed)
    finally:
        stop.set()
        watcher.join()
    seen.append(bytes_in(tmp_path / "cache"))
    assert 4 * largest < max(seen) <= 8 * largest


@pytest.mark.slow
def test_processes_that_are_killed_or_stopped_keep_nobody_from_going_on(
    stored: tuple[Path, Store], proxy: FaultProxy, start: Callable[..., tuple[Any, Any]], tmp_path: Path
) -> None:
    proxy.faults = Faults(latency=0.03)
    dice, expected = random.Random(0), expected_of(stored[0], 0)
    for _ in range(4):
        victims = [start(5, seed)[0] for seed in (0, 1)]
        time.sleep(1.0 + dice.random())
        stopped, killed = victims
        os.kill(stopped.pid, signal.SIGSTOP)
        killed.kill()
        _, receiver = start(5, 0)
        assert [_receive(receiver, 300) for _ in range(3)] == expected
        stopped.kill()
    _, receiver = start(5, 0)
    assert [_receive(receiver, 300) for _ in range(3)] == expected
    assert not list((tmp_path / "cache").glob("*.part")), "what was left behind is gone"


def test_what_was_taken_from_another_plan_is_freed_with_its_own() -> None:
    """At once: a loop that makes little garbage of Python's would wait long for the collector."""
    values = np.arange(100, dtype=np.uint8)
    extents = Extents(*(np.array([number], np.int64) for number in (10, 20, crc32c(values[10:30]), 0)))
    before: Future[Any] = Future()
    gc.collect()
    gc.disable()
    try:
        copy = _copied(before, Range(0, 100, extents), Range(10, 30, extents), None)  # type: ignore[arg-type]
        before.set_result(values)
        freed = [weakref.ref(copy.result()), weakref.ref(copy), weakref.ref(before)]
        assert copy.result().tolist() == list(range(10, 30))
        del copy, before
        assert [one() for one in freed] == [None] * 3
    finally:
        gc.enable()
