"""Balanced and weighted datasets: streams with exact counts for any ranks, batches and resumes, and errors."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import prepared
from support.images import write_image
from support.several import SEVERAL, several_images, several_record
from support.stored import write_manifest

from beam_jobs.shards.write import store
from shard_reader import StateError, concat, mix, open_dataset
from shard_reader.dataset.sampling.sampled import repeat_factors
from shard_reader.order.coverage import Coverage
from shard_reader.stream.stream import Stream


def labels_of(batches: list[dict[str, Any]]) -> list[int]:
    return [label for batch in batches for label in batch["label"][batch["weight"] > 0].tolist()]


def unbalanced(path: Path) -> Any:
    """Records of which classes have 1, 2, 3 ... of."""
    data = open_dataset(path)
    labels = data.column("label")
    return data.select(np.concatenate([np.flatnonzero(labels == label)[: label + 1] for label in np.unique(labels)]))


@settings(max_examples=25)
@given(
    power=st.sampled_from([0, 0.5, 1]),
    stratified=st.booleans(),
    share=st.integers(1, 5),
    world_size=st.sampled_from([1, 2, 3]),
    later=st.sampled_from([1, 2, 3]),
    epoch=st.integers(0, 5),
    data=st.data(),
)
def test_counts_are_exact_after_a_resume_with_other_ranks(
    raw_shards: Path,
    power: float,
    stratified: bool,
    share: int,
    world_size: int,
    later: int,
    epoch: int,
    data: st.DataObject,
) -> None:
    sampled = unbalanced(raw_shards).balanced("label", power=power, stratified=stratified)
    size = share * 6

    def ranks(count: int) -> list[Stream]:
        options: Any = {"batch_size": size, "fields": ("label", "id"), "seed": 7}
        return [sampled.stream(**options, rank=rank, world_size=count) for rank in range(count)]

    streams = ranks(world_size)
    stop = data.draw(st.integers(0, len(streams[0])))
    given_ = [stream.batch(epoch, step) for stream in streams for step in range(stop)]
    state = json.loads(json.dumps(streams[0].state_at(stop, epoch)))
    rest, total = [], Coverage()
    for stream in ranks(later):
        stream.load_state_dict(state)
        if stop < len(stream):
            rest += list(stream)
            total += stream.coverage()
    found = Counter(labels_of(given_ + rest))
    assert found == Counter(dict(enumerate(sampled._sampling.class_counts.tolist())))
    assert stop == len(streams[0]) or total.covers(sampled.coverage(epoch))


def test_an_epoch_has_the_counts_that_are_known_in_advance(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    for sampled in (
        data.balanced("label"),
        data.weighted(np.arange(len(data))),
        data.balanced("label", stratified=True),
    ):
        stream = sampled.stream(batch_size=10, fields=("label", "id"))
        for epoch in range(3):
            ids = Counter(id for batch in stream for id in batch["id"][batch["weight"] > 0].tolist())
            expected = dict(zip(data.ids().tolist(), sampled.counts(epoch).tolist(), strict=True))
            assert ids == Counter({id: count for id, count in expected.items() if count})
            assert stream.coverage().covers(sampled.coverage(epoch))


def test_classes_are_as_often_as_the_power_says(raw_shards: Path) -> None:
    data = unbalanced(raw_shards)
    names = data.class_names
    assert list(data.balanced().class_counts) == list(names)
    sizes = Counter(data.column("label").tolist())
    assert data.balanced(power=1).class_counts == {names[label]: count for label, count in sizes.items()}
    assert set(data.balanced(epoch_records=60).class_counts.values()) == {60 // len(names)}
    roots = data.balanced(power=0.5, epoch_records=10_000).class_counts
    assert roots[names[-1]] / roots[names[0]] == pytest.approx(np.sqrt(len(names)), rel=1e-2)


@pytest.mark.parametrize("shuffle", ["none", "full", "window"])
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_every_shuffle_gives_the_same_records(raw_shards: Path, shuffle: Any, format: Any) -> None:
    sampled = open_dataset(raw_shards, format=format).weighted(np.linspace(0, 3, 48), epoch_records=100)
    stream = sampled.stream(batch_size=8, shuffle=shuffle, lanes=4, window=1)
    images = sum(int(batch["weight"].sum()) for batch in stream)
    assert images == 100 and stream.coverage().covers(sampled.coverage())


def test_stored_order_repeats_records_side_by_side(raw_shards: Path) -> None:
    sampled = open_dataset(raw_shards).weighted([2, 0, 3] + [0] * 45, epoch_records=5)
    (batch,) = sampled.stream(batch_size=5, shuffle="none", fields=("id",))
    ids = sampled.ids().tolist()
    assert batch["id"].tolist() == [ids[0]] * 2 + [ids[2]] * 3


def test_a_copy_goes_on_where_the_stream_was(raw_shards: Path) -> None:
    for sampled in (open_dataset(raw_shards).balanced(power=0.3), open_dataset(raw_shards).weighted(np.arange(1, 49))):
        stream = sampled.stream(batch_size=8)
        batches = iter(stream)
        next(batches)
        copied = pickle.loads(pickle.dumps(stream))
        assert [a["image"].tobytes() for a in copied] == [b["image"].tobytes() for b in batches]
        assert repr(copied.data) == repr(sampled) and "48 " in repr(sampled)


def test_a_position_of_another_sampling_is_refused(raw_shards: Path) -> None:
    data = unbalanced(raw_shards)
    state = data.balanced(power=0.5, epoch_records=60).stream(batch_size=8).state_dict()
    stratified = data.balanced(power=0.5, epoch_records=60, stratified=True)
    others = [data, data.balanced(epoch_records=60), stratified, data.weighted(np.ones(6), epoch_records=60)]
    for other in others:
        with pytest.raises(StateError, match="another stream"):
            other.stream(batch_size=8).load_state_dict(state)


def test_transforms_draw_anew_for_each_repetition(raw_shards: Path) -> None:
    """A record that comes twice in an epoch is augmented by its positions."""
    from shard_reader import RandomResizedCrop

    sampled = open_dataset(raw_shards).weighted([1] + [0] * 47, epoch_records=16)
    (batch,) = sampled.stream(batch_size=16, image=RandomResizedCrop(8))
    assert len({image.tobytes() for image in batch["image"]}) > 8


def test_sampled_datasets_are_sources_of_a_mixture(raw_shards: Path) -> None:
    data = unbalanced(raw_shards)
    mixture = mix([data.balanced(epoch_records=50), data], [0.5, 0.5], epoch_records=1000)
    stream = mixture.stream(batch_size=10, fields=("label", "id"))
    records = stream.order.records_of(0, 0, len(stream))
    counts = np.bincount(data.column("label")[records[records < len(data)]])
    assert counts.tolist() == [count * 10 for count in data.balanced(epoch_records=50).class_counts.values()]


def test_a_concatenation_is_balanced_as_one(raw_shards: Path) -> None:
    parts = [open_dataset(raw_shards), unbalanced(raw_shards)]
    sampled = concat(parts).balanced("label", epoch_records=30)
    labels = labels_of(list(sampled.stream(batch_size=10, fields=("label",))))
    assert len(set(Counter(labels).values())) == 1


def test_images_with_rare_objects_come_more_often(tmp_path: Path) -> None:
    """20 images with a common object, of which two have a rare one, too, and one has none."""
    numbers = range(20)
    for number in numbers:
        write_image(tmp_path / "in" / f"{number}.png", number)
    objects = [(number, 1) for number in numbers[1:]] + [(3, 2), (7, 2), (7, 2)]
    boxes = [
        {"id": n, "image_id": image, "category_id": kind, "bbox": [1, 1, 5, 5]}
        for n, (image, kind) in enumerate(objects)
    ]
    coco = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 20, "height": 16} for number in numbers],
        "categories": [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}],
        "annotations": boxes,
    }
    (tmp_path / "in" / "coco.json").write_text(json.dumps(coco))
    data = open_dataset(prepared(tmp_path / "in" / "coco.json", tmp_path / "out", "--fit", "none", "--shards", "1"))
    sampled = data.balanced("objects/label", threshold=0.4)
    by_name = dict(
        zip(data.ids().tolist(), np.sum([sampled.counts(epoch) for epoch in range(100)], axis=0), strict=True)
    )
    assert sampled.epoch_records == 22  # of two records a factor of 2: sqrt(0.4 / 0.1)
    assert {name: count for name, count in by_name.items() if count != 100} == {b"3.png": 200, b"7.png": 200}
    stream = sampled.stream(batch_size=8, fields=("id", "objects/label"))
    assert sum(int(batch["weight"].sum()) for batch in stream) == 22 and stream.coverage().covers(sampled.coverage())
    with pytest.raises(
        ValueError, match="a record has several values of 'objects/label', so that epochs follow thresh"
    ):
        data.balanced("objects/label", power=0.5)


def test_repeat_factors_are_those_of_the_rarest_category() -> None:
    class Lists:
        def __len__(self) -> int:
            return 8

        def column(self, name: str) -> list[Any]:
            return [np.array(one, np.int64) for one in ([0], [0, 0], [0], [0, 1], [0], [0], [0], [])]

    found = repeat_factors(Lists(), "objects/label", 0.5)  # type: ignore[arg-type]
    assert found.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]  # category 1 is in an eighth of the records: sqrt(0.5 / 0.125)


@pytest.mark.parametrize("view", ["balanced", "weighted", "buckets"])
def test_readers_of_single_records_refuse_epochs_that_they_would_not_follow(raw_shards: Path, view: str) -> None:
    data = open_dataset(raw_shards)
    views = {"balanced": data.balanced(), "weighted": data.weighted(np.ones(48)), "buckets": data.buckets([8])}
    with pytest.raises(ValueError, match=r"epochs of RecordDataset .* StreamDataset\(data\.stream"):
        pytest.importorskip("shard_reader.torch").RecordDataset(views[view])
    with pytest.raises(ValueError, match="epochs of ShardReader"):
        pytest.importorskip("shard_reader.timm").ShardReader(views[view])


ERRORS = {
    "field": (lambda data: data.balanced("lable"), ValueError, r"'lable' is not one of the fields label, "),
    "image": (lambda data: data.balanced("image"), ValueError, "'image' is not one of the fields"),
    "power": (lambda data: data.balanced(power=2), ValueError, r"power=2\.0: must be from 0"),
    "power text": (lambda data: data.balanced(power="half"), TypeError, "power='half': must be a number"),
    "threshold": (lambda data: data.balanced(threshold=0.1), ValueError, "threshold=0.1: is for fields with several"),
    "room": (
        lambda data: data.balanced(epoch_records=2),
        ValueError,
        r"epoch_records=2: has no room for 1 of 3 classes",
    ),
    "records": (lambda data: data.balanced(epoch_records=0), ValueError, "epoch_records=0: must be at least 1"),
    "none": (lambda data: data.select([]).balanced(), ValueError, "has no records to balance"),
    "shape": (lambda data: data.weighted([1, 2]), ValueError, r"\(2,\): must be one for each of the 48 records"),
    "negative": (
        lambda data: data.weighted([1] * 47 + [-1]),
        ValueError,
        r"weights\[47\]=.*-1\.0.*: must be 0 or more",
    ),
    "nan": (
        lambda data: data.weighted([np.nan] * 48),
        ValueError,
        r"weights\[0\]=.*nan.*: must be 0 or more, and finite",
    ),
    "many": (lambda data: data.balanced(epoch_records=1 << 48), ValueError, r"must be below 2\*\*48"),
    "epoch": (lambda data: data.balanced().counts(-1), ValueError, "epoch=-1: must be from 0 to"),
    "mix": (lambda data: mix([data.buckets([8])], [1]), ValueError, "batches of one image size cannot be mixed"),
    "zeros": (lambda data: data.weighted(np.zeros(48)), ValueError, "must not all be 0"),
    "texts": (lambda data: data.weighted(["a"] * 48), TypeError, "must be numbers, one for each record"),
    "window": (
        lambda data: data.balanced(stratified=True).stream(batch_size=8, shuffle="window"),
        ValueError,
        "shuffle='window': batches with the share of every class",
    ),
    "unsorted": (
        lambda data: data.select([3, 1]).weighted([1, 1]).stream(batch_size=2, shuffle="window"),
        ValueError,
        "needs records in stored order",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_wrong_argument_is_one_clear_error(raw_shards: Path, name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call(open_dataset(raw_shards))


def test_records_without_a_label_are_not_of_the_last_class(tmp_path: Path) -> None:
    records = [several_record(number, 8, 8)[0] | {"label": (0, 1, -1)[number % 3]} for number in range(9)]
    shard = store(records, {"tfrecord": tmp_path / "train-00000-of-00001.tfrecord"}, SEVERAL)
    classes = {"cat": 3, "dog": 3}
    write_manifest(tmp_path, SEVERAL, [shard], formats=("tfrecord",), class_names=("cat", "dog"), classes=classes)
    data = open_dataset(tmp_path)
    assert data.balanced(epoch_records=12).class_counts == {-1: 4, "cat": 4, "dog": 4}
    assert data.where(label=[0, 1]).balanced().class_counts == {"cat": 3, "dog": 3}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("objects/bbox", "is a field of float32 with 2 axes, which has no classes"),
        ("objects/keypoints", "is a field of float32 with 3 axes, which has no classes"),
        ("audio", "is a field of bytes, which has no classes"),
    ],
)
def test_a_field_without_classes_is_refused(tmp_path: Path, field: str, message: str) -> None:
    data = open_dataset(several_images(tmp_path / "several"))
    with pytest.raises(ValueError, match=message):
        data.balanced(field)
