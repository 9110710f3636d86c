"""TensorFlow and Keras on a stream: static types, and each record once an epoch in real training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY, prepared

from shard_reader import CenterCrop, Dataset, Stream, concat, open_dataset

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from shard_reader.keras import ShardSequence  # noqa: E402  # after the check that it can be
from shard_reader.tf_data import as_dataset  # noqa: E402


class Witness(keras.Model):
    """A model that learns nothing and keeps the bytes of every image it is trained on, and its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, float]] = []

    def train_step(self, data: Any) -> dict[str, Any]:
        images, _, weights = data
        pairs = zip(np.asarray(images), np.asarray(weights), strict=True)
        self.seen += [(image.tobytes(), float(weight)) for image, weight in pairs]
        return {"seen": tf.constant(len(self.seen))}

    def call(self, inputs: Any) -> Any:
        return inputs

    def epochs(self, per_epoch: int) -> list[Counter[bytes]]:
        """The images of each epoch that are no padding."""
        parts = [self.seen[n : n + per_epoch] for n in range(0, len(self.seen), per_epoch)]
        return [Counter(image for image, weight in part if weight) for part in parts]


def witness() -> Witness:
    model = Witness()
    model.compile(run_eagerly=True)
    return model


def images_of(data: Dataset) -> Counter[bytes]:
    return Counter(data.image(n).tobytes() for n in range(len(data)))


@pytest.fixture(scope="module")
def cifar10_shards(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cifar10") / "shards"
    options = "--size 32x32 --encoding raw --format hdf5 --format tfrecord --shard-records 700"
    return prepared(cifar10, output, *options.split())


@pytest.fixture(params=["tfrecord", "hdf5"])
def stream(cifar10_shards: Path, request: pytest.FixtureRequest) -> Stream:
    """3,000 images in batches of 128, the last of them padded with 72."""
    return open_dataset(cifar10_shards, format=request.param).stream(batch_size=128, seed=4)


@pytest.mark.slow
def test_the_stream_gives_each_record_once(stream: Stream) -> None:
    expected = sorted(path.encode() for path in ids_on_disk(stream))
    named = stream.data.stream(batch_size=128, seed=4, fields=("id",))
    for _ in range(2):
        assert sorted(id for batch in named for id in batch["id"][batch["weight"] > 0].tolist()) == expected
    assert len(expected) == 3000


def test_the_adapters_give_each_id_once_an_epoch(stream: Stream) -> None:
    expected = sorted(path.encode() for path in ids_on_disk(stream))
    dataset = as_dataset(stream.data.stream(batch_size=128, seed=4, fields=("id",)))
    sequence = ShardSequence(stream.data.stream(batch_size=128, seed=4, fields=("id", "label")), inputs="id")
    for _ in range(2):
        given = [(batch["id"].numpy(), batch["weight"].numpy()) for batch in dataset]
        assert sorted(id for ids, weights in given for id in ids[weights > 0].tolist()) == expected
        sequence.on_epoch_begin()
        parts = [sequence[step] for step in range(len(sequence))]
        assert sorted(id for ids, _, weights in parts for id in ids[weights > 0].tolist()) == expected
        sequence.on_epoch_end()


def ids_on_disk(stream: Stream) -> list[str]:
    root = Path(str(stream.data.manifest.options["input"]))
    return [str(path.relative_to(root)) for path in (root / "train").rglob("*.jpg")]


@pytest.mark.slow
def test_training_from_as_dataset_sees_each_record_once(stream: Stream) -> None:
    model = witness()
    model.fit(as_dataset(stream, inputs="image", targets="label"), epochs=3, shuffle=False, verbose=0)
    epochs = model.epochs(24 * 128)
    assert epochs == [images_of(stream.data)] * 3
    orders = [[image for image, _ in model.seen[n * 24 * 128 :][:3000]] for n in range(3)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"workers": 3}], ids=str)
@pytest.mark.parametrize("shuffle", [False, True])
def test_training_from_a_sequence_sees_each_record_once(stream: Stream, options: dict[str, int], shuffle: bool) -> None:
    model = witness()
    model.fit(ShardSequence(stream, **options), epochs=3, shuffle=shuffle, verbose=0)
    assert model.epochs(3000) == [images_of(stream.data)] * 3


def test_a_sequence_without_shuffle_is_in_the_order_of_the_stream(stream: Stream) -> None:
    model = witness()
    model.fit(ShardSequence(stream), shuffle=False, verbose=0)
    images = [image.tobytes() for batch in stream for image in batch["image"]]
    assert [image for image, _ in model.seen] == images[:3000], "without the padding"


def test_one_batch_of_a_sequence_reads_one_batch_and_nothing_else(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Dataset.locate
    monkeypatch.setattr(Dataset, "locate", lambda data, records: (read.extend(records), original(data, records))[1])
    images, labels, weights = ShardSequence(stream)[5]
    records = stream.order.records_of(0, 5, 6)
    assert sorted(read) == sorted(records.tolist())
    assert np.array_equal(labels, stream.data.column("label", records))
    assert (images.shape, weights.sum()) == ((128, 32, 32, 3), 128)
    assert (stream.epoch, stream.step) == (0, 0)


def test_a_dataset_has_static_shapes_and_its_length(stream: Stream) -> None:
    dataset = as_dataset(stream)
    assert dataset.cardinality().numpy() == 24
    assert {name: (tuple(spec.shape), spec.dtype) for name, spec in dataset.element_spec.items()} == {
        "image": ((128, 32, 32, 3), tf.uint8),
        "label": ((128,), tf.int64),
        "weight": ((128,), tf.float32),
    }
    tuples = as_dataset(stream, inputs="image", targets="label").element_spec
    assert [tuple(spec.shape) for spec in tuples] == [(128, 32, 32, 3), (128,), (128,)]


def test_a_kept_remainder_has_a_batch_of_its_own_size(cifar10_shards: Path) -> None:
    data = open_dataset(cifar10_shards, "test")
    sizes = [len(batch["image"]) for batch in as_dataset(data.stream(batch_size=256, remainder="keep"))]
    assert sizes == [256, 256, 88]


def test_a_restored_stream_goes_on_in_tf_data(stream: Stream) -> None:
    expected = [batch["label"].tolist() for batch in stream]
    stream.load_state_dict(stream.state_dict() | {"epoch": 0, "step": 10})
    dataset = as_dataset(stream)
    assert dataset.cardinality().numpy() == 14
    assert [batch["label"].numpy().tolist() for batch in dataset] == expected[10:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="the rest of an epoch is done: call as_dataset again"):
        list(dataset)  # Keras would take every epoch for one of 14 batches
    assert len(list(as_dataset(stream))) == 24


def test_a_position_that_changes_behind_a_dataset_is_an_error(stream: Stream) -> None:
    dataset = as_dataset(stream)
    stream.load_state_dict(stream.state_dict() | {"epoch": 0, "step": 10})
    with pytest.raises(tf.errors.InvalidArgumentError, match="call as_dataset again"):
        list(dataset)


def test_a_loop_that_breaks_off_does_not_shorten_the_next(stream: Stream) -> None:
    dataset = as_dataset(stream)
    assert len(list(dataset.take(3))) == 3
    assert len(list(dataset)) == 24


def test_ids_arrive_as_strings(stream: Stream) -> None:
    named = stream.data.stream(batch_size=128, fields=("id",))
    first = next(iter(as_dataset(named)))
    assert first["id"].dtype == tf.string
    assert first["id"].numpy().tolist() == named.batch(0, 0)["id"].tolist()


def test_crops_of_jpegs_train(jpeg_shards: Path) -> None:
    stream = open_dataset(jpeg_shards).stream(batch_size=20, image=CenterCrop(16))
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(as_dataset(stream, inputs="image", targets="label"), shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.predict(ShardSequence(stream), verbose=0).shape == (60, 3)


def test_lists_are_tensors_when_they_are_padded() -> None:
    data = open_dataset(REPOSITORY / "tests/reader/format/golden/v1/fields")
    fields = ("label", "tags", "camera")
    with pytest.raises(ValueError, match=r"'label' is a list, .* ragged=\"pad\""):
        as_dataset(data.stream(batch_size=2, fields=fields))
    for ragged, size in (("pad", 2), (5, 5)):
        dataset = as_dataset(data.stream(batch_size=2, shuffle="none", fields=fields, ragged=ragged))
        batch = next(iter(dataset.as_numpy_iterator()))
        assert batch["label"].shape == batch["label/mask"].shape == batch["tags"].shape == (2, size)
        assert batch["tags"][0, 0] == b"x" and batch["camera"].shape == (2, 2, 2)


@pytest.mark.parametrize("names", [("image", None), (None, "label"), ("image", "box")], ids=str)
def test_fields_that_are_not_there_are_named(stream: Stream, names: tuple[str | None, str | None]) -> None:
    with pytest.raises(ValueError, match=r"without inputs|records of padding|'box' is not among"):
        as_dataset(stream, inputs=names[0], targets=names[1])


def test_a_dataset_is_no_stream(stream: Stream) -> None:
    for adapter in (as_dataset, ShardSequence):
        with pytest.raises(TypeError, match=r"is no Stream: pass data\.stream"):
            adapter(stream.data)


def test_a_sequence_needs_its_fields(stream: Stream) -> None:
    with pytest.raises(ValueError, match="'box' is not among the stream's fields"):
        ShardSequence(stream, targets="box")


def test_several_datasets_as_one_reach_each_framework(raw_shards: Path) -> None:
    torch = pytest.importorskip("torch")
    from shard_reader.torch import RecordDataset, StreamDataset

    both = concat([open_dataset(raw_shards, split) for split in ("train", "val")])
    expected = sorted(both.ids().tolist())
    assert len(expected) == 60
    fields = ("id", "label", "image")

    def ids(batches: Iterable[Any]) -> list[bytes]:
        return sorted(id for batch in batches for id, w in zip(batch["id"], batch["weight"], strict=True) if w)

    given = ids(
        {name: value.numpy() for name, value in batch.items()} for batch in as_dataset(new_stream(both, fields))
    )
    assert given == expected
    sequence = ShardSequence(new_stream(both, ("id", "label")), inputs="id")
    parts = [sequence[step] for step in range(len(sequence))]
    assert sorted(id for found, _, weights in parts for id in found[weights > 0].tolist()) == expected
    assert ids(StreamDataset(new_stream(both, fields))) == expected
    records = RecordDataset(both)
    assert len(records) == 60
    assert isinstance(records[59]["image"], torch.Tensor)


def new_stream(data: Any, fields: tuple[str, ...]) -> Stream:
    return data.stream(batch_size=16, seed=4, fields=fields)  # type: ignore[no-any-return]
