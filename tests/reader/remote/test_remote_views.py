"""Epochs that repeat records, or divide them by size, are the same from a store as from a disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.remote_data import digests, small_shards
from support.servers import Servers, Store

from shard_reader import Dataset, RandomResizedCrop, open_dataset

BATCH = 8
ORDERS: dict[str, dict[str, Any]] = {
    "none": {"shuffle": "none"},
    "window": {"shuffle": "window", "lanes": 2, "window": 2},
    "full": {"shuffle": "full"},
}


@pytest.fixture(scope="module")
def stored(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    return small_shards(servers, tmp_path_factory.mktemp("data"))


VIEWS: dict[str, Callable[[Dataset], Any]] = {
    "balanced": lambda data: data.balanced("label"),
    "stratified": lambda data: data.balanced("label", stratified=True),
    "weighted": lambda data: data.weighted(np.arange(len(data)) % 3),
    "buckets": lambda data: data.buckets([(12, 16), (16, 12)]),
}


@pytest.mark.parametrize(
    ("way", "name", "order"),
    [
        pytest.param(way, name, order, marks=() if way == "small cache" and order != "none" else pytest.mark.slow)
        for way in ("ranges", "cache", "small cache")
        for name in VIEWS
        for order in ORDERS
        if name != "stratified" or order == "full"
    ],
)
def test_they_are_those_of_a_copy(
    stored: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, order: str, way: str
) -> None:
    local, store = stored
    store.use(monkeypatch)
    url, make = f"{store.url}/raw", VIEWS[name]
    cache: dict[str, Any] = {} if way == "ranges" else {"cache": tmp_path}
    if way == "small cache":
        shards = {"none": 6, "window": 12, "full": 24}[order]
        cache["cache_bytes"] = shards * open_dataset(url)._shards.largest  # type: ignore[union-attr]
    given = {"batch_size": BATCH, "seed": 5, **ORDERS[order]}
    if name == "buckets":
        given["image"] = lambda size: [RandomResizedCrop(size)]
    expected, found = (make(data).stream(**given) for data in (open_dataset(local), open_dataset(url, **cache)))
    for _ in range(2):
        assert digests(found) == digests(expected)
        assert found.coverage() == expected.coverage()
    loop = iter(expected)
    list(itertools.islice(found, 3)), list(itertools.islice(loop, 3))
    resumed = make(open_dataset(url, **cache)).stream(**given)
    resumed.load_state_dict(found.state_dict())
    assert digests(resumed) == digests(loop)


def test_buckets_need_room_for_each_size(
    stored: tuple[Path, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored[1]
    store.use(monkeypatch)
    most = 11 * open_dataset(f"{store.url}/raw")._shards.largest  # type: ignore[union-attr]
    data = open_dataset(f"{store.url}/raw", cache=tmp_path, cache_bytes=most)
    data.stream(batch_size=BATCH, **ORDERS["window"])
    with pytest.raises(ValueError, match=r"with 2 lanes here, of windows over 5 shards, needs .* \(12 shards"):
        VIEWS["buckets"](data).stream(
            batch_size=BATCH, image=lambda size: [RandomResizedCrop(size)], **ORDERS["window"]
        )
