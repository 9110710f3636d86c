"""Grain over a dataset as it is: its own order, batches, ranks and positions."""

from __future__ import annotations

import pickle
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shard_reader import open_dataset

grain = pytest.importorskip("grain", reason="needs Grain")


def pipeline(path: Path) -> Any:
    """Two epochs of batches of 8."""
    return grain.MapDataset.source(open_dataset(path)).seed(3).shuffle().repeat(2).map(_chosen).batch(8)


def _chosen(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("image", "label", "id")}


def ids(batches: Any) -> list[str]:
    return [str(one) for batch in batches for one in batch["id"]]


def test_each_record_comes_once_an_epoch(raw_shards: Path) -> None:
    data, found = open_dataset(raw_shards), pipeline(raw_shards)
    assert found[0]["image"].shape[0] == 8 and found[0]["image"].dtype == np.uint8
    expected = sorted(one.decode() for one in data.ids())
    together = ids(found[number] for number in range(len(found)))
    assert sorted(together[: len(data)]) == sorted(together[len(data) :]) == expected
    assert together[: len(data)] != together[len(data) :]


def test_a_position_of_grain_is_exact(raw_shards: Path) -> None:
    batches = iter(pipeline(raw_shards).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    for _ in range(3):
        next(batches)
    state, rest = batches.get_state(), ids(batches)
    again = iter(pipeline(raw_shards).to_iter_dataset())
    again.set_state(state)
    assert ids(again) == rest and rest


def test_ranks_of_grain_share_the_records(raw_shards: Path) -> None:
    source = grain.MapDataset.source(open_dataset(raw_shards)).seed(3).shuffle()
    shares = [[record["id"] for record in source[rank::3]] for rank in range(3)]
    assert sorted(chain(*shares)) == sorted(one.decode() for one in open_dataset(raw_shards).ids())


def test_a_source_goes_to_workers(raw_shards: Path) -> None:
    """Grain pickles it for its processes."""
    found = pickle.loads(pickle.dumps(pipeline(raw_shards)))
    assert ids([found[2]]) == ids([pipeline(raw_shards)[2]])
