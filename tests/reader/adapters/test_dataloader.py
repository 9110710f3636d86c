"""Streams, without an adapter, in the worker processes of PyTorch's DataLoader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shard_reader import CenterCrop, Coverage, Stream, open_dataset

data = pytest.importorskip("torch.utils.data", reason="needs PyTorch")


class Shards(data.IterableDataset):  # type: ignore[misc, name-defined]
    """A stream, of which each worker takes its share of every batch."""

    def __init__(self, path: Path, workers: int) -> None:
        self.path, self.workers = path, workers

    def stream(self, rank: int) -> Stream:
        return open_dataset(self.path).stream(
            batch_size=12, rank=rank, world_size=self.workers, image=CenterCrop(12), fields=("image", "label", "id")
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream = self.stream(data.get_worker_info().id)
        yield from stream
        yield {"coverage": stream.coverage().to_json()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("raw_shards", "fork"),
        ("jpeg_shards", "fork"),
        ("raw_shards", "spawn"),
        pytest.param("jpeg_shards", "spawn", marks=pytest.mark.nightly),
    ],
)
def test_each_record_once_in_worker_processes(name: str, method: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    dataset = Shards(path, workers=2)
    own = next(iter(dataset.stream(0)))  # threads and maps are there when the workers are forked
    loader = data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context=method, collate_fn=as_it_is
    )
    seen: Counter[bytes] = Counter()
    coverage = Coverage()
    records = {record["id"].encode(): record for record in open_dataset(path)}
    crop = CenterCrop(12)
    for _ in range(2):
        for batch in loader:
            if "coverage" in batch:
                coverage += Coverage.from_json(batch["coverage"])
                continue
            for image, label, id in zip(batch["image"], batch["label"], batch["id"], strict=True):
                assert np.array_equal(image, crop(records[id]["image"])) and label == records[id]["label"]
            seen.update(batch["id"][batch["weight"] > 0].tolist())
    assert own["weight"].sum() == 6
    assert seen == dict.fromkeys(records, 2)
    whole = open_dataset(path).coverage()
    assert coverage == whole + whole


def as_it_is(batch: Any) -> Any:
    return batch


def test_a_map_style_dataset_is_read_by_workers(raw_shards: Path) -> None:
    """`data[i]` is all that a DataLoader wants."""
    whole = open_dataset(raw_shards)
    loader = data.DataLoader(whole, batch_size=8, num_workers=2, collate_fn=as_it_is)  # type: ignore[arg-type]
    assert [record["id"] for batch in loader for record in batch] == [record["id"] for record in whole]
