"""Streams: exact epochs, resume at every step, ranks, crops, threads, and memory that does not grow."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import REPOSITORY

from shard_reader import CenterCrop, CorruptionError, StateError, Stream, open_dataset
from shard_reader.format import index_name

FORMATS = ["tfrecord", "hdf5"]
ALL = ("image", "label", "id")


def stream(path: Path, split: str = "train", format: str = "tfrecord", **options: Any) -> Stream:
    return open_dataset(path, split, format=format).stream(**{"batch_size": 10, "fields": ALL, **options})


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


def ids(batches: list[dict[str, np.ndarray]]) -> list[bytes]:
    """The ids of records that are no padding, in order."""
    return [id for batch in batches for id in batch["id"][batch["weight"] > 0].tolist()]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("remainder", ["pad", "keep"])
def test_an_epoch_is_every_record_once(raw_shards: Path, format: str, remainder: str) -> None:
    one = stream(raw_shards, format=format, remainder=remainder)
    data = one.data
    everything = sorted(data.ids(np.arange(len(data))).tolist())
    epochs = [list(one) for _ in range(3)]
    assert one.state_dict()["epoch"] == 3
    for batches in epochs:
        assert len(batches) == len(one) == 5
        assert sorted(ids(batches)) == everything
        assert sum(batch["weight"].sum() for batch in batches) == 48
        for batch in batches:
            assert batch["image"].shape[1:] == (12, 16, 3)
            assert batch["weight"].dtype == np.float32
            assert batch["label"].dtype == np.int64
    assert ids(epochs[0]) != ids(epochs[1]) != ids(epochs[2])


def test_a_batch_holds_what_the_records_hold(raw_shards: Path) -> None:
    one = stream(raw_shards, shuffle="none")
    for number, batch in enumerate(one):
        for place in range(10):
            record = one.data[(number * 10 + place) % 48]
            assert np.array_equal(batch["image"][place], record["image"])
            assert batch["label"][place] == record["label"]
            assert batch["id"][place].decode() == record["id"]


def test_the_call_with_every_option_spelled_out(jpeg_shards: Path) -> None:
    data = open_dataset(jpeg_shards, split="train")
    one = data.stream(
        batch_size=20,
        shuffle="full",
        seed=0,
        rank=0,
        world_size=1,
        image=CenterCrop(16),
        remainder="pad",
        on_error="raise",
    )
    assert [list(batch) for batch in one] == [["image", "label", "weight"]] * 3


def test_both_formats_give_the_same_batches(raw_shards: Path) -> None:
    epochs = [list(stream(raw_shards, format=format, seed=5)) for format in FORMATS]
    assert all(same(one, other) for one, other in zip(*epochs, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_restored_at_every_step_the_rest_is_the_same(raw_shards: Path, world_size: int) -> None:
    """With the same and with another number of ranks, through the end of the epoch into the next."""
    undisturbed = stream(raw_shards, seed=3)
    expected = [*undisturbed, *undisturbed]
    saved = stream(raw_shards, seed=3)
    states = [json.dumps(saved.state_dict())]
    for epoch in range(2):
        for _ in saved:
            states.append(json.dumps(saved.state_dict()))
        assert saved.epoch == epoch + 1
    for step, state in enumerate(states[:-1]):
        ranks = [stream(raw_shards, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)]
        for one in ranks:
            one.load_state_dict(json.loads(state))
        rest = [[*one, *(one if step < len(undisturbed) else ())] for one in ranks]
        assert len(rest[0]) == len(expected) - step
        for number, batch in enumerate(expected[step:]):
            for rank in range(world_size):
                share = {name: values[rank::world_size] for name, values in batch.items()}
                assert same(rest[rank][number], share)


def test_a_state_is_small_json(raw_shards: Path) -> None:
    one = stream(raw_shards)
    next(iter(one))
    state = one.state_dict()
    assert len(json.dumps(state)) < 350
    assert (state["epoch"], state["step"]) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"batch_size": 12}, {"shuffle": "none"}, {"remainder": "drop"}, {"split": "val"}],
    ids=str,
)
def test_a_state_of_another_order_is_refused(raw_shards: Path, options: dict[str, Any]) -> None:
    state = stream(raw_shards, **options).state_dict()
    with pytest.raises(StateError, match=r"(?s)state: .*stream: "):
        stream(raw_shards).load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"step": 99}, {"step": -1}, {"epoch": "0"}, {"epoch": None}, {"version": 2}], ids=str
)
def test_a_state_that_cannot_be_is_refused(raw_shards: Path, change: dict[str, Any]) -> None:
    one = stream(raw_shards)
    with pytest.raises(StateError):
        one.load_state_dict(one.state_dict() | change)


def test_a_rank_with_a_batch_less_keeps_the_epoch_of_the_others(raw_shards: Path) -> None:
    """48 records in batches of 45: of the 3 that are left, rank 44 gets none."""
    short = stream(raw_shards, remainder="keep", batch_size=45, rank=44, world_size=45)
    assert (len(short), short.order.epoch_steps) == (1, 2)
    list(short)
    state = short.state_dict()
    assert (state["epoch"], state["step"]) == (0, 1)
    alone = stream(raw_shards, remainder="keep", batch_size=45)
    alone.load_state_dict(state)
    assert [len(batch["id"]) for batch in alone] == [3]
    assert alone.epoch == 1
    short.load_state_dict(state)
    assert short.remaining == 0 and list(short) == [], "while the others have a batch left"
    assert same(next(iter(short)), short.batch(1, 0))


def test_a_rank_without_a_batch_counts_epochs_as_the_others(raw_shards: Path) -> None:
    idle = stream(raw_shards, remainder="keep", batch_size=50, rank=49, world_size=50)
    for epoch in range(3):
        assert idle.epoch == epoch - (epoch > 0)  # the next loop moves on
        assert list(idle) == []


def test_the_end_of_an_epoch_is_the_begin_of_the_next(raw_shards: Path) -> None:
    one = stream(raw_shards)
    one.load_state_dict(one.state_dict() | {"epoch": 3, "step": 5})
    assert (one.epoch, one.step, one.remaining) == (4, 0, 5)
    assert same(next(iter(one)), one.batch(4, 0))


def test_an_epoch_without_a_step_stays_where_it_is(raw_shards: Path) -> None:
    one = stream(raw_shards, remainder="drop", batch_size=50)
    for _ in range(3):
        one.load_state_dict(one.state_dict())
        assert (one.epoch, one.step, list(one)) == (0, 0, [])


def test_numpy_s_integers_are_integers(raw_shards: Path) -> None:
    one = stream(raw_shards, batch_size=np.int32(10), seed=np.int64(3), image=CenterCrop(np.int64(8)))
    assert json.dumps(one.state_at(np.int64(2), np.int32(1))) == json.dumps(one.state_at(2, 1))
    assert next(iter(one))["image"].shape == (10, 8, 8, 3)


def test_an_older_loop_cannot_move_the_stream(raw_shards: Path) -> None:
    one = stream(raw_shards)
    first = iter(one)
    next(first)
    second = iter(one)
    next(second)
    with pytest.raises(RuntimeError, match="this loop is over"):
        next(first)
    assert (one.epoch, one.step) == (1, 1)
    state = one.state_dict()
    next(second)
    one.load_state_dict(state)
    with pytest.raises(RuntimeError, match="this loop is over"):
        next(second)
    assert one.state_dict() == state


def test_good_batches_come_before_the_error_of_a_damaged_one(raw_shards: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    (damaged / "train-00002-of-00003.tfrecord.index.npy").write_bytes(b"")
    for prefetch in (1, 4):
        batches = iter(stream(damaged, shuffle="none", batch_size=8, prefetch=prefetch))
        assert len([next(batches) for _ in range(4)]) == 4
        with pytest.raises(CorruptionError, match="index"):
            next(batches)


def test_what_is_no_state_is_refused(raw_shards: Path) -> None:
    with pytest.raises(StateError, match="None is no state"):
        stream(raw_shards).load_state_dict(None)  # type: ignore[arg-type]


def test_a_loop_that_breaks_off_ends_its_epoch(raw_shards: Path) -> None:
    one = stream(raw_shards)
    first = next(iter(one))
    assert (one.epoch, one.step) == (0, 1)
    whole = list(one)
    assert len(whole) == len(one)
    assert not same(whole[0], first)
    assert same(whole[0], one.batch(1, 0))


def test_any_batch_can_be_asked_for_without_moving_the_stream(raw_shards: Path) -> None:
    one = stream(raw_shards)
    later = one.batch(4, 2)
    assert (one.epoch, one.step) == (0, 0)
    for _ in range(4):
        list(one)
    assert same(list(one)[2], later)
    with pytest.raises(IndexError):
        one.batch(0, 5)


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_several_sizes_are_cropped(jpeg_shards: Path, format: str) -> None:
    one = stream(jpeg_shards, format=format, image=CenterCrop((14, 15)))
    assert one.specs["image"] == ("uint8", (14, 15, 3))
    for number, batch in enumerate(one):
        assert batch["image"].shape == (10, 14, 15, 3)
        records = one.order.records_of(0, number, number + 1)
        for place, record in enumerate(records.tolist()):
            image = one.data[record]["image"]
            top, left = (image.shape[0] - 14) // 2, (image.shape[1] - 15) // 2
            assert np.array_equal(batch["image"][place], image[top : top + 14, left : left + 15])


def test_images_of_several_sizes_need_a_crop(jpeg_shards: Path) -> None:
    with pytest.raises(ValueError, match=r"may differ in size .* pass image=CenterCrop\(n\)"):
        stream(jpeg_shards)
    assert stream(jpeg_shards, fields=("label",)).batch(0, 0)["label"].shape == (10,)


def test_an_image_smaller_than_the_crop_is_named(jpeg_shards: Path) -> None:
    with pytest.raises(
        ValueError, match=r"id '[abc]/\d+\.(png|jpg)': the image is \d+x\d+, smaller than the crop of 17x17"
    ):
        list(stream(jpeg_shards, image=CenterCrop(17)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"world_size": 3}, ValueError, "batch_size=10: world_size 3 does not divide it.* take 9 or 12"),
        ({"threads": 0}, ValueError, "threads=0: must be at least 1"),
        ({"prefetch": 0}, ValueError, "prefetch=0: must be at least 1"),
        ({"fields": ("image", "box")}, ValueError, "'box' is not one of image, label, id, height, width"),
        ({"fields": "image"}, TypeError, "fields='image': must be several names"),
        ({"on_error": "ignore"}, ValueError, "on_error='ignore': must be one of raise, skip"),
        ({"on_error": "skip", "verify": "never"}, ValueError, "verify='never': must be \"always\" with on_error"),
        ({"verify": "sometimes"}, ValueError, "verify='sometimes': must be one of always, first-epoch, never"),
        ({"ragged": 0}, ValueError, "ragged=0: must be at least 1"),
        ({"shuffle": "some"}, ValueError, "shuffle='some': must be one of none, full, window"),
        ({"shuffle": "window", "lanes": 0}, ValueError, "lanes=0: must be at least 1"),
        ({"shuffle": "window", "lanes": 2, "world_size": 5}, ValueError, "lanes=2: world_size 5 does not divide it"),
        ({"image": 224}, TypeError, "image=224: expected a transform"),
        ({"seed": "a"}, TypeError, "seed='a': must be an integer"),
    ],
)
def test_a_wrong_argument_is_named(raw_shards: Path, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        stream(raw_shards, **options)


def test_damage_reaches_the_loop(raw_shards: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(raw_shards, tmp_path / "copy"))
    path = damaged / "train-00001-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    data[np.load(index_name(str(path)))["offset"][4]] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"train-00001-of-00003\.tfrecord: row \d+, id"):
        list(stream(damaged))


def test_a_split_without_records_has_no_batches(tmp_path: Path) -> None:
    golden = REPOSITORY / "tests/reader/format/golden/v1/raw"
    data = open_dataset(golden)
    assert len(list(data.stream(batch_size=4))) == 2  # the second shard holds none
    assert list(stream(golden, fields=("image",), remainder="drop")) == []


def test_threads_end_with_the_stream(jpeg_shards: Path) -> None:
    before = set(threading.enumerate())
    one = stream(jpeg_shards, threads=3, image=CenterCrop(16))
    next(iter(one))
    assert set(threading.enumerate()) - before
    one.close()
    assert len(list(one)) == len(one)
    other = stream(jpeg_shards, threads=3, image=CenterCrop(16))
    next(iter(other))
    own = set(threading.enumerate()) - before
    del one, other
    gc.collect()
    for thread in own:
        thread.join(300)
        assert not thread.is_alive()


def test_a_stream_survives_fork_and_pickle(raw_shards: Path) -> None:
    one = stream(raw_shards)
    batches = iter(one)
    next(batches)
    expected = one.batch(3, 1)
    assert same(pickle.loads(pickle.dumps(one)).batch(3, 1), expected)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"1" if same(one.batch(3, 1), expected) else b"0")
        os._exit(0)
    assert os.read(reader, 1) == b"1"
    os.waitpid(child, 0)
