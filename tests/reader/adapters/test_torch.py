"""Streams and records in PyTorch: one process, DataLoader's workers, StatefulDataLoader, ranks that train together."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.ranks import run_ranks

from shard_reader import CenterCrop, Coverage, Dataset, RandomResizedCrop, StateError, Stream, open_dataset

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("torchdata", reason="needs torchdata")

from torch.utils.data import DataLoader, RandomSampler  # noqa: E402  # after the check that it can be
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402

from shard_reader.adapters.torch_tensors import tensors  # noqa: E402
from shard_reader.torch import RecordDataset, StreamDataset, normalization  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

FIELDS = ("image", "label", "id")


def stream(path: Path, **options: Any) -> Stream:
    """60 crops in 9 batches of 7, the last with 3 of padding."""
    chosen: dict[str, Any] = {"batch_size": 7, "image": CenterCrop(12), "fields": FIELDS, "seed": 3, **options}
    return open_dataset(path).stream(**chosen)


def ids(batches: Iterable[Any]) -> list[list[bytes]]:
    return [batch["id"].tolist() for batch in batches]


@pytest.fixture(scope="module")
def expected(jpeg_shards: Path) -> list[list[list[bytes]]]:
    """The ids of three epochs."""
    one = stream(jpeg_shards)
    return [ids(one) for _ in range(3)]


def test_the_coverage_is_that_of_the_loops_in_this_process(jpeg_shards: Path) -> None:
    batches = StreamDataset(stream(jpeg_shards))
    loop = iter(batches)
    next(loop)
    assert batches.coverage().records == 7
    for _ in loop:
        pass
    assert batches.coverage().covers(open_dataset(jpeg_shards).coverage())
    for _ in DataLoader(batches, batch_size=None, num_workers=1):
        pass
    with pytest.raises(RuntimeError, match="worker processes, which count them"):
        batches.coverage()


def test_tensors_are_the_arrays_of_the_stream(jpeg_shards: Path) -> None:
    for found, batch in zip(StreamDataset(stream(jpeg_shards)), stream(jpeg_shards), strict=True):
        assert found["image"].shape == (7, 3, 12, 12) and found["image"].dtype == torch.uint8
        assert found["image"].is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(found["image"].permute(0, 2, 3, 1).numpy(), batch["image"])
        assert np.array_equal(found["label"].numpy(), batch["label"]) and found["label"].dtype == torch.int64
        assert np.array_equal(found["weight"].numpy(), batch["weight"]) and found["id"].tolist() == batch["id"].tolist()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_memory_format_of_images_can_be_asked_for(jpeg_shards: Path, memory_format: torch.memory_format) -> None:
    found = next(iter(StreamDataset(stream(jpeg_shards), memory_format=memory_format)))["image"]
    assert found.is_contiguous(memory_format=memory_format)
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), next(iter(stream(jpeg_shards)))["image"])
    with pytest.raises(ValueError, match=r"memory_format=torch\.channels_last_3d: must be"):
        StreamDataset(stream(jpeg_shards), memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_a_contiguous_copy_has_every_pixel(dtype: str, channels: int) -> None:
    """Also of a share of a batch, whose images do not follow each other."""
    images = np.random.default_rng(0).integers(0, 256, (6, 7, 9, channels)).astype(dtype)[1::2]
    found = tensors({"image": images}, None, frozenset({"image"}), torch.contiguous_format)["image"]
    assert found.is_contiguous() and np.array_equal(found.numpy(), images.transpose(0, 3, 1, 2))


def test_images_are_not_copied(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = Stream.__iter__

    def watched(self: Stream) -> Any:
        for batch in original(self):
            made.append(batch["image"].ctypes.data)
            yield batch

    monkeypatch.setattr(Stream, "__iter__", watched)
    found = [images.data_ptr() for images, *_ in StreamDataset(stream(jpeg_shards), inputs="image", targets="label")]
    assert found == made and len(found) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_are(jpeg_shards: Path, workers: int) -> None:
    """Their memory is used again only when nobody holds it."""
    dataset = StreamDataset(stream(jpeg_shards), inputs="image", targets="label")
    kept = list(DataLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset)
    gc.collect()
    again = [batch["image"].copy() for batch in stream(jpeg_shards)]
    assert all(
        np.array_equal(part[0].permute(0, 2, 3, 1).numpy(), image) for part, image in zip(kept, again, strict=True)
    )


def test_elements_are_made_of_tensors(jpeg_shards: Path) -> None:
    def scaled(batch: Any) -> Any:
        return batch["image"].to(torch.float32) / 255

    inputs, targets, weight = next(
        iter(StreamDataset(stream(jpeg_shards), inputs=scaled, targets="label", one_hot=True))
    )
    assert inputs.shape == (7, 3, 12, 12) and inputs.max() <= 1
    assert targets.shape == (7, 3) and targets.sum() == 7 and weight.tolist() == [1.0] * 7


@pytest.mark.parametrize("persistent", [False, True], ids=["new", "persistent"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_give_the_batches_in_order(
    jpeg_shards: Path, expected: list[list[list[bytes]]], workers: int, persistent: bool
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=persistent)
    assert len(loader) == 9
    assert [ids(loader) for _ in range(3)] == expected


@pytest.mark.slow
def test_spawned_workers_go_on_to_the_next_epoch(raw_shards: Path) -> None:
    one = open_dataset(raw_shards).stream(batch_size=12, fields=("id",))
    expected = [ids(one) for _ in range(2)]
    dataset = StreamDataset(open_dataset(raw_shards).stream(batch_size=12, fields=("id",)))
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert [ids(loader) for _ in range(2)] == expected


def test_a_restored_dataset_goes_on_in_workers(jpeg_shards: Path, expected: list[list[list[bytes]]]) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    iterator = iter(dataset)
    for _ in range(4):
        next(iterator)
    other = StreamDataset(stream(jpeg_shards))
    other.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    loader = DataLoader(other, batch_size=None, num_workers=2)
    assert [ids(loader), ids(loader)] == [expected[0][4:], expected[1]]


def test_workers_begin_behind_an_epoch_that_was_broken_off(
    jpeg_shards: Path, expected: list[list[list[bytes]]]
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    next(iter(dataset))
    assert ids(DataLoader(dataset, batch_size=None, num_workers=2)) == expected[1]


def test_loops_of_this_process_and_of_workers_follow_each_other(
    jpeg_shards: Path, expected: list[list[list[bytes]]]
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    assert [ids(dataset), ids(loader), ids(dataset)] == expected
    dataset = StreamDataset(stream(jpeg_shards))
    assert [ids(loader.__class__(dataset, batch_size=None, num_workers=2)), ids(dataset)] == expected[:2]


def test_loaders_of_any_number_of_workers_follow_each_other(
    jpeg_shards: Path, expected: list[list[list[bytes]]]
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    staying = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    loaders = [DataLoader(dataset, batch_size=None, num_workers=n) for n in (1, 3, 0)]
    one = stream(jpeg_shards)
    assert [ids(loader) for loader in (*loaders, staying, dataset, staying)] == [ids(one) for _ in range(6)]


@pytest.mark.slow
def test_a_loop_that_some_workers_did_not_begin_is_left_behind(
    jpeg_shards: Path, expected: list[list[list[bytes]]]
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    with pytest.raises(RuntimeError, match="worker 1 cannot begin"):
        list(DataLoader(dataset, batch_size=None, num_workers=2, worker_init_fn=fail_in_worker_1))
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    assert [ids(loader), ids(loader)] == expected[1:]


def fail_in_worker_1(worker: int) -> None:
    if worker == 1:
        raise RuntimeError("worker 1 cannot begin")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_a_copy_goes_its_own_way(
    jpeg_shards: Path, expected: list[list[list[bytes]]], copied: Callable[[Any], Any]
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    list(DataLoader(dataset, batch_size=None, num_workers=1))
    loader = DataLoader(copied(dataset), batch_size=None, num_workers=2)
    assert [ids(loader) for _ in range(3)] == expected
    assert ids(dataset) == expected[1]


def test_workers_go_where_the_stream_goes(jpeg_shards: Path, expected: list[list[list[bytes]]]) -> None:
    one = stream(jpeg_shards)
    loader = DataLoader(StreamDataset(one), batch_size=None, num_workers=2)
    start = one.state_dict()
    assert [ids(loader), ids(loader)] == expected[:2]
    one.load_state_dict(start)
    assert ids(loader) == expected[0]


@pytest.mark.parametrize("persistent", [False, True], ids=["new", "persistent"])
def test_workers_go_where_their_parent_goes(
    jpeg_shards: Path, expected: list[list[list[bytes]]], persistent: bool
) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent)
    state = dataset.state_dict()
    for _ in range(2):
        assert ids(loader) == expected[0]
        dataset.load_state_dict(state | {"step": 4})
        assert [ids(loader), ids(loader)] == [expected[0][4:], expected[1]]
        dataset.load_state_dict(state)


def test_a_position_that_only_workers_know_is_an_error(jpeg_shards: Path) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    for _ in DataLoader(dataset, batch_size=None, num_workers=1):
        with pytest.raises(RuntimeError, match=r"worker processes, .* StatefulDataLoader"):
            dataset.state_dict()
    list(dataset)
    assert (dataset.state_dict()["epoch"], dataset.state_dict()["step"]) == (2, 0)


def test_more_workers_than_batches(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    dataset = StreamDataset(data.stream(batch_size=24, fields=("id",)))
    loader = DataLoader(dataset, batch_size=None, num_workers=3)
    assert [len(list(loader)), len(list(loader))] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0, 1, 5, 9, "end"])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True), (3, False)])
def test_a_stateful_loader_goes_on_bit_for_bit(
    jpeg_shards: Path, expected: list[list[list[bytes]]], workers: int, persistent: bool, stop: int | str
) -> None:
    def loader() -> Any:
        dataset = StreamDataset(stream(jpeg_shards))
        return StatefulDataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=persistent)

    first, second = loader(), loader()
    iterator = iter(first)
    before = ids(iterator) if stop == "end" else ids(next(iterator) for _ in range(int(stop)))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rest = [ids(second), ids(second)]
    assert before == expected[0][: len(before)]
    if stop == "end" or (stop == 9 and workers == 0):  # without workers, an epoch without batches left is done
        assert rest == [expected[1], expected[2]]
    else:
        assert rest == [expected[0][len(before) :], expected[1]]


def test_the_position_is_that_of_the_batch_that_was_given(jpeg_shards: Path) -> None:
    dataset = StreamDataset(stream(jpeg_shards))
    assert dataset.state_dict()["step"] == 0
    for step, _ in enumerate(dataset, 1):
        assert (dataset.state_dict()["epoch"], dataset.state_dict()["step"]) == ((0, step) if step < 9 else (1, 0))
    with pytest.raises(StateError, match="of another stream"):
        StreamDataset(stream(jpeg_shards, seed=4)).load_state_dict(dataset.state_dict())


def test_a_gpu_in_a_worker_is_an_error(jpeg_shards: Path) -> None:
    dataset = StreamDataset(stream(jpeg_shards), device="meta")
    assert next(iter(dataset))["image"].device.type == "meta"
    with pytest.raises(ValueError, match="device=meta: worker processes cannot put tensors there"):
        next(iter(DataLoader(dataset, batch_size=None, num_workers=1)))


@pytest.mark.slow
def test_records_are_read_for_a_sampler(jpeg_shards: Path) -> None:
    data = open_dataset(jpeg_shards)
    dataset = RecordDataset(data, image=CenterCrop(12), fields=FIELDS)
    assert len(dataset) == 60
    record = dataset[7]
    assert record["image"].shape == (3, 12, 12) and record["id"].decode() == data[7]["id"] and "weight" not in record
    assert np.array_equal(record["image"].permute(1, 2, 0).numpy(), CenterCrop(12)(data.image(7)))
    sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(0))
    for workers in (0, 2):
        found: Counter[bytes] = Counter()
        for batch in DataLoader(dataset, batch_size=16, sampler=sampler, num_workers=workers):
            assert batch["image"].shape[1:] == (3, 12, 12) and batch["label"].dtype == torch.int64
            found.update(batch["id"])
        assert found == Counter(data.ids(np.arange(60)).tolist())
    with pytest.raises(IndexError, match="record 60 of 60"):
        dataset[60]
    with pytest.raises(TypeError, match="pass numbers"):
        dataset[2.5]
    assert dataset[-1]["id"] == dataset[59]["id"]


def test_records_as_pairs_and_one_hot(jpeg_shards: Path) -> None:
    dataset = RecordDataset(
        open_dataset(jpeg_shards), image=CenterCrop(12), inputs=("image", "label"), targets="label", one_hot=3
    )
    (images, one_hot), targets = next(iter(DataLoader(dataset, batch_size=8)))
    assert images.shape == (8, 3, 12, 12) and one_hot.shape == (8, 3) and torch.equal(one_hot, targets)


def test_what_is_drawn_for_a_record_depends_on_the_epoch(jpeg_shards: Path) -> None:
    one, two = (RecordDataset(open_dataset(jpeg_shards), image=RandomResizedCrop(12)) for _ in range(2))
    first = one[5]["image"]
    assert torch.equal(first, two.__getitems__([9, 5])[1]["image"])
    one.set_epoch(1)
    assert not torch.equal(first, one[5]["image"])
    loader = DataLoader(one, batch_size=60, num_workers=1, persistent_workers=True)
    drawn = []
    for epoch in (0, 0, 1):
        one.set_epoch(epoch)
        drawn.append(next(iter(loader))["image"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_normalization_is_the_manifests(raw_shards: Path, dtype: str) -> None:
    data = open_dataset(raw_shards)
    module = normalization(data, dtype=getattr(torch, dtype))
    images = torch.cat([images for images in StreamDataset(data.stream(batch_size=12), inputs="image")])
    result = module(images)
    assert result.dtype == getattr(torch, dtype) and result.shape == images.shape and not module.state_dict()
    assert torch.allclose(result.float().mean((0, 2, 3)), torch.zeros(3), atol=0.02)
    assert torch.allclose(result.float().std((0, 2, 3)), torch.ones(3), atol=0.02)


def test_normalization_stays_in_float32(raw_shards: Path) -> None:
    images = next(iter(StreamDataset(open_dataset(raw_shards).stream(batch_size=12), inputs="image")))
    module = normalization(open_dataset(raw_shards))
    expected = module(images)
    assert torch.equal(torch.nn.Sequential(module).bfloat16()(images), expected)


RANK = """
import json, os, sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from shard_reader import CenterCrop, open_dataset
from shard_reader.torch import StreamDataset, normalization

path, steps, state = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
world_size = int(os.environ["WORLD_SIZE"])
distributed.init_process_group("gloo")
torch.manual_seed(0)
data = open_dataset(path)
stream = data.stream(batch_size=12, image=CenterCrop(12), fields=("image", "label", "id"), seed=3)
dataset = StreamDataset(stream)
if state:
    dataset.load_state_dict(state)
model = torch.nn.Sequential(normalization(data), torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 3))
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
ids, losses = [], []
for batch, _ in zip(dataset, range(steps)):
    total = batch["weight"].sum()
    distributed.all_reduce(total)
    each = torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"], reduction="none")
    loss = (each * batch["weight"]).sum() / total
    optimizer.zero_grad()
    (loss * world_size).backward()
    optimizer.step()
    distributed.all_reduce(loss)
    losses.append(loss.item())
    ids.append([id.decode() for id, weight in zip(batch["id"].tolist(), batch["weight"].tolist()) if weight])
everywhere = StreamDataset(data.stream(batch_size=12, image=CenterCrop(12)), distributed=False)
whole = sum(batch["weight"].sum().item() for batch in everywhere)
print(json.dumps({"ids": ids, "losses": losses, "state": dataset.state_dict(), "whole": whole}))
distributed.destroy_process_group()
"""


def ranks(path: Path, world_size: int, steps: int = 5, state: Any = None) -> list[Any]:
    """What each rank of a training with gloo had."""
    return run_ranks(RANK, path, steps, json.dumps(state), world_size=world_size)


def merged(results: list[Any]) -> list[list[str]]:
    """The ids of each global batch."""
    shares = zip(*(result["ids"] for result in results), strict=True)
    return [sorted(id for part in parts for id in part) for parts in shares]


@pytest.mark.slow
def test_ranks_that_train_together_have_each_record_once(jpeg_shards: Path) -> None:
    (alone,) = ranks(jpeg_shards, 1)
    together = ranks(jpeg_shards, 2)
    assert merged(together) == merged([alone]), "the same global batches"
    assert Counter(id for batch in merged(together) for id in batch) == Counter(
        id.decode() for id in open_dataset(jpeg_shards).ids(np.arange(60)).tolist()
    )
    assert np.allclose(alone["losses"], together[0]["losses"], rtol=1e-4)
    assert [result["whole"] for result in (alone, *together)] == [60.0] * 3, "distributed=False reads all of it"


@pytest.mark.slow
def test_a_position_of_two_ranks_is_that_of_three(jpeg_shards: Path) -> None:
    whole = merged(ranks(jpeg_shards, 1))
    first = ranks(jpeg_shards, 2, steps=2)
    state = first[0]["state"]
    # `zip` asked for a third batch before it stopped
    assert state["step"] == 3
    assert merged(first) == whole[:2] and merged(ranks(jpeg_shards, 3, state=state)) == whole[3:]


def test_a_dataset_that_is_made_first_knows_its_rank(jpeg_shards: Path, tmp_path: Path) -> None:
    dataset = StreamDataset(stream(jpeg_shards, batch_size=8))
    assert len(next(iter(dataset))["id"]) == 8
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            assert len(next(iter(dataset))["id"]) == 4
    finally:
        torch.distributed.destroy_process_group()


def test_coverage_of_a_dataset_is_that_of_its_stream(jpeg_shards: Path) -> None:
    one = stream(jpeg_shards)
    assert len(list(StreamDataset(one))) == 9
    assert sum([one.coverage()], Coverage()).covers(one.data.coverage())


def anonymous() -> int:
    """This process's own memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_20_epochs(raw_shards: Path) -> None:
    data: Dataset = open_dataset(raw_shards)
    model = torch.nn.Sequential(normalization(data), torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 16, 3))
    dataset = StreamDataset(data.stream(batch_size=16), inputs="image", targets="label")
    seen = []
    for epoch in range(20):
        for images, labels, weight in dataset:
            each = torch.nn.functional.cross_entropy(model(images), labels, reduction="none")
            (each * weight).mean().backward()
        if epoch in (4, 19):
            gc.collect()
            seen.append(anonymous())
    assert seen[1] - seen[0] < 4 << 20, seen
