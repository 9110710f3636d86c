"""Which split a file is of, by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.foreign_records import image_bytes, indexed, manifest, verified, write

from beam_jobs.tools.foreign.split_files import missing_numbers, split_files
from shard_reader import open_dataset
from shard_reader.format.shard_formats import tfrecord
from shard_reader.format.shard_formats.example import encode


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"], ["train", "validation"]),
        (["x-test.tfrecord-00000-of-00001", "x-train.tfrecord-00000-of-00001"], ["train", "test"]),
        (["x-unsupervised.tfrecord-00000-of-00001"], ["unsupervised"]),
        (["flowers_val.tfrecords", "Test.TFRecord", "notes.txt", "dataset_info.json"], ["val", "test"]),
        (["a.tfrecord", "my-photos-00000-of-00001", "b.tfrecord.index.npy", ".c.tfrecord"], ["train"]),
        (["trainval.tfrecord", "train_val.tfrecord"], ["train"]),
    ],
)
def test_splits_are_in_the_names_of_files(names: list[str], expected: list[str]) -> None:
    assert list(split_files(names, ())) == expected


def test_numbers_that_are_missing() -> None:
    names = ["a-00000-of-00003.tfrecord", "a-00002-of-00003.tfrecord", "b.tfrecord-0-of-1", "c.tfrecord"]
    assert missing_numbers(names) == ["a-00001-of-00003.tfrecord"]


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    write(tmp_path / "train-00001-of-00002", [{"image": image_bytes(0)}])
    assert "  missing    1 file by their numbers: train-00000-of-00002\n" in indexed(tmp_path)


def test_hand_written_files_with_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"")
    with open(tmp_path / "b.tfrecord", "wb") as file:
        for number in range(2):
            tfrecord.write_record(file, encode({"img": image_bytes(number), "id": str(number), "labels": number}))
    indexed(tmp_path)
    data = open_dataset(tmp_path)
    assert [(data[n]["id"], data[n]["label"]) for n in range(2)] == [("0", 0), ("1", 1)]
    assert [shard.records for shard in manifest(tmp_path).splits["train"].shards] == [0, 2]
    verified(tmp_path)
