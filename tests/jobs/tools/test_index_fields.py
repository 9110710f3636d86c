"""`image-shards index`: fields and encodings that it finds in features, and those it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.command import command
from support.foreign_records import image_bytes, indexed, manifest, tf, verified, write

from shard_reader import CenterCrop, open_dataset


def test_an_id_that_is_not_unique(tmp_path: Path) -> None:
    records = [{"image": image_bytes(n), "filename": f"{n % 4}.jpg".encode()} for n in range(6)]
    write(tmp_path / "train-00000-of-00002", records[:3])
    write(tmp_path / "train-00001-of-00002", records[3:])
    why = "filename is not unique: train-00000-of-00002:0 and train-00001-of-00002:1 have the same"
    result = command("index", tmp_path, "--id-key", "filename")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"error: --id-key filename: {why}; give --id-key none, and ids are FILE:ROW\n" in result.stderr
    assert not list(tmp_path.glob("*.npy")) and not (tmp_path / "dataset.json").exists()
    assert f"  id         FILE:ROW ({why})\n  fields     filename\n" in indexed(tmp_path)
    assert manifest(tmp_path).fields["filename"].dtype == "string"
    verified(tmp_path)


def test_features_with_names_of_ours_that_mean_something_else(tmp_path: Path) -> None:
    record = {"id": 7, "image": b"a text", "jpg": image_bytes(0), "height": 999, "label": b"cat", "content_hash": b"?"}
    write(tmp_path / "x.tfrecord", [record])
    said = indexed(tmp_path)
    assert "  left out   height: is known from the images\n" in said
    fields = manifest(tmp_path).fields
    own = ("image", "height", "width")
    assert tuple(fields) == (*own, "source/content_hash", "source/id", "source/image", "source/label")
    data, numbers = open_dataset(tmp_path), np.array([0])
    assert data.column("height", numbers).tolist() == [16]
    assert data.column("source/image", numbers).tolist() == [b"a text"]
    verified(tmp_path)


def test_features_that_are_not_in_every_record(tmp_path: Path) -> None:
    base = [{"image": image_bytes(n), "id": f"{n}".encode()} for n in range(4)]
    others = [{"n": 1, "t": b"x", "mixed": 1, "mask": b"\xff"}, {"n": [1, 2], "mixed": 0.5}, {}, {"n": [], "none": []}]
    write(tmp_path / "x.tfrecord", [first | second for first, second in zip(base, others, strict=True)])
    said = indexed(tmp_path)
    assert "left out   mask: is bytes that are no text\n" in said
    assert "left out   mixed: has values of several types" in said
    assert "left out   none: has no value in any record" in said
    data = open_dataset(tmp_path)
    assert [data[number]["n"].tolist() for number in range(4)] == [[1], [1, 2], [], []]
    assert [data[number]["t"] for number in range(4)] == [["x"], [], [], []]
    verified(tmp_path)


def test_named_features_and_patterns(tmp_path: Path) -> None:
    for name, count in (("part1.rec", 3), ("part2.rec", 2), ("held-out.rec", 1)):
        records = [
            {"img_a": image_bytes(n), "img_b": image_bytes(n, "PNG", (8, 6)), "y": n % 2, "label": 5,
             "key": b"same", "uid": f"{name}/{n}".encode()}
            for n in range(count)
        ]  # fmt: skip
        write(tmp_path / name, records)
    (tmp_path / "names.txt").write_text("no\nyes\n")
    refused = command("index", tmp_path)
    assert "holds no TFRecord files by their names" in refused.stderr
    splits = ("--split", "train=part*", "--split", "test=held-out.rec")
    options = (*splits, "--image-key", "img_b", "--label-key", "y", "--id-key", "uid")
    said = indexed(tmp_path, *options, "--classes", tmp_path / "names.txt")
    assert "  img_a      from img_a, uint8 [16, 20, 3], jpeg, photo\n" in said
    train, test = (open_dataset(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test), train[4]["label"], test[0]["id"]) == (5, 1, 1, "held-out.rec/0")
    assert train.fields["image"].shape == (6, 8, 3)
    assert train.class_names == ("no", "yes")
    assert "source/label" in train.fields
    verified(tmp_path)


@pytest.mark.parametrize("said", [False, True], ids=["by their features", "by --raw"])
def test_images_that_are_bytes_of_pixels(tmp_path: Path, said: bool) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (4, 5 if said else 5 + n, 3), dtype=np.uint8) for n in range(3)]
    sizes = [{} if said else {"height": len(image), "width": image.shape[1], "depth": 3} for image in images]
    records = [{"image_raw": image.tobytes(), "label": 1} | size for image, size in zip(images, sizes, strict=True)]
    write(tmp_path / "x.tfrecord", records)
    if said:
        result = command("index", tmp_path)
        assert result.returncode == 2
        assert "the images in image_raw are no JPEG, PNG, WebP or AVIF; if they are bytes of pixels" in result.stderr
    indexed(tmp_path, *(("--raw", "4x5x3") if said else ()))
    data = open_dataset(tmp_path)
    assert data.fields["image"].encoding == "raw"
    assert data.fields["image"].shape == ((4, 5, 3) if said else (4, None, 3))
    for number, image in enumerate(images):
        assert np.array_equal(data.image(number), image)
    verified(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "mode", "channels"), [("PNG", "RGBA", 4), ("PNG", "L", 1), ("WEBP", "RGB", 3), ("JPEG", "L", 1)]
)
def test_encodings_and_channels(tmp_path: Path, encoding: str, mode: str, channels: int) -> None:
    images = [image_bytes(n, encoding, (20, 16), mode) for n in range(2)]
    write(tmp_path / "x.tfrecord", [{"image": image} for image in images])
    indexed(tmp_path)
    field = manifest(tmp_path).fields["image"]
    assert (field.encoding, field.shape) == (encoding.lower(), (16, 20, channels))
    assert open_dataset(tmp_path).image(1).shape == (16, 20, channels)


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_grey_among_colour_is_read_as_colour(tmp_path: Path, encoding: str) -> None:
    """As TensorFlow does where it is asked for 3 channels; ImageNet has such images."""
    images = [image_bytes(n, encoding, mode=mode) for n, mode in enumerate(["L", "RGB", "L"])]
    write(tmp_path / "x.tfrecord", [{"image": image} for image in images])
    assert "; grey ones are read as RGB" in indexed(tmp_path)
    data = open_dataset(tmp_path)
    assert data.fields["image"].shape == (16, 20, 3)
    (batch,) = data.stream(batch_size=3, shuffle="none")
    for number, image in enumerate(images):
        exact = {"dct_method": "INTEGER_ACCURATE"} if encoding == "JPEG" else {}
        expected = getattr(tf.io, f"decode_{encoding.lower()}")(image, channels=3, **exact).numpy()
        assert np.array_equal(data.image(number), batch["image"][number])
        assert np.array_equal(data.image(number), expected)
    assert command("verify", tmp_path, "--decode", "--workers", 1).returncode == 0


def test_transparency_among_colour_has_no_one_shape(tmp_path: Path) -> None:
    images = [image_bytes(n, "PNG", mode=mode) for n, mode in enumerate(["RGBA", "RGB"])]
    write(tmp_path / "x.tfrecord", [{"image": image} for image in images])
    assert "grey ones" not in indexed(tmp_path)
    data = open_dataset(tmp_path)
    assert data.fields["image"].shape == (16, 20, None)
    assert [data.image(n).shape[2] for n in range(2)] == [4, 3]
    with pytest.raises(ValueError, match="may differ in channels"):
        data.stream(batch_size=2)


def test_labels_without_a_name(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [{"image": image_bytes(n), "label": n} for n in range(3)])
    (tmp_path / "label.labels.txt").write_text("a\nb\n")
    result = command("index", tmp_path)
    assert result.returncode == 1
    assert "a record has the label 2, and there are 2 class names, for 0 to 1; give one for each" in result.stderr
    assert not (tmp_path / "dataset.json").exists()


def test_features_with_names_of_ours_get_others(tmp_path: Path) -> None:
    """Those of the index, and of what a batch has beside its fields."""
    names = ("weight", "offset", "length", "crc32c", "x", "x_offset", "x_crc32c", "boxes", "boxes/mask")
    records = [{"image": image_bytes(n), "label": n, **dict.fromkeys(names, 10 + n)} for n in range(3)]
    for number, record in enumerate(records):
        record["boxes"] = list(range(number))
    write(tmp_path / "a.tfrecord", records)
    indexed(tmp_path)
    data = open_dataset(tmp_path)
    renamed = [
        "source/weight",
        "source/offset",
        "source/length",
        "source/crc32c",
        "source/x_offset",
        "source/x_crc32c",
        "source/boxes/mask",
    ]
    fields = ("image", "x", "boxes", *renamed)
    batch = next(iter(data.stream(batch_size=3, shuffle="none", image=CenterCrop(8), fields=fields, ragged="pad")))
    for name in ("x", *renamed):
        assert batch[name].tolist() == [10, 11, 12]
    assert batch["boxes/mask"].sum(1).tolist() == [0, 1, 2] and batch["weight"].tolist() == [1, 1, 1]
    verified(tmp_path)
