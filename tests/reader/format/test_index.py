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
from support.stored import dataset, edit_shard, flip, record

from shard_reader import CenterCrop, open_dataset
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
    rows = change(np.load(path))
    path.write_bytes(index.to_bytes(rows))
    manifest = directory / "dataset.json"
    body = json.loads(manifest.read_text("utf-8"))
    checksums = {"index_sha256": sha256_file(path), "index_crc32c": index.checksums_crc32c(rows)}
    edit_shard(body, "tfrecord", **checksums)
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


@pytest.mark.parametrize("change", [past_the_end, wrapping])
def test_an_extent_outside_of_the_shard_is_found(copy: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """When the record is read, or the index as a whole."""
    rewrite_index(copy, change)
    data = open_dataset(copy)
    assert data[0]["id"] == "a/1.png"
    with pytest.raises(CorruptionError, match=rf"{NAME}: its index points outside of it"):
        data[1]
    with pytest.raises(CorruptionError, match=rf"{NAME}: row 1: its index points outside of it"):
        list(data.stream(batch_size=1, shuffle="none", image=CenterCrop(1)))
    (shard, _) = data.manifest.splits["train"].shards
    with pytest.raises(CorruptionError, match="offset points outside the shard of 695 bytes"):
        index.load(copy, shard.files["tfrecord"], shard.records, data.manifest.fields)


@pytest.mark.parametrize("position", [-1, -5, 10])
def test_a_damaged_index_is_found(copy: Path, position: int) -> None:
    """In its checksums, its rows, and its header."""
    flip(copy / index_name(NAME), position)
    with pytest.raises(
        CorruptionError, match=r"index\.npy: (is damaged or bel|rows 0 to 2 are damaged|is not an index)"
    ):
        open_dataset(copy)[0]
    with pytest.raises(
        CorruptionError, match=r"index\.npy: (is damaged or bel|rows 0 to 2 are damaged|is not an index)"
    ):
        next(iter(open_dataset(copy).stream(batch_size=1, image=CenterCrop(1))))


def blocks(path: Path) -> Path:
    """A dataset of two shards, the first with three blocks in its index."""
    return dataset(path, [record(f"{n}", n % 2) for n in range(2 * index.BLOCK + 5)], [record("last")])


@pytest.mark.parametrize("block", range(3))
def test_damage_of_a_block_takes_its_records_alone(tmp_path: Path, block: int) -> None:
    """The same ones in each epoch, however many others were read before."""
    path = blocks(tmp_path / "data")
    name = index_name("train-00000-of-00002.tfrecord")
    rows = np.load(path / name)
    flip(path / name, (path / name).stat().st_size - 4 * 3 - rows.nbytes + (block * index.BLOCK + 3) * rows.itemsize)
    data = open_dataset(path)
    first, last = block * index.BLOCK, min(len(rows), (block + 1) * index.BLOCK) - 1
    words = rf"{name}: rows {first} to {last} are damaged \(CRC mismatch\)"
    for number in range(len(data)):
        if first <= number <= last:
            with pytest.raises(CorruptionError, match=words):
                data[number]
        else:
            assert data[number]["id"] == rows_id(number, len(data))
    stream = data.stream(batch_size=7, image=CenterCrop(1), on_error="skip", fields=("image", "id", "label"))
    for _ in range(2):
        seen = [id for batch in stream for id in batch["id"][batch["weight"] > 0]]
        assert sorted(seen) == sorted(
            rows_id(number, len(data)).encode() for number in range(len(data)) if not first <= number <= last
        )
        assert sorted(one.record for one in stream.skipped) == list(range(first, last + 1))
    with pytest.raises(CorruptionError, match=words):
        data.column("label")
    with pytest.raises(CorruptionError, match=words):
        data.stream(batch_size=1, fields=("label",)).take([last])


def rows_id(number: int, count: int) -> str:
    return "last" if number == count - 1 else f"{number}"


def test_blocks_that_are_not_remembered_are_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.order.record_set._MOST", 2)
    data = open_dataset(blocks(tmp_path / "data"))
    assert data.column("label").tolist() == [*(number % 2 for number in range(len(data) - 1)), 0]
    assert [data[number]["id"] for number in (0, 70, 130, 0, 133)] == ["0", "70", "130", "0", "last"]


def test_an_index_of_another_dataset_is_found(tmp_path: Path) -> None:
    """With as many rows, and other labels."""
    one, other = (dataset(tmp_path / name, [record("a", label)]) for name, label in (("one", 0), ("other", 1)))
    name = index_name("train-00000-of-00001.tfrecord")
    shutil.copy(other / name, one / name)
    with pytest.raises(CorruptionError, match="is damaged or belongs to another dataset"):
        open_dataset(one)[0]


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
