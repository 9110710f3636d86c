"""What `as_dataset` gives: memory as it is, elements of any form, training on several devices, nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shard_reader import CenterCrop, Resize, Stream, open_dataset

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from shard_reader.tf_data import as_dataset, as_tensors, normalization  # noqa: E402  # after the check that it can be


def stream(path: Path, **options: Any) -> Stream:
    """60 crops in 9 batches of 7, the last with 3 of padding."""
    chosen: dict[str, Any] = {"batch_size": 7, "image": CenterCrop(12), "seed": 3, **options}
    return open_dataset(path).stream(**chosen)


def test_images_are_not_copied(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = Stream.__iter__

    def watched(self: Stream) -> Any:
        for batch in original(self):
            made.append(batch["image"].ctypes.data)
            yield batch

    monkeypatch.setattr(Stream, "__iter__", watched)
    dataset = as_dataset(stream(jpeg_shards), inputs="image", targets="label")
    found = [np.from_dlpack(images).ctypes.data for images, *_ in dataset]
    assert found == made and len(found) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw_shards", "jpeg_shards"])
def test_batches_that_are_kept_stay_as_they_are(name: str, request: pytest.FixtureRequest) -> None:
    """Their memory is used again only when nobody holds it."""
    path = request.getfixturevalue(name)
    options: dict[str, Any] = {"image": None} if name == "raw_shards" else {}
    kept = list(as_dataset(stream(path, **options)))
    gc.collect()
    for found, batch in zip(kept, stream(path, **options), strict=True):
        assert all(np.array_equal(found[key].numpy(), batch[key]) for key in ("image", "label", "weight"))


def test_tensors_of_a_batch_share_its_memory(jpeg_shards: Path) -> None:
    for batch in stream(jpeg_shards, image=Resize((50, 50)), fields=("image", "label", "id")):
        tensors = as_tensors(batch)
        assert np.from_dlpack(tensors["image"]).ctypes.data == batch["image"].ctypes.data
        assert {name: tensor.numpy().tolist() for name, tensor in tensors.items()} == {
            name: values.tolist() for name, values in batch.items()
        }


@pytest.mark.parametrize("offset", [0, 1, 16, 64])
@pytest.mark.parametrize("writeable", [True, False])
def test_tensors_can_be_computed_with(offset: int, writeable: bool) -> None:
    """TensorFlow ends the process when it computes with memory that is not aligned."""
    memory = np.zeros(1 << 20, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    images = memory[start : start + 3 * 80 * 80 * 3].reshape(3, 80, 80, 3)
    images[...] = 7
    images.flags.writeable = writeable
    found = as_tensors({"image": images, "label": np.arange(3), "label/mask": np.ones((3, 2), bool)})
    assert tf.reduce_sum(tf.cast(found["image"], tf.float64)).numpy() == 7 * images.size
    assert tf.image.resize(found["image"], (8, 8)).shape == (3, 8, 8, 3)
    assert found["label"].numpy().tolist() == [0, 1, 2] and found["label/mask"].dtype == tf.bool


def test_lists_are_no_tensors() -> None:
    lists = np.empty(2, object)
    lists[:] = [np.arange(2), np.arange(3)]
    with pytest.raises(ValueError, match=r"'tags' is a list, of another length in each record"):
        as_tensors({"tags": lists})


def test_unaligned_arrays_arrive_as_they_are(raw_shards: Path) -> None:
    """Those of raw images of more than 16 KB a batch, which are copied to where TensorFlow takes them."""
    one, other = (stream(raw_shards, image=None, batch_size=48) for _ in range(2))
    (found,), (batch,) = list(as_dataset(one)), list(other)
    assert np.array_equal(found["image"].numpy(), batch["image"]) and batch["image"].nbytes > 1 << 14


def test_elements_are_made_in_the_graph(jpeg_shards: Path) -> None:
    dataset = as_dataset(
        stream(jpeg_shards),
        inputs=lambda batch: tf.image.resize(batch["image"], (6, 6)),
        targets=("label", "label"),
        one_hot=True,
    )
    images, (one, two), weight = dataset.element_spec
    assert (images.shape, images.dtype) == ((7, 6, 6, 3), tf.float32)
    assert (one.shape, one.dtype) == (two.shape, two.dtype) == ((7, 3), tf.float32) and weight.shape == (7,)
    assert dataset.cardinality().numpy() == 9 and sum(float(tf.reduce_sum(part[2])) for part in dataset) == 60


def test_normalization_is_the_manifests(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    batches = as_dataset(data.stream(batch_size=48), inputs="image").map(normalization(data))
    images = next(iter(batches)).numpy()
    assert np.allclose(images.mean((0, 1, 2)), 0, atol=0.01) and np.allclose(images.std((0, 1, 2)), 1, atol=0.01)


def test_predictions_are_in_the_order_of_the_ids(jpeg_shards: Path) -> None:
    model = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    data = open_dataset(jpeg_shards)
    options: dict[str, Any] = {"batch_size": 7, "shuffle": "none", "remainder": "keep", "image": CenterCrop(12)}
    rows = model.predict(as_dataset(data.stream(**options), inputs="image"), verbose=0)
    alone = np.concatenate([model.predict_on_batch(CenterCrop(12)(data.image(n))[np.newaxis]) for n in range(60)])
    assert rows.shape == (60, 4) and np.allclose(rows, alone, rtol=1e-4, atol=1e-3)


def test_padding_counts_nothing_in_losses_and_metrics(jpeg_shards: Path) -> None:
    """The same evaluation with batches that divide the records and batches that do not."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, weighted_metrics=["accuracy"])
    found = [
        model.evaluate(as_dataset(stream(jpeg_shards, batch_size=size), inputs="image", targets="label"), verbose=0)[1]
        for size in (7, 59, 60)
    ]
    assert found == pytest.approx([found[-1]] * 3, abs=1e-6)


def test_a_repeated_dataset_has_an_epoch_after_the_other(jpeg_shards: Path) -> None:
    one, other = (stream(jpeg_shards, fields=("id",)) for _ in range(2))
    expected = [batch["id"].tolist() for _ in range(2) for batch in one]
    assert [batch["id"].numpy().tolist() for batch in as_dataset(other).repeat(2)] == expected


def decoders() -> set[threading.Thread]:
    """The threads of streams."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("shard_reader")}


@pytest.mark.slow
def test_a_stream_that_is_dropped_is_gone(jpeg_shards: Path) -> None:
    """Though TensorFlow keeps the function that a dataset was made of."""
    for breaks_off in (False, True):
        one = stream(jpeg_shards, threads=1)
        gone, before = weakref.ref(one), decoders()
        dataset = as_dataset(one, inputs="image", targets="label").prefetch(2)
        for _ in dataset:
            if breaks_off:
                break
        assert decoders() - before
        del one
        gc.collect()
        assert gone() is not None, "the dataset has it"
        del dataset
        gc.collect()
        assert gone() is None
        for thread in decoders() - before:
            thread.join(300)
            assert not thread.is_alive()


def test_a_stream_is_kept_by_what_is_made_of_its_dataset(jpeg_shards: Path) -> None:
    iterator = iter(as_dataset(stream(jpeg_shards), inputs="image", targets="label").map(lambda *x: x).prefetch(1))
    gc.collect()
    assert len(list(iterator)) == 9


MIRRORED = """
import json, sys
import keras, numpy as np, tensorflow as tf
from shard_reader import CenterCrop, open_dataset
from shard_reader.tf_data import as_dataset

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
stream = open_dataset(sys.argv[1]).stream(batch_size=8, image=CenterCrop(12), fields=("image", "label", "id"))
seen = []
for batch in strategy.experimental_distribute_dataset(as_dataset(stream)):
    parts = [strategy.experimental_local_results(batch[name]) for name in ("id", "weight")]
    assert len(parts[0]) == 2
    for ids, weights in zip(*parts):
        seen += [id.decode() for id, weight in zip(ids.numpy().tolist(), weights.numpy().tolist()) if weight]
with strategy.scope():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), weighted_metrics=["accuracy"])
data = as_dataset(stream, inputs="image", targets="label")
history = model.fit(data, epochs=2, verbose=0)
print(json.dumps({"seen": seen, "replicas": strategy.num_replicas_in_sync, "losses": history.history["loss"]}))
"""


@pytest.mark.slow
def test_a_mirrored_strategy_divides_each_batch(jpeg_shards: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MIRRORED, str(jpeg_shards)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    ids = open_dataset(jpeg_shards).ids(np.arange(60)).tolist()
    assert Counter(found["seen"]) == Counter(id.decode() for id in ids)
    assert found["replicas"] == 2 and np.isfinite(found["losses"]).all() and len(found["losses"]) == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_share_of_a_rank_is_not_divided_again(raw_shards: Path, ranks: int) -> None:
    """As a strategy with two workers divides what each of them iterates."""
    from tensorflow.python.data.experimental.ops import distribute

    one = open_dataset(raw_shards).stream(batch_size=8, fields=("id",), world_size=ranks)
    divided = distribute._AutoShardDataset(as_dataset(one), 2, 0)
    assert sum(len(batch["id"]) for batch in divided) == 24
