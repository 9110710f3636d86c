"""Streams with augmentations: the same bytes for any threads, processes and resume, and fields that follow."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.remote_data import digest
from support.stored import several, several_objects

from beam_jobs import PrepareOptions, UsageError, prepare, preprocess
from shard_reader import Draws, Flip, RandomResizedCrop, Stream, open_dataset
from shard_reader.order.shuffle import key
from shard_reader.transforms import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomGrayscale,
    RandomRotation,
    TrivialAugmentWide,
)
from shard_reader.transforms.compose import compose
from shard_reader.transforms.moves.move import moved_boxes, moved_keypoints

TRAINING = [RandomResizedCrop(24, (0.3, 1)), Flip(), ColorJitter(0.4, 0.4, 0.4, 0.1), RandAugment(), RandomErasing(0.5)]
TURNED = [
    ColorJitter(0.4),
    RandomRotation(30, fill=9, mask_fill=7),
    RandomGrayscale(0.5),
    RandomAffine(10, (0.1, 0.1), (0.8, 1.2), 10, interpolation="bilinear"),
    GaussianBlur(3),
    RandomResizedCrop((20, 22), (0.5, 1)),
    TrivialAugmentWide(),
    Flip(),
]
FIELDS = ("image", "mask", "depth", "right", "objects/bbox", "objects/label", "objects/name", "objects/keypoints")


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 records with several images each, in two shards."""
    return several(tmp_path_factory.mktemp("several") / "png", formats=["tfrecord"])


@functools.cache
def epoch(path: Path, number: int) -> list[str]:
    """The batches of two epochs, in one thread."""
    return [digest(batch) for stream in [stream_of(path, number, threads=1)] for _ in range(2) for batch in stream]


def stream_of(path: Path, number: int, **options: Any) -> Stream:
    return open_dataset(path).stream(batch_size=3, fields=FIELDS, image=(TRAINING, TURNED)[number], seed=6, **options)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1), st.integers(0, 8), st.integers(1, 5), st.integers(1, 5))
def test_a_resume_at_any_position_with_any_number_of_threads_gives_the_same_bytes(
    png: Path, number: int, position: int, threads: int, later_threads: int
) -> None:
    begun, found = stream_of(png, number, threads=threads), list[str]()
    while len(found) < position:
        for batch in begun:
            found.append(digest(batch))
            if len(found) == position:
                break
    state = json.loads(json.dumps(begun.state_dict())) if position % 4 else None
    resumed = stream_of(png, number, threads=later_threads)
    if state is None:  # an epoch has ended, or none has begun
        found = found[: position - position % 4]
        resumed.set_epoch(len(found) // 4)
    else:
        resumed.load_state_dict(state)
    while len(found) < 8:
        found += map(digest, resumed)
    assert found == epoch(png, number)


@pytest.mark.parametrize("number", [0, 1])
def test_worker_processes_give_the_same_bytes(png: Path, number: int) -> None:
    with stream_of(png, number, threads=2, workers="processes") as stream:
        assert [digest(batch) for _ in range(2) for batch in stream] == epoch(png, number)


@pytest.mark.parametrize("transforms", [TRAINING, TURNED], ids=["training", "turned"])
def test_all_fields_of_a_record_follow_by_its_draws(png: Path, transforms: Any) -> None:
    data = open_dataset(png)
    stream = data.stream(batch_size=4, fields=(*FIELDS, "id"), image=transforms, seed=4)
    chain, dropped = compose(transforms), 0
    for step, batch in enumerate(stream):
        positions, records = stream.order.positions(step, step + 1), stream.order.records_of(0, step, step + 1)
        for place, record in enumerate(records.tolist()):
            new = functools.partial(Draws, key(4, 0, "draws"), int(positions[place]))
            image = data.image(record)
            height, width = image.shape[:2]
            moves = chain.moves(height, width, new())
            nearest = chain.by_nearest(keeps_values=True)
            for name in ("mask", "depth"):
                pixels = data.image(record, name)
                expected = nearest(pixels.reshape(height, width, 1), new()).reshape(batch[name][place].shape)
                assert np.array_equal(batch[name][place], expected)
            assert np.array_equal(batch["image"][place], chain(image, new()))
            assert np.array_equal(batch["right"][place], chain(data.image(record, "right"), new()))
            objects = several_objects(int(batch["id"][place].split(b".")[0]))
            boxes = moved_boxes(objects["objects/bbox"], height, width, moves).astype(np.float32)
            kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            dropped += int((~kept).sum())
            assert np.array_equal(batch["objects/bbox"][place], boxes[kept])
            assert batch["objects/label"][place].tolist() == objects["objects/label"][kept].tolist()
            keypoints = moved_keypoints(objects["objects/keypoints"], height, width, moves, ((1, 2),))
            assert np.allclose(batch["objects/keypoints"][place], keypoints[kept], atol=1e-6)
    assert dropped or transforms is TURNED, "the case is in the data"


def test_a_mask_without_its_image_is_the_same(png: Path) -> None:
    data = open_dataset(png)
    both = data.stream(batch_size=4, fields=("image", "mask"), image=TURNED)
    alone = data.stream(batch_size=4, fields=("mask",), image=TURNED)
    assert all(np.array_equal(one["mask"], other["mask"]) for one, other in zip(both, alone, strict=True))


def test_a_mask_may_have_a_value_of_its_own_outside(png: Path) -> None:
    def turned(value: float) -> NDArray[Any]:
        transforms = [RandomRotation((45, 45), mask_fill=value), RandomResizedCrop(30, (1, 1))]
        own = {"image": transforms, "depth": [RandomRotation((45, 45)), RandomResizedCrop(30, (1, 1))]}
        batch = open_dataset(png).stream(batch_size=4, fields=("image", "mask", "depth"), transform=own).batch(0, 0)
        assert batch["depth"][0, 0, 0] == 0
        found: NDArray[Any] = batch["mask"]
        return found

    ignored, plain = turned(255), turned(0)
    assert (ignored[:, 0, 0] == 255).all() and (plain[:, 0, 0] == 0).all()
    assert np.array_equal(ignored[ignored != plain] == 255, plain[ignored != plain] == 0)


def test_grayscale_gives_batches_of_one_channel(png: Path) -> None:
    stream = open_dataset(png).stream(batch_size=4, fields=("image", "mask"), image=[RandomResizedCrop(9), Grayscale()])
    assert stream.specs["image"].shape == (9, 9, 1) and next(iter(stream))["image"].shape == (4, 9, 9, 1)


def test_an_image_that_is_refused_is_named(png: Path) -> None:
    stream = open_dataset(png).stream(batch_size=4, image=[RandomResizedCrop(9), RandomErasing(1.0, value=300)])
    with pytest.raises(ValueError, match=r"id '.*png'.*has pixels of uint8, from 0 to 255, and not of 300.0, its fill"):
        list(stream)


def test_random_augmentations_are_none_of_serving(jpeg_shards: Path, class_folders: Path) -> None:
    image = next((class_folders / "a").glob("*.jpg"))
    with pytest.raises(UsageError, match=r"ColorJitter.* is random"):
        preprocess(image, jpeg_shards, ColorJitter(0.4))
    assert preprocess(image, jpeg_shards, Grayscale()).shape[2] == 1


@pytest.mark.slow
def test_photos_are_augmented_the_same_in_threads_and_processes(photos: Path, tmp_path: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[::6]:
        (tmp_path / "images" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path.parent.name / path.name).symlink_to(path)
    prepare(PrepareOptions(input=tmp_path / "images", output=tmp_path / "shards", size=256))
    transforms = [RandomResizedCrop(224), Flip(), ColorJitter(0.4, 0.4, 0.4, 0.1), RandAugment(), RandomErasing(0.1)]
    data = open_dataset(tmp_path / "shards", "train")
    assert len(data) > 30
    threads = data.stream(batch_size=16, image=transforms, threads=3)
    with data.stream(batch_size=16, image=transforms, workers="processes", threads=2) as processes:
        assert [digest(batch) for batch in threads] == [digest(batch) for batch in processes]
