"""Further images and bytes in files of records: of TFRecord, HDF5 and NumPy, and of datasets by image-shards."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from support.command import prepared
from support.images import write_image
from support.sources import Found, example, found_records, refused_records, save, write_tfrecord

from beam_jobs.sources import Reference
from beam_jobs.sources.files.interface import BadInput, Reading, SourceOptions
from beam_jobs.sources.records import RecordFiles
from shard_reader import open_dataset


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def payloads(path: Path, **options: Any) -> list[dict[str, Any]]:
    listing: Found = found_records(path, **options)
    worker = RecordFiles(SourceOptions(input=str(path), **options))
    references = [Reference(id, -1, one.place, payloads=one.payloads) for id, one in listing.entries.items()]
    return [{name: worker.read_payload(one, name) for name in one.payloads} for one in references]


def test_masks_in_tfrecords_come_by_their_names(tmp_path: Path) -> None:
    records = [example(image=png(n), mask=png(n + 10), label=n) for n in range(2)]
    path = write_tfrecord(tmp_path / "a.tfrecord", *records, example(image=png(3), label=3))
    assert payloads(path) == [{"mask": png(10)}, {"mask": png(11)}, {}]
    layout = found_records(path).layout
    assert layout.payloads == {"mask": "mask"} and "mask (mask)" in layout.text


def test_the_options_name_features(tmp_path: Path) -> None:
    record = example(image__encoded=png(1), image__segmentation__class__encoded=png(2), right=png(3), sound=b"\xff\x00")
    path = write_tfrecord(tmp_path / "a.tfrecord", record)
    options = {
        "image_columns": ("image/encoded", "right", "sound:bytes"),
        "mask_column": "image/segmentation/class/encoded",
    }
    assert payloads(path, **options) == [{"mask": png(2), "right": png(3), "sound": b"\xff\x00"}]
    assert found_records(path, **options).layout.payloads == {"right": "photo", "sound": "bytes", "mask": "mask"}


def test_pixels_of_masks_in_tfrecords(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8)
    wide = np.arange(4, dtype="<u2") + 1000
    record = example(image=bytes(12), mask=pixels[:4].tobytes(), depth_map=wide.tobytes(), height=2, width=2)
    path = write_tfrecord(tmp_path / "a.tfrecord", record)
    (found,) = payloads(path, image_columns=("image", "mask", "depth_map"))
    assert np.array_equal(found["mask"].squeeze(), pixels[:4].reshape(2, 2))
    assert np.array_equal(found["depth_map"].squeeze(), wide.reshape(2, 2))


def test_fields_that_are_named_are_all(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(image=png(1), mask=png(2), label=1, age=3))
    listing = found_records(path, fields=("age",))
    assert not listing.layout.payloads
    assert [one.what for one in listing.layout.left_out] == ["mask"]


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""], ids=["hdf5", "npz", "npy"])
def test_arrays_of_masks(suffix: str, tmp_path: Path) -> None:
    images, masks = np.zeros((2, 4, 6, 3), np.uint8), np.arange(48, dtype=np.uint8).reshape(2, 4, 6)
    depth = np.linspace(0, 9, 48, dtype=np.float32).reshape(2, 4, 6, 1)
    arrays = {"images": images, "masks": masks, "depth_map": depth, "labels": np.arange(2)}
    path = save(tmp_path / f"a{suffix}", arrays)
    listing = found_records(path)
    assert listing.layout.payloads == {"depth_map": "depth", "masks": "mask"}
    for number, found in enumerate(payloads(path)):
        assert np.array_equal(found["masks"], masks[number])
        assert np.array_equal(found["depth_map"], depth[number]) and found["depth_map"].dtype == np.float32
    assert found_records(path, mask_column="masks").layout.payloads == {"mask": "mask", "depth_map": "depth"}
    assert found_records(path, image_columns=("images", "masks:photo")).layout.payloads == {"masks": "photo"}


def test_files_in_arrays_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in (("image", (1, 2)), ("mask", (3, 4)), ("header", (5, 6))):
            rows = file.create_dataset(name, (2,), h5py.vlen_dtype(np.uint8))
            for row, value in enumerate(values):
                rows[row] = np.frombuffer(png(value), np.uint8)
    assert payloads(tmp_path / "a.h5", image_columns=("image", "mask", "header:bytes")) == [
        {"mask": png(3), "header": png(5)},
        {"mask": png(4), "header": png(6)},
    ]


def test_arrays_of_splits_have_their_own_masks(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    for split, number in (("train", 2), ("test", 1)):
        arrays[f"images_{split}"] = np.zeros((number, 4, 4, 3), np.uint8)
        arrays[f"masks_{split}"] = np.full((number, 4, 4), number, np.uint8)
    path = save(tmp_path / "a.npz", arrays)
    assert found_records(path).layout.payloads == {"masks": "mask"}
    assert sorted(int(one["masks"].max()) for one in payloads(path)) == [1, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_columns": ("images", "gone")}, "--image-columns gone: INPUT has no such image or bytes"),
        ({"mask_column": "labels"}, "the array labels is int64 [2]: expected numbers of [n, height, width]"),
        ({"image_columns": ("images", "masks:bytes")}, "expected bytes of any length"),
        ({"image_columns": ("images", "other")}, "the array other is uint8 [3, 4, 4]: expected 2 rows"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {"images": np.zeros((2, 4, 4, 3), np.uint8), "masks": np.zeros((2, 4, 4), np.uint8)}
    arrays |= {"labels": np.arange(2), "other": np.zeros((3, 4, 4), np.uint8)}  # type: ignore[dict-item]
    assert message in refused_records(save(tmp_path / "a.h5", arrays), **options)


def test_a_payload_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(image=png(1), mask=png(2)))
    source = RecordFiles(SourceOptions(input=str(path)))
    (entry,) = source.entries()
    source.reading = Reading(max_bytes=10)
    with pytest.raises(BadInput, match="--max-bytes"):
        source.read_payload(Reference(entry.id, -1, entry.place, payloads=entry.payloads), "mask")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_a_dataset_by_image_shards_comes_along_whole(format: str, encoding: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 20))
    Image.fromarray(np.arange(800, dtype=np.uint8).reshape(20, 40)).save(tmp_path / "mask.png")
    Image.fromarray(np.arange(800, dtype=np.uint16).reshape(20, 40) * 50).save(tmp_path / "depth.png")
    (tmp_path / "note.bin").write_bytes(b"\xff\x00\x01")
    (tmp_path / "t.csv").write_text("path,mask,depth,note\na.png,mask.png,depth.png,note.bin\n")
    options = ["--format", format, "--encoding", encoding, "--fit", "none"]
    options += ["--depth-dtype", "float32"] if encoding == "raw" else []
    columns = ["--image-columns", "path,mask,depth,note:bytes"]
    first = prepared(tmp_path / "t.csv", tmp_path / "first", *columns, *options)
    (shard,) = first.glob("train-*.h5" if format == "hdf5" else "train-*.tfrecord")
    again = prepared(shard, tmp_path / "again", *options)
    one, other = open_dataset(first)[0], open_dataset(again)[0]
    for name in ("image", "mask", "depth"):
        assert one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
    assert bytes(other["note"]) == bytes(one["note"]) == b"\xff\x00\x01"
    fields = json.loads((again / "dataset.json").read_text())["fields"]
    assert [fields[name].get("role") for name in ("mask", "depth")] == ["mask", "depth"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tfrecord", "hdf5"])
def test_keypoints_of_a_dataset_by_image_shards_keep_their_role(format: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", size=(40, 20))
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 10], "keypoints": [10, 5, 2, 20, 5, 1, 0, 0, 0]}
    one |= {"segmentation": [[0, 0, 20, 0, 20, 10]]}
    whole = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [one],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["left_eye", "right_eye", "nose"]}],
    }
    (tmp_path / "i.json").write_text(json.dumps(whole))
    options = ["--format", format, "--encoding", "png", "--fit", "none"]
    first = prepared(tmp_path / "i.json", tmp_path / "first", "--segments", "rle", *options)
    (shard,) = first.glob("train-*.h5" if format == "hdf5" else "train-*.tfrecord")
    listing = found_records(shard)
    field = listing.layout.fields["objects/keypoints"]
    assert (field.role, field.names[0], field.flip_pairs) == ("keypoints", "left_eye", ((0, 1),))
    assert listing.layout.points == {"objects/keypoints": "rel-yx"}
    (left_out,) = listing.layout.left_out
    assert "objects/segmentation" in left_out.what  # a text would not move
    again = prepared(shard, tmp_path / "again", *options, "--size", "40x40", "--fit", "pad")
    points = open_dataset(again)[0]["objects/keypoints"]
    assert np.allclose(points[0], [[(5 + 10) / 40, 0.25, 2], [(5 + 10) / 40, 0.5, 1], [0, 0, 0]])
