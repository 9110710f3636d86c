"""Buckets: batches each of one image size, every record once, in every framework, with exact order and resume."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import prepared
from support.images import write_image

from shard_reader import Flip, RandomResizedCrop, Resize, StateError, open_dataset
from shard_reader.order.buckets import BucketOrder
from shard_reader.order.record_order import OrderOptions
from shard_reader.order.shuffle import shuffled
from shard_reader.stream.stream import Stream

SIZES = [(8, 12), (8, 8), (12, 8)]
SHAPES = [(30, 20), (32, 21), (20, 20), (20, 30), (24, 25)]  # width and height


@pytest.fixture(scope="module")
def photos_of_any_shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images, 16 wide, 16 square and 8 tall ones, in 3 shards of both formats, with masks."""
    root = tmp_path_factory.mktemp("any")
    for number in range(40):
        write_image(root / "in" / "images" / f"{number:03d}.png", number, SHAPES[number % 5])
    options = "--fit none --format tfrecord --format hdf5 --shards 3"
    return prepared(root / "in", root / "out", *options.split())


def stream(path: Path, **options: Any) -> Stream:
    data = open_dataset(path, format=options.pop("format", "tfrecord")).buckets(SIZES)
    return data.stream(**{"batch_size": 6, "image": Resize, "fields": ("image", "id", "width", "height"), **options})


def train(size: tuple[int, int]) -> list[Any]:
    return [RandomResizedCrop(size), Flip()]


@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
@pytest.mark.parametrize("shuffle", ["none", "full", "window"])
def test_each_batch_has_one_size_and_an_epoch_every_record_once(
    photos_of_any_shape: Path, format: str, shuffle: str
) -> None:
    one = stream(photos_of_any_shape, format=format, shuffle=shuffle, lanes=2, window=1)
    for _ in range(2):
        ids: list[bytes] = []
        for batch in one:
            ratio = batch["image"].shape[1] / batch["image"].shape[2]
            others = [height / width for height, width in SIZES]
            for height, width in zip(batch["height"].tolist(), batch["width"].tolist(), strict=True):
                nearest = min(others, key=lambda other: abs(np.log(other * width / height)))
                assert nearest == ratio
            ids += batch["id"][batch["weight"] > 0].tolist()
        assert sorted(ids) == sorted(one.data.ids().tolist())
        assert one.coverage().covers(one.data.coverage())
    assert len(one) == 3 + 3 + 2


def test_the_batches_of_all_sizes_come_in_random_order(photos_of_any_shape: Path) -> None:
    one = stream(photos_of_any_shape)
    orders = [[batch["image"].shape[1:3] for batch in one] for _ in range(4)]
    assert len({tuple(order) for order in orders}) > 1
    assert all(Counter(order) == Counter(orders[0]) for order in orders)


@pytest.mark.parametrize("shuffle", ["none", "window"])
def test_all_sizes_come_from_the_same_shards_at_a_time(shuffle: str) -> None:
    shards, records = 60, 50
    shard_of = np.repeat(np.arange(shards), records)
    buckets = np.random.default_rng(3).integers(0, 3, len(shard_of))
    members = [np.flatnonzero(buckets == number) for number in range(3)]
    options = OrderOptions(shuffle=shuffle, seed=4, lanes=2, window=2, batch_size=8, remainder="pad")
    sizes = [np.bincount(shard_of[numbers], minlength=shards) for numbers in members]
    order = BucketOrder(
        [shuffled(sum(one), options, lambda one=one: one, by_mean=True) for one in sizes], members, options
    )
    for epoch in range(2):
        positions = np.arange(order.records)
        positions = positions[~order.is_padding(epoch, positions)]
        found = order.at(epoch, positions)
        assert np.array_equal(np.sort(found), np.arange(len(shard_of)))
        used = [np.flatnonzero(shard_of[found] == shard) for shard in range(shards)]
        in_use = [sum(one[0] <= place <= one[-1] for one in used) for place in range(len(found))]
        assert max(in_use) <= (3 * 2 * (2 + 1) if shuffle == "window" else 6)


def test_drop_leaves_out_the_last_batch_of_each_size(photos_of_any_shape: Path) -> None:
    one = stream(photos_of_any_shape, remainder="drop")
    batches = list(one)
    assert len(one) == len(batches) == 2 + 2 + 1
    assert all(len(batch["image"]) == 6 and batch["weight"].all() for batch in batches)


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_a_resume_with_other_ranks_gives_the_same_batches(photos_of_any_shape: Path, workers: str) -> None:
    options = {"image": train, "workers": workers, "threads": 2}
    whole = [batch for batch in stream(photos_of_any_shape, **options)]
    one = stream(photos_of_any_shape, **options)
    batches = iter(one)
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(one.state_dict()))
    del batches
    ranks = [stream(photos_of_any_shape, **options, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    for expected, *shares in zip(whole[3:], *ranks, strict=True):
        for name in ("image", "id", "weight"):
            together = np.stack([share[name] for share in shares], axis=1).reshape(expected[name].shape)
            assert np.array_equal(together, expected[name])
    for each in (one, *ranks):
        each.close()


def test_a_copy_goes_on_where_the_stream_was(photos_of_any_shape: Path) -> None:
    one = stream(photos_of_any_shape, image=train)
    batches = iter(one)
    next(batches)
    copied = pickle.loads(pickle.dumps(one))
    assert [a["image"].tobytes() for a in copied] == [b["image"].tobytes() for b in batches]


def test_a_position_of_other_sizes_is_refused(photos_of_any_shape: Path) -> None:
    data = open_dataset(photos_of_any_shape)
    state = stream(photos_of_any_shape, fields=("image",)).state_dict()
    for other in (
        data.stream(batch_size=6, image=Resize(8)),
        data.buckets(SIZES[:2]).stream(batch_size=6, image=Resize),
    ):
        with pytest.raises(StateError, match="another stream"):
            other.load_state_dict(state)


def test_specs_leave_the_sides_open(photos_of_any_shape: Path) -> None:
    assert stream(photos_of_any_shape).specs["image"].shape == (None, None, 3)


def test_records_of_one_size_are_taken_as_a_batch(photos_of_any_shape: Path) -> None:
    one = stream(photos_of_any_shape)
    wide = np.flatnonzero(one.data.buckets_of(np.arange(40)) == 0)
    assert one.take(wide)["image"].shape == (16, 8, 12, 3)
    with pytest.raises(ValueError, match="have images of different sizes"):
        one.take(range(40))


def test_tensorflow_takes_batches_of_several_sizes(photos_of_any_shape: Path) -> None:
    tf_data = pytest.importorskip("shard_reader.tf_data")
    dataset = tf_data.as_dataset(stream(photos_of_any_shape, fields=("image",)))
    assert dataset.element_spec["image"].shape.as_list() == [6, None, None, 3]
    expected = list(stream(photos_of_any_shape, fields=("image",)))
    for found, batch in zip(dataset, expected, strict=True):
        assert np.array_equal(found["image"], batch["image"]) and np.array_equal(found["weight"], batch["weight"])


def test_pytorch_takes_batches_of_several_sizes(photos_of_any_shape: Path) -> None:
    torch_adapter = pytest.importorskip("shard_reader.torch")
    dataset = torch_adapter.StreamDataset(stream(photos_of_any_shape, fields=("image",)))
    shapes = {tuple(batch["image"].shape[2:]) for batch in dataset}
    assert shapes == set(SIZES)


def test_jax_takes_batches_of_several_sizes(photos_of_any_shape: Path) -> None:
    jax_adapter = pytest.importorskip("shard_reader.jax")
    batches = jax_adapter.GlobalBatches(stream(photos_of_any_shape, fields=("image",)))
    shapes = {batch["image"].shape[1:3] for batch in batches}
    assert shapes == set(SIZES)


def test_keras_trains_on_batches_of_several_sizes(photos_of_any_shape: Path) -> None:
    keras = pytest.importorskip("keras")
    tf_data = pytest.importorskip("shard_reader.tf_data")
    from shard_reader.keras import ShardSequence

    one = stream(photos_of_any_shape, fields=("image", "width"))
    with pytest.raises(ValueError, match="8 records of padding"):
        tf_data.as_dataset(one, inputs="image", targets="width", weight=None)
    if keras.config.backend() == "tensorflow":
        with pytest.raises(ValueError, match=r"several image sizes, and Keras .*as_dataset"):
            ShardSequence(one, inputs="image", targets="width")
    dataset = tf_data.as_dataset(one, inputs="image", targets="width", weight="weight")
    pooled = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((None, None, 3)), pooled, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert len(model.fit(dataset, epochs=2, verbose=0, shuffle=False).history["loss"]) == 2


def _fails(size: tuple[int, int]) -> Any:
    raise RuntimeError("no such size")


ERRORS = {
    "none": ({"image": None}, "image=None: batches have several image sizes: pass a function from a size"),
    "transform": ({"image": Resize(8)}, r"image=Resize\(size=8, .*: batches have several image sizes"),
    "list": ({"image": [Flip()]}, "batches have several image sizes"),
    "nothing": ({"image": lambda size: []}, r"gives no transform for the size \(8, 12\)"),
    "fails": ({"image": _fails}, r"failed for the size \(8, 12\): RuntimeError"),
    "keep": ({"remainder": "keep"}, "remainder='keep': each bucket has a last batch"),
    "mapping": ({"image": None, "transform": {"image": Flip()}}, r"transform\['image'\]=Flip"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_wrong_option_is_one_clear_error(photos_of_any_shape: Path, name: str) -> None:
    options, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        stream(photos_of_any_shape, **options)


SIZE_ERRORS = {
    "empty": ([], ValueError, r"sizes=\[\]: pass a size"),
    "number": (224, TypeError, "sizes=224: must be several"),
    "same ratio": ([8, (16, 16)], ValueError, r"\(8, 8\) and \(16, 16\) have the same aspect ratio"),
    "none": (None, TypeError, "sizes=None: must be several"),
    "zero": ([(0, 8)], ValueError, r"size=\(0, 8\): must be at least 1"),
    "text": (["8x8"], TypeError, "must be an integer, or"),
}


@pytest.mark.parametrize("name", SIZE_ERRORS)
def test_wrong_sizes_are_one_clear_error(photos_of_any_shape: Path, name: str) -> None:
    sizes, kind, message = SIZE_ERRORS[name]
    with pytest.raises(kind, match=message):
        open_dataset(photos_of_any_shape).buckets(sizes)
