"""Opening datasets and reading single records."""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import prepared
from support.images import write_image

from shard_reader import CorruptionError, DatasetError, open_dataset
from shard_reader.format import Manifest
from shard_reader.format.manifest import with_checksum
from shard_reader.system.memory_map import map_file

FORMATS = ["tfrecord", "hdf5"]


@pytest.fixture
def copy(raw_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw_shards, tmp_path / "copy"))


def test_opening_reads_the_manifest_alone(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name != "dataset.json":
            path.unlink()
    data = open_dataset(copy, split="val")
    assert (len(data), data.class_names, data.split) == (12, ("a", "b", "c"), "val")
    assert repr(data) == f"Dataset({str(copy)!r}, split='val', format='tfrecord', 12 records)"


@pytest.mark.parametrize("format", FORMATS)
def test_each_record_is_its_image(raw_shards: Path, class_folders: Path, format: str) -> None:
    """Raw pixels, cropped and resized, of the image that the id names; the label is its folder."""
    seen = set()
    for split in ("train", "val"):
        data = open_dataset(raw_shards, split, format=format)
        for number in range(len(data)):
            record = data[number]
            assert list(record) == ["image", "label", "id"]
            assert record["image"].shape == (12, 16, 3)
            assert record["image"].dtype == np.uint8
            assert data.class_names[record["label"]] == record["id"][0]
            with Image.open(class_folders / record["id"]) as image:
                mean = np.asarray(image.convert("RGB")).mean()
            assert abs(record["image"].mean() - mean) < 16
            seen.add(record["id"])
    assert seen == {str(path.relative_to(class_folders)) for path in class_folders.rglob("*.*")}


def test_both_formats_hold_the_same_in_the_same_order(raw_shards: Path, jpeg_shards: Path) -> None:
    for directory in (raw_shards, jpeg_shards):
        one, other = (open_dataset(directory, format=format) for format in FORMATS)
        everything = np.arange(len(one))
        assert one.ids(everything).tolist() == other.ids(everything).tolist()
        assert one.column("label", everything).tolist() == other.column("label", everything).tolist()
        assert all(np.array_equal(one[n]["image"], other[n]["image"]) for n in everything.tolist())
        assert one.fingerprint == other.fingerprint


def test_negative_numbers_count_from_the_end(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    assert data[-1]["id"] == data[len(data) - 1]["id"]
    assert data[np.int64(3)]["id"] == data[3]["id"]


@pytest.mark.parametrize("number", [48, -49])
def test_there_is_no_such_record(raw_shards: Path, number: int) -> None:
    with pytest.raises(IndexError, match=rf"record {number} of 48 in split 'train'"):
        open_dataset(raw_shards)[number]


@pytest.mark.parametrize("number", ["a", slice(3), 1.0, None], ids=str)
def test_a_record_has_an_integer_for_a_number(raw_shards: Path, number: Any) -> None:
    with pytest.raises(TypeError, match=r"must be an integer; for several, data\.select"):
        open_dataset(raw_shards)[number]


def test_a_record_can_be_changed_by_its_user(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    before = data[0]["image"].copy()
    data[0]["image"][:] = 0
    assert np.array_equal(data[0]["image"], before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split='test': must be one of train, val"),
        ({"format": "zip"}, "format='zip': must be one of tfrecord, hdf5"),
    ],
)
def test_a_wrong_choice_is_named(raw_shards: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(raw_shards, **options)  # type: ignore[arg-type]


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"is no dataset: it has no dataset\.json"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="is a file"):
        open_dataset(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "b")
    (tmp_path / "dataset.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="not UTF-8"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_bit_in_an_image_is_found(copy: Path, format: str) -> None:
    data = open_dataset(copy, format=format)
    shard, row = data._find(20)
    position = int(shard.rows["offset"][row]) + 7
    with open(shard.uri, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(CorruptionError, match=rf"row {row}, id '[abc]/\d+\.(png|jpg)': .*CRC"):
        open_dataset(copy, format=format)[20]
    assert open_dataset(copy, format=format)[19]["id"] == data[19]["id"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_shard_is_found_before_it_is_read(copy: Path, format: str) -> None:
    data = open_dataset(copy, format=format)
    name = data.manifest.splits["train"].shards[0].files[format].path
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 1)
    with pytest.raises(CorruptionError, match=f"has {size - 1} bytes, the manifest says {size}"):
        data[0]


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "val-00000-of-00001.tfrecord").unlink()
    with pytest.raises(CorruptionError, match=r"val-00000-of-00001\.tfrecord: is missing"):
        open_dataset(copy, "val")[0]


def test_an_image_of_another_size_than_its_index_says(copy: Path) -> None:
    text = (copy / "dataset.json").read_text("utf-8")
    manifest = json.loads(text)
    manifest["fields"]["image"]["shape"][2] = 1
    (copy / "dataset.json").write_text(with_checksum(manifest), "utf-8")
    with pytest.raises(CorruptionError, match="has 576 bytes, not the pixels of 16x12"):
        open_dataset(copy)[0]


def test_statistics_are_those_of_the_train_split(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    pixels = np.stack([data[n]["image"] for n in range(len(data))]).reshape(-1, 3) / 255
    statistics = data.manifest.statistics
    assert statistics is not None
    assert (statistics.split, statistics.pixels) == ("train", len(pixels))
    assert np.allclose(statistics.mean, pixels.mean(0), rtol=1e-12)
    assert np.allclose(statistics.std, pixels.std(0), rtol=1e-12)


def test_a_dataset_survives_pickle_and_spawn(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    expected = data[3]["image"]
    assert np.array_equal(pickle.loads(pickle.dumps(data))[3]["image"], expected)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(data.__getitem__, (3,))["image"], expected)


def test_a_dataset_survives_fork(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    expected = data[3]["image"]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"1" if np.array_equal(data[3]["image"], expected) else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"


def test_more_shards_than_maps_are_kept(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_reader.shards.local_shards.MOST_OPEN", 1)
    data = open_dataset(raw_shards)
    ids = [data[n]["id"] for n in (0, 40, 0, 20, 47)]
    assert ids[0] == ids[2]
    assert len(data._shards._open) == 1


def test_datasets_share_the_maps_of_a_process(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    monkeypatch.setattr("shard_reader.shards.local_shards.MOST_OPEN", 4)
    one, other = open_dataset(raw_shards), open_dataset(raw_shards)
    every = (one, other, one, other)
    assert [[data[n]["id"] for n in (0, 20, 40)] for data in every] == [[one[n]["id"] for n in (0, 20, 40)]] * 4
    assert len(one._shards._open) + len(other._shards._open) <= 4 and one._shards._open and other._shards._open


def test_more_shards_than_the_kernel_maps(raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other datasets of the process may hold the maps: the older half of these is given up, and the rest fails."""
    data, opened = open_dataset(raw_shards), list[object]()

    def limited(path: object, *arguments: Any) -> Any:
        if len(data._shards._open) >= 2:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path))
        opened.append(path)
        return map_file(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("shard_reader.shards.local_shards.map_file", limited)
    numbers = [0, 20, 40, 0, 20]
    assert len({data.locate(np.array([n])).shards[0].uri for n in numbers}) == 3  # type: ignore[union-attr]
    assert len(data._shards._open) <= 2 and len(opened) >= 4
    monkeypatch.setattr(data._shards, "_drop_oldest", lambda: None)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        data[40]


def test_a_full_shuffle_over_more_shards_than_stay_open_warns(
    raw_shards: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    data = open_dataset(raw_shards)
    data.stream(batch_size=4)
    assert not recwarn.list
    monkeypatch.setattr("shard_reader.dataset.dataset.MOST_OPEN", 2)
    data.stream(batch_size=4, shuffle="window", lanes=1, window=1)
    data.stream(batch_size=4, shuffle="none")
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match=r'over 3 shards, of which 2 stay open, .* take shuffle="window"') as found:
        data.stream(batch_size=4)
    assert found[0].filename == __file__


@pytest.mark.slow
def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    """The usual limit of 1,024 must do for any number of shards: a map keeps no file open."""
    for number in range(90):
        write_image(tmp_path / f"in/{number}.png", number)
    output = prepared(tmp_path / "in", tmp_path / "out", "--size", "8x8", "--shard-records", 1)
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
from shard_reader import open_dataset
data = open_dataset({str(output)!r})
print(len({{data[n]["id"] for n in [*range(90), *range(90)]}}))
print(sum(batch["weight"].sum() for batch in data.stream(batch_size=7)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "90\n90.0\n", result.stderr


def test_the_manifest_counts_every_image(raw_shards: Path) -> None:
    manifest = Manifest.from_json((raw_shards / "dataset.json").read_text("utf-8"))
    assert manifest.counts.written == sum(split.records for split in manifest.splits.values()) == 60
    assert {name: len(split.shards) for name, split in manifest.splits.items()} == {"train": 3, "val": 1}
    assert [shard.records for shard in manifest.splits["train"].shards] == [16, 16, 16]
