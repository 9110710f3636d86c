"""TFRecords as input: those of TensorFlow, of TensorFlow Datasets, and broken ones."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.sources import example, found_records, images, refused_records, upload, write_tfrecord

from beam_jobs.sources import BadInput
from shard_reader.format import Field


def test_tfrecord(tmp_path: Path, bucket: str) -> None:
    records = [
        example(image__encoded=b"\xff%d" % n, image__class__label=n % 3, image__height=4, text=f"ü{n}", score=n / 2)
        for n in range(20)
    ]
    path = write_tfrecord(tmp_path / "a.tfrecord", *records)
    for place in (path, upload(path, f"{bucket}/a.tfrecord")):
        listed = found_records(place)
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
    listed = found_records(tmp_path)
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
    listed = found_records(path)
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
    assert refused_records(path) == (
        "INPUT: record 0: the feature mask holds b'\\xff2', which is not UTF-8 and can be no field; name those that are"
        " to be fields with --fields, the image with --image-key, or bytes to keep with --image-columns"
        " IMAGE,mask:bytes"
    )
    listed = found_records(
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
    assert refused_records(path, image_key="mask", fields=("size",)) == (
        "--fields size: INPUT has no such values; it has height, image, kind, label, name, part"
    )


def test_tfrecords_of_tensorflow_datasets(tmp_path: Path, photos: Path) -> None:
    import tensorflow_datasets as tfds

    path = next(photos.rglob("*.jpg"))
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}
    )
    record = features.serialize_example(features.encode_example({"image": str(path), "label": 2}))
    listed = found_records(write_tfrecord(tmp_path / "x-train.tfrecord-00000-of-00001", record))
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
    listed = found_records(path)
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
    listed = found_records(labelled)
    assert "objects/label" not in listed.layout.fields  # where the catalog would have no label beside it
    assert (listed.entries["00000000"].label, listed.entries["00000000"].fields) == (7, {"objects/label": [3]})
    listed = found_records(path, fields=("objects/pose",))
    assert listed.layout.boxes == {}
    assert listed.rejects == {}


def test_records_that_are_no_examples_are_rejected(tmp_path: Path) -> None:
    records = [example(image=b"1"), b"\xff\xff", example(label=1), example(image=[b"1", b"2"]), b""]
    listed = found_records(write_tfrecord(tmp_path / "a.tfrecord", *records))
    assert list(listed.entries) == ["00000000"]
    assert listed.rejects == {
        "00000001": ("bad-record", "is no tf.train.Example (the message ends inside a varint at byte 2)"),
        "00000002": ("bad-record", "has no image in image; its features are label"),
        "00000003": ("bad-record", "has no image in image; its features are image"),
        "00000004": ("bad-record", "has no image in image; its features are none"),
    }


def test_tfrecords_without_an_image(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(picture=b"1", label=1))
    assert refused_records(path) == (
        "INPUT: holds no images (1 other inputs); the first record has the features label, picture: name one with"
        " --image-key"
    )
    write_tfrecord(path)
    assert refused_records(path) == "INPUT: holds no images (0 other inputs)"


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
    refusal = refused_records(path if where == "local" else upload(path, f"{bucket}/a.tfrecord"))
    assert refusal.replace(f"{tmp_path}/", "") == message


def test_the_command_that_unpacks_a_tfrecord_works(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a b.tfrecord.gz", example(image=b"1"), compression="GZIP")
    for plain in ("a b.tfrecord", "a b.plain.tfrecord"):
        message = refused_records(path)
        command = message.rpartition("unpack it first: ")[2].replace("INPUT", "")
        assert subprocess.run(command, shell=True, check=True, capture_output=True).stdout == b""
        assert list(found_records(tmp_path / plain).entries) == ["00000000"]
        path = tmp_path / "a b.tfrecord"
        write_tfrecord(path, example(image=b"1"), compression="GZIP")


def test_a_tfrecord_that_has_become_shorter(tmp_path: Path) -> None:
    listed = found_records(write_tfrecord(tmp_path / "a.tfrecord", example(image=bytes(100))))
    os.truncate(tmp_path / "a.tfrecord", 60)
    with pytest.raises(BadInput, match="the file ends 69 bytes before its end"):
        listed.read("00000000")


def serialized(pixels: NDArray[Any]) -> bytes:
    import tensorflow as tf

    return bytes(tf.io.serialize_tensor(pixels).numpy())


@pytest.mark.parametrize(
    ("shape", "dtype", "values"),
    [
        ((4, 5, 3), "uint8", {"height": 4, "width": 5, "depth": 3}),
        ((4, 5, 1), "uint8", {"image__height": 4, "image__width": 5}),
        ((4, 5, 4), "uint8", {"height": 4, "width": 5, "image__channels": 4}),
        ((4, 5, 3), "uint16", {"height": 4, "width": 5}),
        ((4, 5, 1), "uint16", {"height": 4, "width": 5, "channels": 1}),
        ((4, 5, 3), "uint8", None),
        ((4, 5), "uint16", None),
        ((3, 40, 50), "uint8", None),
    ],
)
def test_images_that_are_pixels(tmp_path: Path, shape: tuple[int, ...], dtype: str, values: dict[str, int]) -> None:
    pixels = [images(*shape, dtype=dtype) + np.array(n, dtype) for n in range(3)]
    records = [
        example(image=serialized(one) if values is None else one.tobytes(), label=n, **(values or {}))
        for n, one in enumerate(pixels)
    ]
    listed = found_records(write_tfrecord(tmp_path / "a.tfrecord", *records))
    assert [entry.label for entry in listed.entries.values()] == [0, 1, 2]
    for id, one in zip(listed.entries, pixels, strict=True):
        assert np.array_equal(listed.read(id), np.moveaxis(one, 0, 2) if shape[0] == 3 else one)


def test_pixels_of_another_size_or_type_are_rejected(tmp_path: Path) -> None:
    size = {"height": 4, "width": 5, "depth": 3}
    path = write_tfrecord(
        tmp_path / "a.tfrecord",
        example(image=b"\xff\xd8\xff" * 20, **size),
        example(image=b"\xff\xd8\xff" * 20, height=5, width=4),
        example(image=images(4, 5, 3).tobytes(), **size),
        example(image=bytes(61), **size),
        example(image=bytes(60), height=4),
        example(image=serialized(images(4, 5, 3).astype("float32"))),
    )
    start = write_tfrecord(tmp_path / "b.tfrecord", example(image=images(4, 5, 3).tobytes(), **size))
    both = tmp_path / "both"
    both.mkdir()
    for number, one in enumerate((start, path)):
        one.rename(both / f"{number}.tfrecord")
    listed = found_records(both)
    assert len(listed.entries) == 4  # by then, images are known to be pixels, whatever they begin with
    assert {id[-1]: text for id, (_, text) in listed.rejects.items()} == {
        "3": "its image has 61 bytes, which are not the pixels of height 4, width 5, 3 channels",
        "4": "its image has no width, which bytes of pixels need",
        "5": "its image is a serialized tensor of shape [4, 5, 3] in 240 bytes: expected uint8 or uint16 of [height,"
        " width] or [height, width, channels], with 1, 3 or 4 channels",
    }


def test_shards_with_float_pixels_are_refused(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(image=bytes(4 * 20), height=4, width=5))
    assert found_records(path).read("00000000").shape == (4, 5, 4)
    (tmp_path / "dataset.json").write_text(json.dumps({"fields": {"image": {"encoding": "raw", "dtype": "float32"}}}))
    assert refused_records(path) == (
        "INPUT: its dataset.json says that its pixels are float32: expected uint8 or uint16; prepare the images that"
        " the dataset was made of"
    )


def test_the_only_feature_that_is_an_image(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(image="a name", contents=b"\xff\xd8\xff"))
    listed = found_records(path)
    assert listed.read("00000000") == b"\xff\xd8\xff"
    assert listed.entries["00000000"].fields == {"image": "a name"}


def test_one_hot_vectors_are_classes(tmp_path: Path) -> None:
    for vectors in ([[0.0, 1.0], [1.0, 0.0]], [[0, 1, 0], [1, 0, 0]]):
        path = write_tfrecord(tmp_path / "a.tfrecord", *(example(image=b"\xff", label=one) for one in vectors))
        assert [entry.label for entry in found_records(path).entries.values()] == [1, 0]


def test_features_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", example(image=b"\xff", label=1, height=3, depth=3, x=1))
    left_out = [(one.what, one.why) for one in found_records(path).layout.left_out]
    why = "they describe the file of an image, not the stored one; --fields keeps them"
    assert left_out == [("depth, height", why)]
    left_out = [(one.what, one.why) for one in found_records(path, fields=("height",)).layout.left_out]
    assert left_out == [("depth, x", "--fields does not name them")]
