"""Datasets that are in files of many images already, as the formats' own libraries write them."""

from __future__ import annotations

import gzip
import itertools
import json
import multiprocessing
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.images import write_image
from test_archive import Found, upload

from beam_jobs.errors import UsageError
from beam_jobs.sources import BadInput, Reference
from beam_jobs.sources.files.file_names import is_records
from beam_jobs.sources.files.interface import SourceOptions
from beam_jobs.sources.records import RecordFiles
from shard_reader.format import Field


def found(path: object, **options: Any) -> Found:
    return Found(RecordFiles(SourceOptions(input=str(path), **options)))


def refused(path: object, **options: Any) -> str:
    """The message of a UsageError, without what is before the file's own name."""
    with pytest.raises(UsageError) as caught:
        found(path, **options)
    return str(caught.value).replace(f"INPUT {path}", "INPUT")


@pytest.fixture
def bucket() -> Iterator[str]:
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def example(**values: Any) -> bytes:
    """An Example by TensorFlow, with "__" in names for "/"."""
    import tensorflow as tf

    features = {}
    for name, value in values.items():
        given = value if isinstance(value, list) else [value]
        if any(isinstance(v, str | bytes) for v in given):
            coded = [v.encode() if isinstance(v, str) else v for v in given]
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=coded))
        elif any(isinstance(v, float) for v in given):
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=given))
        else:
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=given))
        features[name.replace("__", "/")] = feature
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def write_tfrecord(path: Path, *records: bytes, compression: str = "") -> Path:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def images(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def test_names() -> None:
    names = [
        "a.tfrecord",
        "a.TFRecords",
        "pets-train.tfrecord-00000-of-00010",
        "train-00000-of-01024",
        "x/a.h5",
        "a.hdf5",
    ]
    assert all(map(is_records, [*names, "a.npz", "a.npy", "a.tfrecord.gz"]))
    assert not any(map(is_records, ["a.jpg", "train-00000-of-00002.tfrecord.index.npy", "state-of-art", "a.tar"]))


def test_tfrecord(tmp_path: Path, bucket: str) -> None:
    records = [
        example(image__encoded=b"\xff%d" % n, image__class__label=n % 3, image__height=4, text=f"ü{n}", score=n / 2)
        for n in range(20)
    ]
    path = write_tfrecord(tmp_path / "a.tfrecord", *records)
    for place in (path, upload(path, f"{bucket}/a.tfrecord")):
        listed = found(place)
        assert listed.text == "a TFRecord file (images in image/encoded, labels in image/class/label)"
        assert list(listed.entries) == [f"{n:08d}" for n in range(20)]
        entry = listed.entries["00000013"]
        assert (entry.label, entry.split, entry.size) == (1, None, 3)
        assert entry.fields == {"text": "ü13", "score": 6.5}
        assert [listed.read(id) for id in listed.entries] == [b"\xff%d" % n for n in range(20)]
        json.dumps(entry.place)


def test_tfrecord_of_splits(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("train", 1), ("test", 0)):
        write_tfrecord(tmp_path / f"pets-{split}.tfrecord-{number:05d}-of-00002", example(image=b"\xff1", label="cat"))
    (tmp_path / "dataset_info.json").write_text("{}")
    listed = found(tmp_path)
    assert listed.labels == {
        "pets-test.tfrecord-00000-of-00002/00000000": ("cat", "test"),
        "pets-train.tfrecord-00000-of-00002/00000000": ("cat", "train"),
        "pets-train.tfrecord-00001-of-00002/00000000": ("cat", "train"),
    }
    assert listed.layout.splits == ("train", "test")
    assert listed.text == "split files (test, train) of 3 TFRecord files (images in image, labels in label)"
    assert listed.ignored == 1


def test_tfrecord_values_are_scalars_if_all_are(tmp_path: Path) -> None:
    path = write_tfrecord(
        tmp_path / "a.tfrecord",
        example(image=b"1", label=[1], boxes=[0.5], names="a", one=3),
        example(image=b"2", label=[1, 2], boxes=[0.5, 1.5], names=["b", "c"], one=4),
        example(image=b"3", label=[], boxes=[], one=[]),
    )
    listed = found(path)
    assert [entry.label for entry in listed.entries.values()] == [[1], [1, 2], []]
    assert [dict(entry.fields) for entry in listed.entries.values()] == [
        {"boxes": [0.5], "names": ["a"], "one": 3},
        {"boxes": [0.5, 1.5], "names": ["b", "c"], "one": 4},
        {"boxes": [], "one": None},
    ]
    assert listed.layout.fields == {
        "boxes": Field(dtype="float32", shape=(None,)),
        "names": Field(dtype="string", shape=(None,)),
    }


def test_tfrecord_with_names_that_are_said(tmp_path: Path) -> None:
    path = write_tfrecord(
        tmp_path / "a.tfrecord",
        example(image=b"\xff1", mask=b"\xff2", kind="cat", name="tom", part="val", height=3, label=5),
    )
    assert refused(path) == (
        "INPUT: record 0: the feature mask holds b'\\xff2', which is not UTF-8 and can be no field; name those that are"
        " to be fields with --fields, or the image with --image-key"
    )
    listed = found(
        path,
        image_key="mask",
        label_column="kind",
        id_column="name",
        split_column="part",
        fields=("height",),
    )
    assert listed.labels == {"tom": ("cat", "val")}
    assert listed.entries["tom"].fields == {"height": 3}
    assert listed.read("tom") == b"\xff2"
    assert refused(path, image_key="mask", fields=("size",)) == (
        "--fields size: INPUT has no such values; it has height, image, kind, label, name, part"
    )


def test_tfrecords_of_tensorflow_datasets(tmp_path: Path, photos: Path) -> None:
    import tensorflow_datasets as tfds

    path = next(photos.rglob("*.jpg"))
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}
    )
    record = features.serialize_example(features.encode_example({"image": str(path), "label": 2}))
    listed = found(write_tfrecord(tmp_path / "x-train.tfrecord-00000-of-00001", record))
    assert listed.read("00000000") == path.read_bytes()
    assert listed.entries["00000000"].label == 2


def test_objects_of_tensorflow_datasets(tmp_path: Path) -> None:
    boxes = [0.1, 0.2, 0.5, 0.6, 0.0, 0.0, 1.0, 1.0]
    path = write_tfrecord(
        tmp_path / "a.tfrecord",
        example(image=b"1", objects__bbox=boxes[:4], objects__label=[3], objects__pose=["left"]),
        example(image=b"2", objects__bbox=boxes, objects__label=[3, 4], objects__pose=["left", "right"]),
        example(image=b"3", objects__bbox=[], objects__label=[], objects__pose=[]),
        example(image=b"4", objects__bbox=[10.0, 20.0, 30.0, 40.0], objects__label=[1], objects__pose=["left"]),
        example(image=b"5", objects__bbox=[0.5, 0.5], objects__label=[1], objects__pose=["left"]),
    )
    listed = found(path)
    assert listed.layout.boxes == {"objects/bbox": "rel-yxyx"}
    assert listed.layout.fields == {
        "objects/bbox": Field(dtype="float32", shape=(None, 4)),
        "objects/label": Field(dtype="int64", shape=(None,)),
        "objects/pose": Field(dtype="string", shape=(None,)),
    }
    assert listed.entries["00000000"].fields["objects/label"] == [3]
    assert listed.entries["00000001"].fields["objects/pose"] == ["left", "right"]
    assert listed.entries["00000001"].fields["objects/bbox"] == pytest.approx(boxes)
    assert listed.entries["00000002"].fields == {"objects/bbox": [], "objects/label": [], "objects/pose": []}
    assert listed.rejects == {
        "00000003": (
            "bad-boxes",
            "objects/bbox holds 10.0: expected ymin, xmin, ymax, xmax of each box as parts of the image, 0 to 1; leave"
            " it out with --fields",
        ),
        "00000004": ("bad-boxes", "objects/bbox has 2 numbers: expected 4 for each box"),
    }
    labelled = write_tfrecord(tmp_path / "b.tfrecord", example(image=b"1", label=7, objects__label=[3]))
    listed = found(labelled)
    assert "objects/label" not in listed.layout.fields  # where the catalog would have no label beside it
    assert (listed.entries["00000000"].label, listed.entries["00000000"].fields) == (7, {"objects/label": [3]})
    listed = found(path, fields=("objects/pose",))
    assert listed.layout.boxes == {}
    assert listed.rejects == {}


def test_records_that_are_no_examples_are_rejected(tmp_path: Path) -> None:
    records = [example(image=b"1"), b"\xff\xff", example(label=1), example(image=[b"1", b"2"]), b""]
    listed = found(write_tfrecord(tmp_path / "a.tfrecord", *records))
    assert list(listed.entries) == ["00000000"]
    assert listed.rejects == {
        "00000001": ("bad-record", "is no tf.train.Example (the message ends inside a varint at byte 2)"),
        "00000002": ("bad-record", "has no image in image; its features are label"),
        "00000003": ("bad-record", "has no image in image; its features are image"),
        "00000004": ("bad-record", "has no image in image; its features are none"),
    }


def test_tfrecords_without_an_image(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(picture=b"1", label=1))
    assert refused(path) == (
        "INPUT: holds no images (1 other inputs); the first record has the features label, picture: name one with"
        " --image-key"
    )
    write_tfrecord(path)
    assert refused(path) == "INPUT: holds no images (0 other inputs)"


@pytest.mark.parametrize("where", ["local", "url"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "INPUT: was cut off at byte 101, in record 1; copy it again"),
        (lambda data: data[:60], "INPUT: was cut off at byte 60, in record 1; copy it again"),
        (
            lambda data: data[:51] + b"\1" + data[52:],
            "INPUT: the length of record 1, at byte 51, is damaged; copy it again",
        ),
        (lambda data: b"\0" + data, "INPUT: is no TFRecord file, or is compressed or damaged; write it again"),
        (
            gzip.compress,
            "INPUT: is compressed by gzip, without random access; unpack it first: gzip -dc a.tfrecord >"
            " a.plain.tfrecord",
        ),
    ],
)
def test_tfrecords_that_are_broken(
    tmp_path: Path, bucket: str, where: str, change: Callable[[bytes], bytes], message: str
) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", *[example(image=b"%d" % n, label=300) for n in range(2)])
    assert len(path.read_bytes()) == 102
    path.write_bytes(change(path.read_bytes()))
    refusal = refused(path if where == "local" else upload(path, f"{bucket}/a.tfrecord"))
    assert refusal.replace(f"{tmp_path}/", "") == message


def test_the_command_that_unpacks_a_tfrecord_works(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a b.tfrecord.gz", example(image=b"1"), compression="GZIP")
    for plain in ("a b.tfrecord", "a b.plain.tfrecord"):
        message = refused(path)
        command = message.rpartition("unpack it first: ")[2].replace("INPUT", "")
        assert subprocess.run(command, shell=True, check=True, capture_output=True).stdout == b""
        assert list(found(tmp_path / plain).entries) == ["00000000"]
        path = tmp_path / "a b.tfrecord"
        write_tfrecord(path, example(image=b"1"), compression="GZIP")


def test_a_tfrecord_that_has_become_shorter(tmp_path: Path) -> None:
    listed = found(write_tfrecord(tmp_path / "a.tfrecord", example(image=bytes(100))))
    os.truncate(tmp_path / "a.tfrecord", 60)
    with pytest.raises(BadInput, match="the file ends 69 bytes before its end"):
        listed.read("00000000")


ARRAYS = {
    "grey": (5, 8, 6),
    "grey with a channel": (5, 8, 6, 1),
    "colour": (5, 8, 6, 3),
    "transparent": (5, 8, 6, 4),
    "planes": (5, 3, 8, 6),
    "grey planes": (5, 1, 8, 6),
}


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """Write arrays in the format that the suffix says; without one, a folder of them."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2"])
@pytest.mark.parametrize("shape", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
def test_arrays_of_every_shape(tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str) -> None:
    pixels = images(*shape, dtype=dtype)
    listed = found(save(tmp_path / f"a{suffix}", {"images": pixels, "labels": np.arange(5)}))
    assert [entry.label for entry in listed.entries.values()] == list(range(5))
    assert listed.entries["00000002"].size == pixels[2].nbytes
    expected = np.moveaxis(pixels, 1, 3) if shape[1] in (1, 3) else pixels
    for id, image in zip(listed.entries, expected, strict=True):
        read = listed.read(id)
        assert read.dtype == (np.uint8 if dtype == "uint8" else np.uint16)
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
def test_arrays_beside_the_images_are_fields(tmp_path: Path, suffix: str) -> None:
    arrays = {
        "x": images(3, 4, 4),
        "y": np.array([[7], [8], [9]], np.uint8),
        "weight": np.array([0.5, 1, 2]),
        "flag": np.array([True, False, True]),
        "name": np.array([b"a", b"bc", "ü".encode()]),
        "points": np.arange(12, dtype=np.int16).reshape(3, 2, 2),
        "test": np.arange(4),
    }
    listed = found(save(tmp_path / f"a{suffix}", arrays))
    assert [entry.label for entry in listed.entries.values()] == [7, 8, 9]
    assert listed.entries["00000001"].fields == {"weight": 1.0, "flag": False, "name": "bc", "points": [4, 5, 6, 7]}
    assert listed.layout.fields == {"points": Field(dtype="int64", shape=(2, 2))}
    assert listed.text.endswith("(images in x, labels in y; left out: test)")
    listed = found(tmp_path / f"a{suffix}", label_column="name", fields=("flag",))
    assert [entry.label for entry in listed.entries.values()] == ["a", "bc", "ü"]
    assert listed.entries["00000001"].fields == {"flag": False}
    assert refused(tmp_path / f"a{suffix}", fields=("test",)) == (
        "INPUT: the array test is int64 [4], and x is uint8 [3, 4, 4]: expected a row for each image"
    )


def test_hdf5_of_encoded_files(tmp_path: Path, bucket: str) -> None:
    write_image(tmp_path / "1.jpg")
    files = [(tmp_path / "1.jpg").read_bytes(), b"two", b""]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (3,), h5py.vlen_dtype(np.uint8))[:] = [np.frombuffer(f, np.uint8) for f in files]
        file.create_dataset("label", data=["cat", "dog", "ü"], dtype=h5py.string_dtype())
        file.create_dataset("parts", (3,), h5py.vlen_dtype(np.int32))[:] = [np.arange(n) for n in range(3)]
    for place in (tmp_path / "a.h5", upload(tmp_path / "a.h5", f"{bucket}/a.h5")):
        listed = found(place)
        assert listed.text == "an HDF5 file (images in image, labels in label)"
        assert [entry.label for entry in listed.entries.values()] == ["cat", "dog", "ü"]
        assert [entry.fields["parts"] for entry in listed.entries.values()] == [[], [0], [0, 1]]
        assert listed.layout.fields == {"parts": Field(dtype="int64", shape=(None,))}
        assert [listed.read(id) for id in listed.entries] == files


def test_hdf5_in_groups_and_compressed(tmp_path: Path) -> None:
    pixels = images(10, 4, 4, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train/pixels", data=pixels, compression="gzip", chunks=(4, 4, 4, 3))
        file["train/kind"] = np.arange(10)
    assert refused(tmp_path / "a.h5") == (
        "INPUT: no array is named image or images or x or X or data or x_train; name one of its own with --image-key:"
        " train/kind (int64 [10]), train/pixels (uint8 [10, 4, 4, 3])"
    )
    listed = found(tmp_path / "a.h5", image_key="train/pixels", label_column="train/kind")
    assert listed.entries["00000009"].label == 9
    np.testing.assert_array_equal(listed.read("00000009"), pixels[9])


SPLITS = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("train_set_x", "train_set_y", "test_set_x", "test_set_y"),
    ("xtrain", "ytrain", "xtest", "ytest"),
    ("trainImages", "trainLabels", "testImages", "testLabels"),
    ("train/images", "train/labels", "test/images", "test/labels"),
    ("Train/image", "Train/label", "Test/image", "Test/label"),
    ("images/train", "labels/train", "images/test", "labels/test"),
]


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
@pytest.mark.parametrize("names", SPLITS, ids=[names[2] for names in SPLITS])
def test_arrays_of_splits(tmp_path: Path, suffix: str, names: tuple[str, ...]) -> None:
    if "/" in names[0] and suffix != ".h5":
        return
    x_train, y_train, x_test, y_test = names
    train, test = images(3, 4, 4), images(3, 4, 4) // 2
    arrays = {x_train: train, y_train: np.arange(3), x_test: test, y_test: np.arange(3) + 5}
    path = save(tmp_path / f"a{suffix}", arrays)
    listed = found(path)
    assert listed.labels == {f"{x_train}/{n:08d}": (n, "train") for n in range(3)} | {
        f"{x_test}/{n:08d}": (n + 5, "test") for n in range(3)
    }
    assert listed.layout.splits == ("train", "test")
    assert listed.text.startswith("splits (train, test) of ")
    assert listed.text.endswith(f" (images in {x_train} and {x_test}, labels in {y_train} and {y_test})")
    np.testing.assert_array_equal(listed.read(f"{x_test}/00000001"), test[1])
    listed = found(path, image_key=x_test)
    assert listed.labels == {f"{n:08d}": (n + 5, None) for n in range(3)}
    assert listed.layout.splits is None
    assert listed.text.endswith(
        f" (images in {x_test}, labels in {y_test}; left out: {min(x_train, y_train)}, {max(x_train, y_train)})"
    )
    np.testing.assert_array_equal(listed.read("00000001"), test[1])


def test_labels_of_another_split_are_no_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", {"x_train": images(3, 4, 4), "y_train": np.arange(3), "x_test": images(3, 4, 4)})
    listed = found(path, image_key="x_test")
    assert {label for label, _ in listed.labels.values()} == {None}
    assert listed.text == "an npz file (images in x_test, without labels; left out: x_train, y_train)"
    listed = found(path, image_key="x_test", label_column="y_train")
    assert [label for label, _ in listed.labels.values()] == [0, 1, 2]
    path = save(
        tmp_path / "a.h5", {"test/images": images(3, 4, 4), "labels": np.arange(3), "test/labels": np.ones(3, int)}
    )
    listed = found(path, image_key="test/images")
    assert [label for label, _ in listed.labels.values()] == [1, 1, 1]
    path = save(tmp_path / "b.h5", {"test/images": images(3, 4, 4), "labels": np.arange(3)})
    assert found(path, image_key="test/images").text == "an HDF5 file (images in test/images, without labels)"


def test_arrays_of_splits_with_fields(tmp_path: Path) -> None:
    arrays = {"classes": np.arange(7)}
    for number, split in enumerate(("test", "train", "val")):
        rows = number + 1
        arrays[f"{split}_images"] = images(rows, 4, 4, 3)
        arrays[f"{split}_labels"] = np.full((rows, 1), number)
        arrays[f"{split}_weight"] = np.full(rows, number / 2)
        arrays[f"{split}_box"] = np.ones((rows, 4), np.float32)
    path = save(tmp_path / "medmnist.npz", arrays)
    listed = found(path)
    assert listed.layout.splits == ("train", "val", "test")
    assert listed.text == (
        "splits (train, val, test) of an npz file (images in train_images and val_images and test_images, labels in"
        " train_labels and val_labels and test_labels; left out: classes)"
    )
    assert len(listed.entries) == 6
    assert listed.labels["val_images/00000002"] == (2, "val")
    assert listed.entries["val_images/00000002"].fields == {"weight": 1.0, "box": [1.0] * 4}
    assert listed.layout.fields == {"box": Field(dtype="float32", shape=(4,))}
    assert found(path, fields=("train_weight",)).entries["test_images/00000000"].fields == {"weight": 0.0}
    assert refused(path, fields=("colour",)).startswith("--fields colour: INPUT has no such values; it has ")
    upload_dir = tmp_path / "several"
    upload_dir.mkdir()
    save(upload_dir / "a.npz", arrays)
    save(upload_dir / "b.npz", arrays)
    assert found(upload_dir).labels["b.npz/val_images/00000002"] == (2, "val")
    save(upload_dir / "c.npz", {"images": images(1, 4, 4)})
    assert "c.npz: holds no arrays of splits, as others do" in refused(upload_dir)


def test_a_folder_of_hdf5_of_splits(tmp_path: Path) -> None:
    for name in ("train_1.h5", "test_1.h5"):
        save(tmp_path / name, {"x_train": images(2, 4, 4), "y_train": np.arange(2)})
    (tmp_path / "photo.jpg").write_bytes(b"")
    listed = found(tmp_path)
    assert listed.labels == {
        "test_1.h5/00000000": (0, "test"),
        "test_1.h5/00000001": (1, "test"),
        "train_1.h5/00000000": (0, "train"),
        "train_1.h5/00000001": (1, "train"),
    }
    assert listed.text == "split files (test, train) of 2 HDF5 files (images in x_train, labels in y_train)"
    assert listed.rejects == {"photo.jpg": ("other-file", "is another kind of file than INPUT's")}


def _sum(source: RecordFiles, reference: Reference) -> int:
    return int(np.sum(source.read(reference)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_hdf5_is_read_by_threads_and_after_a_fork(tmp_path: Path) -> None:
    pixels = images(64, 8, 8, 3)
    save(tmp_path / "a.h5", {"images": pixels})
    source = RecordFiles(SourceOptions(input=str(tmp_path / "a.h5")))
    references = [Reference(str(n), -1, place=["hdf5", "", "images", n]) for n in range(64)]
    sums = [int(image.sum()) for image in pixels]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(_sum, itertools.repeat(source), references)) == sums
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put([_sum(source, reference) for reference in references]))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert queue.get() == sums


@pytest.mark.parametrize("suffix", [".h5", ".npz", ""])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": np.zeros((3, 4, 4)), "labels": np.zeros(3, int)},
            "the array images is float64 [3, 4, 4]: EXPECTED; scale them to 0..255 and save them as uint8",
        ),
        ({"images": images(3, 16)}, "the array images is uint8 [3, 16]: EXPECTED"),
        ({"images": images(3, 6, 6, 5)}, "the array images is uint8 [3, 6, 6, 5]: EXPECTED"),
        ({"images": images(3, 6, 6, dtype="int32")}, "the array images is int32 [3, 6, 6]: EXPECTED"),
        (
            {"images": images(3, 6, 6), "labels": np.zeros(4, int)},
            "the array labels is int64 [4], and images is uint8 [3, 6, 6]: expected a row for each image",
        ),
        (
            {"images": images(3, 6, 6), "labels": np.eye(3, dtype=np.uint8)},
            "the labels labels are uint8 [3, 3]: expected a whole number or a name for each image (of one-hot labels,"
            " save the argmax)",
        ),
        (
            {"images": images(2, 6, 6), "mask": np.zeros((2, 100, 100), np.uint8)},
            "the array mask is uint8 [2, 100, 100]: a field has at most 4,096 values; leave it out with --fields",
        ),
        (
            {"images": images(2, 6, 6), "z": np.zeros(2, complex)},
            "the array z is complex128 [2]: a field is of numbers or texts; save it as such, or leave it out with"
            " --fields",
        ),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path: Path, suffix: str, arrays: dict[str, Any], message: str) -> None:
    expected = (
        "expected uint8 or uint16 of [n, height, width], [n, height, width, channels] or [n, channels, height, width],"
        " with 1, 3 or 4 channels"
    )
    message = message.replace("EXPECTED", expected)
    assert refused(save(tmp_path / f"a{suffix}", arrays)) == f"INPUT: {message}"


def test_hdf5_that_is_broken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"images": images(9, 40, 40)})
    os.truncate(path, 9000)
    assert refused(path).startswith("INPUT: cannot be read as HDF5 (Unable to synchronously open file (truncated file")
    path = save(tmp_path / "b.h5", {"images": images(3, 4, 4)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<3Q", 3, 4, 4), struct.pack("<3Q", 3, 4, 5), 1))
    assert refused(path).startswith("INPUT: cannot be read as HDF5 (")
    path.write_bytes(b"no")
    assert refused(path).startswith("INPUT: cannot be read as HDF5 (Unable to synchronously open file (file signature")
    save(path, {"images": images(3, 4, 4)})
    reference = Reference("9", -1, place=["hdf5", "", "images", 9])
    with pytest.raises(BadInput, match="the file has no row 9 in images any more"):
        RecordFiles(SourceOptions(input=str(path))).read(reference)
    with pytest.raises(FileNotFoundError):
        RecordFiles(SourceOptions(input=str(tmp_path / "gone.h5"))).read(reference)


def test_one_array(tmp_path: Path, bucket: str) -> None:
    pixels = images(4, 5, 6, 3)
    np.save(tmp_path / "a.npy", pixels)
    for place in (tmp_path / "a.npy", upload(tmp_path / "a.npy", f"{bucket}/a.npy")):
        listed = found(place)
        assert listed.text == "a NumPy array (images in a, without labels)"
        np.testing.assert_array_equal(np.stack([listed.read(id) for id in listed.entries]), pixels)


def test_arrays_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "images.npy", images(1, 4, 4))
        np.save(tmp_path / split / "labels.npy", np.array(["cat"]))
    listed = found(tmp_path)
    assert listed.labels == {"test/00000000": ("cat", "test"), "train/00000000": ("cat", "train")}
    np.testing.assert_array_equal(listed.read("test/00000000"), images(1, 4, 4)[0])


def test_an_npz_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    pixels = images(4, 5, 6, 3)
    path = save(tmp_path / "a.npz", {"x_train": pixels, "y_train": np.arange(4), "x_test": images(2, 5, 6)})
    listed = found(upload(path, f"{bucket}/a.npz"))
    text = (
        "splits (train, test) of an npz file (images in x_train and x_test, labels in y_train, x_test without labels)"
    )
    assert listed.text == text
    np.testing.assert_array_equal(listed.read("x_train/00000003"), pixels[3])


def test_numpy_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=images(2, 4, 4))
    assert refused(path) == (
        "INPUT: the array images is compressed, as numpy.savez_compressed does, without random access; save it again"
        " with numpy.savez"
    )
    path.write_bytes(b"x")
    assert refused(path).startswith("INPUT: is no zip archive, or was cut off")
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(images(2, 4, 4)))
    assert refused(path) == "INPUT: a is in Fortran's order; save numpy.ascontiguousarray of it"
    np.save(path, np.array([{}, {}], object), allow_pickle=True)
    assert refused(path).startswith("INPUT: the array a is object [2]: expected uint8 or uint16 of [n, height, width]")
    np.save(path, images(2, 4, 4))
    os.truncate(path, 140)
    assert refused(path) == "INPUT: was cut off: a, uint8 [2, 4, 4], needs 32 bytes and has 12"
    path.write_bytes(b"x")
    assert "is no array of NumPy's" in refused(path)


CIFAR = "label:u1,image:u1[3,32,32]"


@pytest.fixture(scope="module")
def cifar_binary(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[Any], list[int]]:
    """Some of CIFAR-10 in the layout of its binary version: two files, their pixels and labels."""
    root = tmp_path_factory.mktemp("cifar")
    classes = sorted(path.name for path in (cifar10 / "train").iterdir())
    paths = sorted((cifar10 / "train").glob("*/*.jpg"))[::100]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    labels = [classes.index(path.parent.name) for path in paths]
    rows = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in zip(labels, pixels, strict=True)]
    (root / "data_batch_1.bin").write_bytes(b"".join(rows[:10]))
    (root / "data_batch_2.bin").write_bytes(b"".join(rows[10:]))
    (root / "batches.meta.txt").write_text("\n".join(classes))
    return root, pixels, labels


def test_cifar10_binary_as_it_is_published(tmp_path: Path) -> None:
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(bytes(3073))
    (tmp_path / "readme.html").write_bytes(b"")
    listed = found(tmp_path, record=CIFAR)
    assert [split for _, split in listed.labels.values()] == ["train", "train", "test"]
    assert listed.text == (
        "split files (test, train; train are those without a split in their names) of 3 files of records (images in"
        " image, labels in label)"
    )


def test_cifar10_binary(cifar_binary: tuple[Path, NDArray[Any], list[int]], bucket: str) -> None:
    root, pixels, labels = cifar_binary
    for name in ("data_batch_1.bin", "data_batch_2.bin"):
        upload(root / name, f"{bucket}/{name}")
    for place in (root, bucket):
        listed = found(place, record=CIFAR)
        assert list(listed.entries)[:11:10] == ["data_batch_1.bin/00000000", "data_batch_2.bin/00000000"]
        assert [entry.label for entry in listed.entries.values()] == labels
        np.testing.assert_array_equal(np.stack([listed.read(id) for id in listed.entries]), pixels)
        assert listed.text == "2 files of records (images in image, labels in label)"
    listed = found(root / "data_batch_1.bin", record="kind:i1,pixels:u1[3,32,32]", image_key="pixels")
    assert list(listed.entries)[:2] == ["00000000", "00000001"]
    assert listed.entries["00000001"].fields == {"kind": labels[1]}


def test_records_of_several_types(tmp_path: Path) -> None:
    record = "id_code:>u4, label:i8,image:>u2[2,3] ,weight:f4,box:f8[4]"
    dtype = np.dtype([("a", ">u4"), ("b", "<i8"), ("c", ">u2", (2, 3)), ("d", "<f4"), ("e", "<f8", (4,))])
    rows = np.zeros(2, dtype)
    rows["a"], rows["b"], rows["d"] = [7, 8], [-1, 2], [0.5, 0.25]
    rows["c"][1], rows["e"][1] = np.arange(6).reshape(2, 3) * 1000, [1, 2, 3, 4]
    (tmp_path / "a.bin").write_bytes(rows.tobytes())
    listed = found(tmp_path / "a.bin", record=record)
    assert listed.entries["00000001"].label == 2
    assert listed.entries["00000001"].fields == {"id_code": 8, "weight": 0.25, "box": [1.0, 2.0, 3.0, 4.0]}
    assert listed.layout.fields == {"box": Field(dtype="float32", shape=(4,))}
    np.testing.assert_array_equal(listed.read("00000001"), np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000)


def test_a_file_with_a_part_of_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(3073 * 4 + 7))
    assert refused(tmp_path / "a.bin", record=CIFAR) == (
        "INPUT: has 12,299 bytes, 4 records of 3,073 (label 1 + image 3,072) and 7 bytes more: give --record as the"
        " file is, or copy it again"
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", None),
        ("image", "cannot be understood at 'image'"),
        ("image:u3[2,2]", "cannot be understood at 'image:u3[2,2]'"),
        ("label:u1,image:u1[2,0]", "cannot be understood at 'image:u1[2,0]'"),
        ("label:u1,", "cannot be understood at 'label:u1,'"),
        ("a:u1,a:u2", "a is there twice"),
    ],
)
def test_records_that_are_none(record: str, message: str | None) -> None:
    if message is None:  # an empty option is none
        assert "does not exist" in refused("nowhere", record=record)
        return
    expected = "expected NAME:TYPE[SHAPE],... as label:u1,image:u1[3,32,32], with the types"
    assert refused("nowhere", record=record).startswith(f"--record {record}: {message}; {expected} u1 u2 u4 u8")


def test_inputs_that_are_none(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    forms = "(.tfrecord, .h5, .hdf5, .npz, .npy; for others, --record says what a record is)"
    assert refused(tmp_path) == f"INPUT: holds no file of records {forms}"
    assert refused(tmp_path / "a.jpg") == f"INPUT: is no file of records {forms}"
    for place in (tmp_path / "b.h5", f"{bucket}/b.h5"):
        assert refused(place) == "INPUT: does not exist"
    save(tmp_path / "a.h5", {"x": images(1, 4, 4)})
    save(tmp_path / "a.npz", {"x": images(1, 4, 4)})
    assert refused(tmp_path) == "INPUT: holds HDF5 and npz files; give a folder that holds one kind, or one file"
    assert refused(tmp_path, root="x") == "--root x: has no meaning where INPUT is a file of records; leave it out"
