"""Indexes: made from shards that others wrote too, and refused when they do not fit."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.command import REPOSITORY

from shard_reader import open_dataset
from shard_reader.errors import CorruptionError
from shard_reader.format import Field, Manifest, index, index_name
from shard_reader.format.checksum import sha256_file
from shard_reader.format.manifest import with_checksum
from shard_reader.format.shard_formats import example, tfrecord

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1/encoded"
NAME = "train-00000-of-00002.tfrecord"
FIELDS = Manifest.from_json((GOLDEN / "dataset.json").read_text("utf-8")).fields


def shard(path: Path, *records: dict[str, example.Value]) -> Path:
    with open(path, "wb") as file:
        for record in records:
            tfrecord.write_record(file, example.encode(record))
    return path


def test_an_example_without_a_field_is_named(tmp_path: Path) -> None:
    whole: dict[str, example.Value] = {"image": b"i", "id": "a", "label": 1, "height": 2, "width": 3}
    path = shard(tmp_path / "s", whole, {name: value for name, value in whole.items() if name != "width"})
    with pytest.raises(CorruptionError, match=r"s: the record at byte \d+ has no feature .width."):
        index.build(path, "tfrecord", FIELDS)


def test_an_example_with_a_field_of_another_type_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "s", {"image": 5, "id": "a", "label": 1, "height": 2, "width": 3})
    with pytest.raises(CorruptionError, match=r"is no Example of these fields: 'image' is not of type bytes"):
        index.build(path, "tfrecord", FIELDS)


def test_a_record_that_is_no_example_is_named(tmp_path: Path) -> None:
    with open(tmp_path / "s", "wb") as file:
        tfrecord.write_record(file, b"\xff\xff")
    with pytest.raises(CorruptionError, match="is no Example"):
        index.build(tmp_path / "s", "tfrecord", FIELDS)


def test_tensorflow_s_shards_are_indexed(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    def feature(value: int | bytes) -> object:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    values = {"width": 3, "extra": b"?", "image": b"pixels", "id": b"x/y", "label": 4, "height": 2}
    message = tf.train.Example(features=tf.train.Features(feature={k: feature(v) for k, v in values.items()}))
    with tf.io.TFRecordWriter(str(tmp_path / "s")) as writer:
        writer.write(message.SerializeToString())
    (row,) = index.build(tmp_path / "s", "tfrecord", FIELDS)
    data = (tmp_path / "s").read_bytes()
    assert data[row["offset"] : row["offset"] + row["length"]] == b"pixels"
    assert data[row["id_offset"] : row["id_offset"] + row["id_length"]] == b"x/y"
    assert (row["height"], row["width"], row["label"]) == (2, 3, 4)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "data"))


def rewrite_index(directory: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the rows of an index and give it the right checksum: a wrong but plausible one."""
    path = directory / index_name(NAME)
    old = sha256_file(path)
    rows = change(np.load(path))
    path.write_bytes(index.to_bytes(rows))
    manifest = directory / "dataset.json"
    body = json.loads(manifest.read_text("utf-8").replace(old, sha256_file(path)))
    manifest.write_text(with_checksum(body), "utf-8")


def past_the_end(rows: np.ndarray) -> np.ndarray:
    rows["offset"][1] = 10_000
    return rows


def wrapping(rows: np.ndarray) -> np.ndarray:
    rows["length"][1] = 2**64 - 10  # offset + length is a small number again
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (past_the_end, "offset points outside the shard of 695 bytes"),
        (wrapping, "offset points outside the shard"),
        (lambda rows: rows[:2], "is not an index of 3 rows"),
        (lambda rows: rows[["offset", "length"]].copy(), "is not an index of 3 rows"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    copy: Path, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    rewrite_index(copy, change)
    with pytest.raises(CorruptionError, match=message):
        open_dataset(copy)[0]


def test_a_damaged_index_is_found(copy: Path) -> None:
    path = copy / index_name(NAME)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match="is damaged or belongs to another dataset"):
        open_dataset(copy)[0]


def test_a_missing_index_is_named(copy: Path) -> None:
    (copy / index_name(NAME)).unlink()
    with pytest.raises(CorruptionError, match=r"index\.npy: is missing"):
        open_dataset(copy)[0]


def test_index_bytes_are_a_plain_npy_file() -> None:
    rows = np.zeros(3, [("offset", "<u8")])
    assert np.array_equal(np.load(io.BytesIO(index.to_bytes(rows)), allow_pickle=False), rows)


@pytest.mark.parametrize("names", [["größe", "年"], [f"column {number}" for number in range(3000)]], ids=len)
def test_any_names_of_columns_are_what_numpy_reads(tmp_path: Path, names: list[str]) -> None:
    fields = FIELDS | {name: Field(dtype="int64") for name in names}
    values = {"image": b"i", "id": "a", "label": 1, "height": 2, "width": 3, **dict.fromkeys(names, 7)}
    rows = index.build(shard(tmp_path / "s", values), "tfrecord", fields)
    (tmp_path / "s.npy").write_bytes(index.to_bytes(rows))
    found = np.load(tmp_path / "s.npy", max_header_size=1 << 20)
    assert found.dtype == rows.dtype and all(found[name][0] == 7 for name in names)


def test_fields_of_a_dataset_without_labels() -> None:
    assert "label" not in dict(index.index_dtype({"image": Field(dtype="uint8", shape=(1, 1, 3), encoding="raw")}))
