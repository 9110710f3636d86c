"""What is fetched from a store: each shard once, no more than there is room for, and nothing that is there."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import subprocess
import tempfile
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support.fault_proxy import FaultProxy, Faults
from support.remote_data import MANY, bytes_in, digests, options_of, small_shards, write_dataset
from support.servers import Servers, Store

from shard_reader import Dataset, open_dataset

BATCH = 8
WINDOW = {"shuffle": "window", "lanes": 2, "window": 2}


@pytest.fixture(scope="module")
def stored(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    return small_shards(servers, tmp_path_factory.mktemp("data"))


@pytest.fixture
def url(stored: tuple[Path, Store], proxy: FaultProxy) -> str:
    return f"{stored[1].url}/raw"


def fetched(proxy: FaultProxy) -> Counter[str]:
    """How often each file was asked for, by the end of its name; and nothing from now on."""
    found = Counter(request.path.rpartition("/")[2] for request in proxy.requests if request.kind == "get")
    proxy.requests.clear()
    return found


def shards(found: Counter[str]) -> Counter[str]:
    return Counter({name: count for name, count in found.items() if name.endswith(".tfrecord")})


@pytest.mark.slow
def test_a_record_is_one_request_when_its_index_is_there(url: str, proxy: FaultProxy) -> None:
    data = open_dataset(url)
    assert fetched(proxy) == {"dataset.json": 1}
    data[0]
    assert fetched(proxy) == {"train-00000-of-00024.tfrecord.index.npy": 1, "train-00000-of-00024.tfrecord": 1}
    for number in (0, 1, 4):
        data[number]
        [request] = proxy.requests
        assert request.range is not None and request.sent < 2000
        assert fetched(proxy) == {"train-00000-of-00024.tfrecord": 1}
    data.image(2)
    data.column("note", [0, 1, 2, 3])
    assert fetched(proxy) == {"train-00000-of-00024.tfrecord": 2}
    data.column("label", [3, 2])
    data.where(label=2, height=12)
    assert shards(fetched(proxy)) == {}, "the indexes have them"


@pytest.mark.parametrize("order", ["none", "full", "window"])
@pytest.mark.parametrize("way", ["ranges", "cache"])
def test_each_shard_comes_once_in_an_epoch(url: str, proxy: FaultProxy, tmp_path: Path, order: str, way: str) -> None:
    options: dict[str, Any] = {"cache": tmp_path} if way == "cache" else {}
    data = open_dataset(url, **options)
    stream = data.stream(batch_size=BATCH, **(WINDOW if order == "window" else {"shuffle": order}))
    fetched(proxy)
    for epoch in range(2):
        before = data.fetched().bytes_fetched
        list(stream)
        found = fetched(proxy)
        # The first batch, which need not wait for whole shards, comes by itself, with the indexes that it needs.
        assert sum(found.values()) <= 2 * len(MANY) + 2 * BATCH + (BATCH if order == "window" else 0)
        if way == "cache" and epoch:
            assert not found
        size = data._shards.size  # type: ignore[union-attr]
        assert data.fetched().bytes_fetched - before <= size + 2000 * BATCH
    stats = stream.stats()
    assert (stats.cache_misses, stats.cache_hits) == ((24, 24) if way == "cache" else (0, 0))
    assert stats.retries == stats.evictions == 0


def test_windows_of_large_records_come_in_few_requests(
    servers: Servers, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that the next window needs lie between those of this one: they are fetched along, and not once more."""
    local = write_dataset(tmp_path / "large", (20,) * 16, size=(160, 160, 3), formats=("tfrecord",))
    store = servers.store("moto")
    store.copy(local, "raw")
    store.through("127.0.0.1", proxy.port).use(monkeypatch)
    order: dict[str, Any] = {"batch_size": 24, "shuffle": "window", "lanes": 2, "window": 2, "fields": ["image"]}
    stream = open_dataset(f"{store.url}/raw", ahead_bytes="64MB").stream(**order)
    assert digests(stream) == digests(open_dataset(local).stream(**order))
    files = [path.stat().st_size for path in local.glob("*.tfrecord")]
    first = order["batch_size"]  # records of the first batch, by themselves
    assert sum(shards(fetched(proxy)).values()) <= first + 5 * len(files)
    assert stream.stats().bytes_fetched < 1.1 * sum(files)


def test_a_warm_cache_needs_the_manifest_alone(url: str, proxy: FaultProxy, tmp_path: Path) -> None:
    first = open_dataset(url, cache=tmp_path).stream(**options_of("raw"))
    expected = digests(first)
    fetched(proxy)
    data = open_dataset(url, cache=tmp_path)
    stream = data.stream(**options_of("raw"))
    assert digests(stream) == expected
    data[100], data.ids()
    assert fetched(proxy) == {"dataset.json": 1}
    assert stream.stats().cache_hits == len(MANY)
    assert stream.stats().requests == stream.stats().bytes_fetched == 0


def test_ranks_with_lanes_of_their_own_fetch_shards_of_their_own(url: str, proxy: FaultProxy, tmp_path: Path) -> None:
    fetched(proxy)
    found = []
    for rank in range(2):
        data = open_dataset(url, cache=tmp_path / f"{rank}")
        list(data.stream(batch_size=BATCH, **WINDOW, rank=rank, world_size=2))
        found.append(data.fetched().cache_misses)
    assert all(count < 15 for count in found)
    assert len(MANY) <= sum(found) <= len(MANY) + WINDOW["lanes"] - 1  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 3])
def test_workers_that_share_an_epoch_fetch_no_records_of_others(url: str, every: int) -> None:
    whole = open_dataset(url)
    list(whole.stream(batch_size=BATCH, shuffle="none"))
    shared = []
    for number in range(every):
        data = open_dataset(url)
        list(data.stream(batch_size=BATCH, shuffle="none").batches(0, number, every=every))
        list(data.stream(batch_size=BATCH, shuffle="none").batches(0, number, every=every))
        shared.append(data.fetched().bytes_fetched)
    indexes = sum(whole._shards.entry(n).index_bytes for n in range(len(MANY)))  # type: ignore[union-attr]
    assert sum(shared) / 2 < whole.fetched().bytes_fetched * 1.5 + every * indexes


def _read(url: str, cache: Path, rank: int, barrier: Any, connection: Connection) -> None:
    data = open_dataset(url, cache=cache)
    stream = data.stream(batch_size=BATCH, rank=rank, world_size=4)
    barrier.wait(300)
    made = digests(stream)
    connection.send((made, stream.stats().cache_misses))


@pytest.mark.slow
def test_processes_that_share_a_cache_download_each_shard_once(
    url: str, proxy: FaultProxy, stored: tuple[Path, Store], tmp_path: Path
) -> None:
    proxy.faults = Faults(latency=0.02)
    context = multiprocessing.get_context("spawn")
    barrier, pipes = context.Barrier(4), [context.Pipe(duplex=False) for _ in range(4)]
    for rank in range(4):
        context.Process(target=_read, args=(url, tmp_path, rank, barrier, pipes[rank][1]), daemon=True).start()
    found = []
    for rank, (receiver, _) in enumerate(pipes):
        assert receiver.poll(300)
        made, misses = receiver.recv()
        found.append(misses)
        local = open_dataset(stored[0]).stream(batch_size=BATCH, rank=rank, world_size=4)
        assert made == digests(local)
    assert sum(found) == len(MANY)


def room_for(data: Dataset, count: int) -> int:
    return count * data._shards.largest  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_cache_that_is_too_small_for_an_order_is_refused_with_the_figure_that_is_not(
    url: str, stored: tuple[Path, Store], tmp_path: Path
) -> None:
    needed = room_for(open_dataset(url), 2 * (2 + 1))
    with pytest.raises(
        ValueError, match=rf"needs {needed:,} bytes of cache .* may have {needed - 1:,}: raise cache_by"
    ):
        open_dataset(url, cache=tmp_path, cache_bytes=needed - 1).stream(batch_size=BATCH, **WINDOW)
    data = open_dataset(url, cache=tmp_path, cache_bytes=needed)
    far, near = data.stream(batch_size=BATCH, **WINDOW), open_dataset(stored[0]).stream(batch_size=BATCH, **WINDOW)
    for _ in range(4):
        for batch, expected in zip(far, near, strict=True):
            assert digests([batch]) == digests([expected])
            assert bytes_in(tmp_path) <= needed
    stats = far.stats()
    assert stats.evictions > 10
    assert stats.uncached <= 4 * 8, "a few where windows meet: what was needed last has not been let go"
    assert stats.cache_misses <= 4 * len(MANY) + 4, "each once in an epoch, and so again"


def test_ranks_of_one_machine_divide_its_cache(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    needed = room_for(open_dataset(url), 2 * (2 + 1))
    for rank in range(2):
        data = open_dataset(url, cache=tmp_path, cache_bytes=needed)
        list(data.stream(batch_size=BATCH, **WINDOW, rank=rank, world_size=2))
        assert data.fetched().uncached <= 4
        assert bytes_in(tmp_path) <= needed
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    data = open_dataset(url, cache=tmp_path, cache_bytes=needed // 2)
    list(data.stream(batch_size=BATCH, **WINDOW, rank=0, world_size=2))
    with pytest.raises(ValueError, match="raise cache_bytes"):
        data.stream(batch_size=BATCH, **WINDOW)


def _goes_on(stored: tuple[Path, Store], url: str, cache: Path, match: str, **options: Any) -> Dataset:
    """Reads two epochs, which must be right, with one warning and no more."""
    near = open_dataset(stored[0]).stream(**options_of("raw"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = open_dataset(url, cache=cache, **options)
        far = data.stream(**options_of("raw"))
        for _ in range(2):
            assert digests(far) == digests(near)
    said = [str(one.message) for one in caught]
    assert len(said) == 1 and match in said[0] and str(cache) in said[0], said
    return data


@pytest.mark.parametrize("what", ["file", "under a file", "locks"])
def test_a_cache_that_cannot_be_made_is_done_without(
    url: str, stored: tuple[Path, Store], tmp_path: Path, what: str
) -> None:
    cache = tmp_path / "cache"
    if what == "locks":
        (cache / "locks").mkdir(parents=True)
    else:
        cache.write_bytes(b"")
    _goes_on(stored, url, cache / "below" if what == "under a file" else cache, "cannot be used")


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EFBIG])
def test_a_cache_that_cannot_be_written_is_done_without(
    url: str, stored: tuple[Path, Store], tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = itertools.count()
    original = os.pwrite

    def write(*arguments: Any) -> int:
        if next(written) >= 5:  # at first it can
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    monkeypatch.setattr(os, "pwrite", write)
    data = _goes_on(stored, url, tmp_path, os.strerror(number))
    assert [shards.cache for shards in data.remote_shards] == [None]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("bound", [None, "1GB"])
def test_a_disk_that_is_full_is_told_once_and_what_fits_is_cached(
    url: str, stored: tuple[Path, Store], bound: str | None
) -> None:
    with tempfile.TemporaryDirectory() as place:
        words = ["mount", "-t", "tmpfs", "-o", "size=80k", "none", place]
        try:
            mounted = subprocess.run(words, capture_output=True).returncode == 0
        except OSError:
            mounted = False
        if not mounted:
            pytest.skip("this machine lets nobody mount a file system of 80 kB")
        try:
            data = _goes_on(stored, url, Path(place), "has no room", cache_bytes=bound)
            assert data.fetched().cache_misses >= 5
            data.close()
        finally:
            del data
            subprocess.run(["umount", "-l", place], check=True)
