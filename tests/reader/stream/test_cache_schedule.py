"""What is to come next into a cache: found out in short, however many records and shards there are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shard_reader.format import Field, Shard, ShardFile
from shard_reader.order.batches import BatchOrder
from shard_reader.order.shuffle import StoredOrder
from shard_reader.remote.client import StoreClient
from shard_reader.shards.cache_schedule import CacheSchedule
from shard_reader.shards.remote_shards import RemoteShards

RECORDS, SHARDS = 100_000_000, 20_000


class Large:
    """As much of a dataset as a cache needs to know."""

    shard_count = SHARDS

    def __init__(self, shards: RemoteShards) -> None:
        self._shards = shards

    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[RemoteShards, NDArray[np.int64], NDArray[np.int64]]]:
        return [(self._shards, records // (RECORDS // SHARDS), np.arange(len(records)))]


@pytest.fixture
def remote(tmp_path: Path) -> RemoteShards:
    names = [f"{number:05d}" for number in range(SHARDS)]
    files = (ShardFile(path=name, bytes=1 << 25, sha256=name.zfill(64), index_sha256="0" * 64) for name in names)
    shards = [Shard(records=RECORDS // SHARDS, files={"tfrecord": file}) for file in files]
    fields = {"image": Field(dtype="uint8", shape=(32, 32, 3), encoding="raw")}
    return RemoteShards(StoreClient("memory://large", 1.0), shards, fields, "tfrecord", (tmp_path / "cache", 1 << 42))


@pytest.mark.slow
def test_an_epoch_of_100_million_records_begins_at_once(remote: RemoteShards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ensure_cached", lambda number: "cached")
    order = BatchOrder(record_order=StoredOrder(RECORDS), batch_size=256)
    schedule = CacheSchedule(Large(remote), order, 0, 0)  # type: ignore[arg-type]
    began = time.thread_time()
    schedule.advance(0, 1)
    first = time.thread_time() - began
    schedule.advance(1, 32)
    assert first < 3 and time.thread_time() - began < 6  # to find out about all of it takes a minute
    schedule.wait(lambda: True, lambda: False)
    assert remote.fetched().uncached == 0


def test_what_was_removed_is_counted_when_the_cache_is_used_no_more(remote: RemoteShards) -> None:
    assert remote.cache is not None
    remote.cache.evictions = 3
    before = remote.fetched()
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        remote._drop_cache(OSError(5, "Input/output error"))
    assert remote.cache is None
    assert (remote.fetched() - before).evictions == 0 and before.evictions == 3
