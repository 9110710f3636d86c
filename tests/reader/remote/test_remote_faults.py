"""A store that fails: batches stay what they would have been, or an error says which shard, and why."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.fault_proxy import FaultProxy, Faults
from support.remote_data import digests, options_of, write_dataset
from support.servers import Servers, Store

from shard_reader import CorruptionError, Dataset, open_dataset
from shard_reader.errors import StoreError

WINDOW = {"shuffle": "window", "lanes": 2, "window": 1}
SHARDS = r"\.(tfrecord|h5|npy)$"  # the manifest has no checksum


class Far(NamedTuple):
    """A dataset on a disk, in a store, and the proxy that is between."""

    local: Path
    url: str
    proxy: FaultProxy

    def open(self, **options: Any) -> Dataset:
        return open_dataset(self.url, **options)


@pytest.fixture(scope="module")
def stored(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    store = servers.store("moto")
    local = write_dataset(tmp_path_factory.mktemp("data") / "raw")
    store.copy(local, "raw")
    return local, store


@pytest.fixture
def far(stored: tuple[Path, Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    local, store = stored
    with FaultProxy(store.endpoint, seed=1) as proxy:
        store.through("127.0.0.1", proxy.port).use(monkeypatch)
        yield Far(local, f"{store.url}/raw", proxy)


def most_bytes(data: Dataset, shards: int) -> int:
    """Of a cache for so many shards."""
    return shards * data._shards.largest  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("way", "format"),
    [
        ("ranges", "tfrecord"),
        pytest.param("ranges", "hdf5", marks=pytest.mark.slow),
        ("cache", "hdf5"),
        pytest.param("small cache", "tfrecord", marks=pytest.mark.slow),
    ],
)
def test_epochs_are_the_same_whatever_befalls_requests(
    far: Far, tmp_path: Path, way: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard_reader.storage.retry._LONGEST_PAUSE", 0.1)
    expected = open_dataset(far.local, format=format).stream(**options_of("raw"), **WINDOW)
    options: dict[str, Any] = {} if way == "ranges" else {"cache": tmp_path}
    if way == "small cache":
        options["cache_bytes"] = most_bytes(far.open(format=format), 5)
    data = far.open(format=format, **options)
    far.proxy.faults = Faults(
        errors=0.05, resets=0.02, lost=0.02, cuts=0.04, truncations=0.04, corruptions=0.1, whole=0.05,
        statuses=(500, 503), corrupt_paths=SHARDS,
    )  # fmt: skip
    stream = data.stream(**options_of("raw"), **WINDOW)
    for _ in range(2):
        assert digests(stream) == digests(expected)
    stats, counts = stream.stats(), far.proxy.counts
    assert stats.retries > 0 and sum(counts.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_answers_that_stop_in_the_middle_are_asked_for_again(
    far: Far, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard_reader.storage.object_store._TIMEOUT", 0.4)
    expected = open_dataset(far.local).stream(**options_of("raw"), **WINDOW)
    stream = far.open(**({} if way == "ranges" else {"cache": tmp_path})).stream(**options_of("raw"), **WINDOW)
    far.proxy.faults = Faults(stalls=0.4, stall_seconds=1000, limit=1)
    assert digests(stream) == digests(expected)
    assert stream.stats().retries >= far.proxy.counts["stalls"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["jpeg", pytest.param("raw", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("way", ["ranges", pytest.param("cache", marks=pytest.mark.nightly), "small cache"])
def test_twenty_epochs_are_the_same_whatever_befalls_requests(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, encoding: Any
) -> None:
    local, store = write_dataset(tmp_path / "data", encoding=encoding), servers.store("moto")
    store.copy(local, encoding)
    times = 4 if way == "cache" else 1  # it asks for everything once, in all of the twenty
    faults = Faults(
        latency=0.05, errors=0.05 * times, resets=0.02 * times, lost=0.02 * times, cuts=0.02 * times,
        truncations=0.02 * times, corruptions=0.03 * times, statuses=(500, 503, 429), corrupt_paths=SHARDS,
    )  # fmt: skip
    with FaultProxy(store.endpoint, faults, seed=2) as proxy:
        store.through("127.0.0.1", proxy.port).use(monkeypatch)
        url = f"{store.url}/{encoding}"
        options: dict[str, Any] = {} if way == "ranges" else {"cache": tmp_path / "cache"}
        if way == "small cache":
            options["cache_bytes"] = most_bytes(open_dataset(url), 5)
        found = open_dataset(url, **options).stream(**options_of(encoding), **WINDOW)
        expected = open_dataset(local).stream(**options_of(encoding), **WINDOW)
        for _ in range(20):
            assert digests(found) == digests(expected)
        assert sum(proxy.counts.values()) > (3 if way == "cache" else 30)


def is_waiting(thread: threading.Thread) -> bool:
    """Whether a thread waits for another one."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is threading.Condition.wait.__code__


@pytest.mark.parametrize("way", ["ranges", pytest.param("cache", marks=pytest.mark.slow)])
def test_a_store_that_is_away_for_a_while_is_waited_for(far: Far, tmp_path: Path, way: str) -> None:
    expected = digests(open_dataset(far.local).stream(**options_of("raw"), shuffle="none"))
    data = far.open(**({"cache": tmp_path} if way == "cache" else {"ahead_bytes": 4000}))
    stream = data.stream(**options_of("raw"), shuffle="none")
    found = []
    with far.proxy.away():
        loop = threading.Thread(target=lambda: found.extend(digests(stream)), daemon=True)
        loop.start()
        deadline = time.monotonic() + 300
        while not (is_waiting(loop) and stream.stats().retries) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(1.0)
    deadline = time.monotonic() + 300
    while len(found) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == expected
    assert stream.stats().retries > 0
    assert stream.stats().stalled_seconds > 0.5


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_a_store_that_is_away_for_longer_is_an_error_that_names_shard_and_cause(
    far: Far, tmp_path: Path, way: str, on_error: str
) -> None:
    expected = digests(open_dataset(far.local).stream(**options_of("raw"), shuffle="none"))
    options: dict[str, Any] = {"cache": tmp_path, "cache_bytes": "1MB"} if way == "cache" else {}
    data = far.open(retry_for=0.3, ahead_bytes=4000, **options)
    stream = data.stream(**options_of("raw"), shuffle="none", on_error=on_error)
    found = []
    with far.proxy.away():
        with pytest.raises(StoreError, match=r"train-000\d\d-of-00014\.tfrecord.*: .*(onnect|reached)") as caught:
            found += digests(stream)
        assert not isinstance(caught.value, CorruptionError)
        assert found == [] and stream.skipped == []
        with pytest.raises(StoreError):
            data[3]
    stream.load_state_dict(stream.state_dict())
    assert digests(stream) == expected
    assert stream.skipped == []
    assert data[3]["label"] == 3


def test_a_loop_goes_on_from_where_the_store_left_it(far: Far) -> None:
    expected = digests(open_dataset(far.local).stream(**options_of("raw"), shuffle="none"))
    stream = far.open(retry_for=0.2, ahead_bytes=2000).stream(**options_of("raw"), shuffle="none", prefetch=1)
    loop, found = iter(stream), []
    found += digests(itertools.islice(loop, 2))
    with far.proxy.away(), pytest.raises(StoreError):
        for batch in loop:
            found += digests([batch])
    assert 2 <= len(found) < len(expected)
    stream.load_state_dict(stream.state_dict())
    assert found + digests(stream) == expected


class NoTime:
    """The module `time`, for code that must not wait for another try."""

    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("refusing is not tried again")


def test_opening_says_what_is_wrong_with_the_store(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    with far.proxy.away(), pytest.raises(StoreError, match=r"raw/dataset\.json: .*(onnect|reached)"):
        far.open(retry_for=0.2)
    far.proxy.faults = Faults(script=lambda _: "forbidden")
    before = len(far.proxy.requests)
    monkeypatch.setattr("shard_reader.storage.retry.time", NoTime())
    with pytest.raises(StoreError, match=r"raw/dataset\.json: .*(ermission|orbidden|denied)"):
        far.open()
    assert len(far.proxy.requests) > before


def test_a_manifest_that_was_cut_on_the_way_is_fetched_again(web: Store, stored: tuple[Path, Store]) -> None:
    url = web.copy(stored[0], "raw")
    with FaultProxy(web.endpoint, Faults(script=lambda one: None if one.number else "truncations")) as proxy:
        data = open_dataset(url.replace(str(web.endpoint[1]), str(proxy.port)))
        assert data.manifest == open_dataset(stored[0]).manifest
        assert data.fetched().retries == 1


@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_bytes_that_stay_damaged_on_the_way_are_an_error_of_the_store(far: Far, tmp_path: Path, way: str) -> None:
    data = far.open(retry_for=0.5, **({"cache": tmp_path} if way == "cache" else {}))
    far.proxy.faults = Faults(corruptions=1.0, corrupt_paths=SHARDS)
    stream = data.stream(**options_of("raw"), on_error="skip")
    with pytest.raises(StoreError, match=r"train-000\d\d-of-00014\.tfrecord.*(damaged|checksum)"):
        list(stream)
    assert stream.skipped == []


LOOP = """
import sys, time
from shard_reader import open_dataset
data = open_dataset(sys.argv[1], **({"cache": sys.argv[2]} if sys.argv[2] else {}), ahead_bytes=4000)
stream = data.stream(batch_size=8, shuffle="none", threads=2)
loop = iter(stream)
if sys.argv[3] == "begun":
    next(loop)
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[3] == "exit":
    import threading
    threading.Thread(target=lambda: list(loop), daemon=True).start()
    time.sleep(0.5)
    sys.exit(7)
for batch in loop:
    pass
"""


@pytest.mark.parametrize(
    ("way", "when"),
    [
        ("ranges", "begun"),
        *(pytest.param("ranges", when, marks=pytest.mark.slow) for when in ("fresh", "exit")),
        *(pytest.param("cache", when, marks=pytest.mark.slow) for when in ("fresh", "begun", "exit")),
    ],
)
def test_a_loop_that_waits_for_a_store_ends_at_once_when_it_is_told_to(
    far: Far, tmp_path: Path, way: str, when: str
) -> None:
    words = [sys.executable, "-c", LOOP, far.url, str(tmp_path / "cache") if way == "cache" else "", when]
    # The first batch comes, however slow this test is, and the whole epoch never does.
    stalled = re.compile(r"train-000(0[5-9]|1\d)-of-00014")
    far.proxy.faults = Faults(script=lambda one: "stalls" if stalled.search(one.path) else None, stall_seconds=3600)
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        far.proxy.faults = Faults(latency=3600)  # it does not answer, and does not say so
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(1.0)
        if when != "exit":
            process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=300)
        if when == "exit":
            assert process.returncode == 7 and problems == ""
        else:
            assert process.returncode == -signal.SIGINT
            assert problems.rstrip().endswith("KeyboardInterrupt")
    finally:
        process.kill()
        process.communicate()
