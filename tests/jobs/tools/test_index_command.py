"""`image-shards index`: TFRecords that others wrote become a dataset where they are; indexes of ours are made again."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from support.command import REPOSITORY, command

from beam_jobs.errors import JobError
from beam_jobs.tools.foreign.split_files import missing_numbers, split_files
from beam_jobs.tools.index import IndexOptions, index_directory
from shard_reader import CenterCrop, Dataset, open_dataset
from shard_reader.errors import CorruptionError
from shard_reader.format import Manifest, index_name, tfrecord
from shard_reader.format.example import encode

tf = pytest.importorskip("tensorflow")

GOLDEN = REPOSITORY / "tests/reader/format/golden/v1"
TFRECORD = "train-00000-of-00002.tfrecord"


def image_bytes(seed: int, encoding: str = "JPEG", size: tuple[int, int] = (20, 16), mode: str = "RGB") -> bytes:
    """An image of `size`, width and height, that is different for each seed."""
    import io

    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, encoding)
    return buffer.getvalue()


def feature(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values:
        return tf.train.Feature()
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a TFRecord file as TensorFlow does."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            features = tf.train.Features(feature={name: feature(value) for name, value in record.items()})
            writer.write(tf.train.Example(features=features).SerializeToString())


def indexed(path: Path, *options: object) -> str:
    """Run the command, which must succeed; what it says."""
    result = command("index", path, "--workers", 1, *options)
    assert (result.returncode, result.stderr) == (0, "")
    return str(result.stdout)


def verified(path: Path) -> None:
    result = command("verify", path, "--workers", 1)
    assert result.returncode == 0, result.stdout


def manifest(path: Path) -> Manifest:
    return Manifest.from_json((path / "dataset.json").read_text("utf-8"))


def parsed(data: Dataset, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every record of a split, as TensorFlow reads it from the same files."""
    paths = [str(data.path / shard.files["tfrecord"].path) for shard in data.manifest.splits[data.split].shards]
    files = tf.data.TFRecordDataset(paths)
    return list(files.map(lambda record: tf.io.parse_single_example(record, spec)).as_numpy_iterator())


def imagenet_record(path: Path, number: int) -> dict[str, Any]:
    """A record as `imagenet_to_gcs` of TensorFlow's TPU models writes it."""
    data = path.read_bytes()
    height, width, channels = tf.io.decode_jpeg(data).shape
    return {
        "image/height": height,
        "image/width": width,
        "image/colorspace": b"RGB",
        "image/channels": channels,
        "image/class/label": number % 4,
        "image/class/synset": b"n01440764",
        "image/class/text": [b"tench", "größer".encode()][: number % 3],
        "image/object/bbox/xmin": [0.25 * n for n in range(number % 3)],
        "image/object/bbox/label": [number] * (number % 2),
        "image/embedding": [0.5, float(number), 2.0],
        "image/format": b"JPEG",
        "image/filename": path.name.encode(),
        "image/encoded": data,
    }


@pytest.fixture(scope="module")
def imagenet(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos in imagenet_to_gcs's layout: two files of train, one of validation, indexed."""
    path = tmp_path_factory.mktemp("imagenet")
    files = sorted(photos.glob("*/*"))[:21]
    for name, part in (
        ("train-00000-of-00002", files[:8]),
        ("train-00001-of-00002", files[8:15]),
        ("validation-00000-of-00001", files[15:]),
    ):
        write(path / name, [imagenet_record(file, number) for number, file in enumerate(part)])
    result = command("index", path, "--workers", 2)
    assert (result.returncode, result.stderr) == (0, "")
    (path / "said").write_text(result.stdout)
    return path


# Other people's files


def test_what_is_said_of_others_files(imagenet: Path) -> None:
    said = (imagenet / "said").read_text()
    assert said.startswith(f"{imagenet}: 21 records indexed where they are\n  train      15 records, 2 files, ")
    assert "  validation 6 records, 1 file, " in said
    assert "  image      from image/encoded, uint8 [*, *, 3], jpeg\n" in said
    assert "  label      from image/class/label\n  id         from image/filename\n" in said


def test_imagenet_s_layout_is_read_as_tensorflow_reads_it(imagenet: Path) -> None:
    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/text": tf.io.RaggedFeature(tf.string),
        "image/object/bbox/xmin": tf.io.RaggedFeature(tf.float32),
        "image/object/bbox/label": tf.io.RaggedFeature(tf.int64),
        "image/embedding": tf.io.FixedLenFeature([3], tf.float32),
    }
    for split, records in (("train", 15), ("validation", 6)):
        data = open_dataset(imagenet, split)
        assert len(data) == records
        for number, record in enumerate(parsed(data, spec)):
            own = data[number]
            pixels = tf.io.decode_jpeg(record["image/encoded"], dct_method="INTEGER_ACCURATE")
            assert np.array_equal(own["image"], pixels)
            assert (own["label"], own["id"]) == (record["image/class/label"], record["image/filename"].decode())
            assert own["image/class/text"] == [text.decode() for text in record["image/class/text"]]
            for name in ("image/object/bbox/xmin", "image/object/bbox/label", "image/embedding"):
                assert np.array_equal(own[name], record[name])


def test_others_files_are_streamed_inspected_and_verified(imagenet: Path) -> None:
    data = open_dataset(imagenet)
    batches = list(data.stream(batch_size=4, image=CenterCrop(32), remainder="keep"))
    assert sum(len(batch["label"]) for batch in batches) == 15
    assert manifest(imagenet).splits["train"].classes == {"0": 4, "1": 4, "2": 4, "3": 3}
    result = command("verify", imagenet, "--decode", "--workers", 1)
    assert result.returncode == 0, result.stdout
    assert "1 file that the dataset does not know: 'said'" in result.stdout
    shown = command("inspect", imagenet)
    assert shown.returncode == 0, shown.stderr
    assert "from image/encoded" in shown.stdout


def test_damage_in_others_files_is_found(imagenet: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(imagenet, tmp_path / "data"))
    shard = path / "train-00001-of-00002"
    data = bytearray(shard.read_bytes())
    data[int(np.load(path / index_name(shard.name))["offset"][3]) + 100] ^= 1
    shard.write_bytes(data)
    result = command("verify", path, "--workers", 1)
    assert result.returncode == 1
    assert f"{shard}: row 3, id 'n" in result.stdout
    again = command("index", path, "--workers", 1)
    assert again.returncode == 0  # the index is there, and whole
    (path / index_name(shard.name)).unlink()
    refused = command("index", path, "--workers", 1)
    assert refused.returncode == 1
    assert f"{shard}: is damaged (SHA-256 mismatch), and no index is made of it; restore it" in refused.stdout


def test_indexes_of_others_files_are_made_again(imagenet: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(imagenet, tmp_path / "data"))
    index = path / "validation-00000-of-00001.index.npy"
    before = index.read_bytes()
    index.unlink()
    assert indexed(path) == f"{path}: 1 index made again, 2 whole\n"
    assert index.read_bytes() == before


@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of NumPy, of protobuf and of itself
def test_what_tensorflow_datasets_wrote(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")

    class Pictures(tfds.dataset_builders.TfDataBuilder):  # type: ignore[misc,name-defined]
        url_infos: ClassVar[Any] = {}  # or it looks for the checksums of downloads

    names = ["cat", "dog", "größer"]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=names),
            "objects": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "kind": tfds.features.ClassLabel(num_classes=9)}
            ),
        }
    )
    rng = np.random.default_rng(0)

    def examples(count: int) -> Iterable[dict[str, Any]]:
        for number in range(count):
            boxes = np.array([[0, 0.25, 0.5, 1]] * (number % 3), np.float32).reshape(-1, 4)
            yield {
                "image": rng.integers(0, 256, (10 + number % 3, 12, 3), dtype=np.uint8),
                "label": number % 3,
                "objects": {"bbox": boxes, "kind": np.arange(number % 3)},
            }

    signature = {
        "image": tf.TensorSpec((None, 12, 3), tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
        "objects": {"bbox": tf.TensorSpec((None, 4), tf.float32), "kind": tf.TensorSpec((None,), tf.int64)},
    }
    builder = Pictures(
        name="pictures",
        version="1.0.0",
        features=features,
        split_datasets={
            split: tf.data.Dataset.from_generator(lambda count=count: examples(count), output_signature=signature)
            for split, count in (("train", 10), ("test", 4))
        },
        data_dir=str(tmp_path),
    )
    builder.download_and_prepare()
    path = Path(builder.data_path)
    said = indexed(path)
    assert "label      from label, 3 names from label.labels.txt" in said
    assert "id         FILE:ROW\n" in said
    data = open_dataset(path)
    assert data.class_names == tuple(names)
    assert "id" not in data.manifest.fields
    assert data.fields["objects/bbox"].shape == (None, 4)
    decoders = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = list(tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False, read_config=decoders)))
    assert len(theirs) == len(data) == 10
    numbers = np.arange(10)
    assert data.column("label", numbers).tolist() == [record["label"] for record in theirs]
    assert data.column("height", numbers).tolist() == [record["image"].shape[0] for record in theirs]
    for own, record in zip(data.column("objects/bbox", numbers), theirs, strict=True):
        assert np.array_equal(own, record["objects"]["bbox"])
    (batch,) = data.stream(batch_size=10, shuffle="none", image=CenterCrop(10))
    assert all(np.array_equal(own, record["image"][(len(record["image"]) - 10) // 2 :][:10, 1:11])
               for own, record in zip(batch["image"], theirs, strict=True))  # fmt: skip
    verified(path)


def test_without_an_id_places_are_ids(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [{"image": image_bytes(n), "label": n} for n in range(3)])
    indexed(tmp_path)
    rows = np.load(tmp_path / "a.tfrecord.index.npy")
    assert not any(rows[f"id_{column}"].any() for column in ("offset", "length", "crc32c"))
    shown = command("inspect", tmp_path)
    assert "\n  a.tfrecord:0  0  16 x 20" in shown.stdout
    verified(tmp_path)


@pytest.mark.parametrize("id_key", ["name", "none"])
def test_strings_and_lists_of_others_have_checksums(tmp_path: Path, id_key: str) -> None:
    """Also those that some records lack."""
    records: list[dict[str, Any]] = [{"image": image_bytes(n), "name": b"name %d" % n} for n in range(4)]
    records[1] |= {"text": [b"some", b"texts"], "numbers": [1, 2, 300]}
    records[2] |= {"text": [], "numbers": [4]}
    file = tmp_path / "a.tfrecord"
    write(file, records)
    indexed(tmp_path, "--id-key", id_key)
    rows = np.load(index_name(str(file)))
    for name in ("text", "numbers"):
        assert not any(rows[f"{name}_{column}"][[0, 3]].any() for column in ("offset", "length", "crc32c"))
        assert rows[f"{name}_crc32c"][1] != 0
    data = open_dataset(tmp_path)
    assert [len(texts) for texts in data.column("text")] == [0, 2, 0, 0]
    verified(tmp_path)
    stored = file.read_bytes()
    for field, part in (("text", b"texts"), ("numbers", b"\x01\x02\xac\x02"), ("name", b"name 1")):
        name = "id" if (field, id_key) == ("name", "name") else field
        file.write_bytes(stored.replace(part, part[:-1] + bytes([part[-1] ^ 1])))
        known = "" if name == "id" else ", id 'name 1'" if id_key == "name" else ", id 'a.tfrecord:1'"
        with pytest.raises(CorruptionError, match=rf"a\.tfrecord: row 1{known}: '{name}' is damaged \(CRC mismatch\)"):
            open_dataset(tmp_path)[1]
        assert open_dataset(tmp_path)[3]["name" if name == "name" else "id"] in ("name 3", "a.tfrecord:3")


def test_the_reader_gives_places_as_ids(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", [{"image": image_bytes(n), "label": n} for n in range(3)])
    indexed(tmp_path)
    data = open_dataset(tmp_path)
    assert data[2]["id"] == "a.tfrecord:2"
    batch = next(iter(data.stream(batch_size=3, shuffle="none", image=CenterCrop(8), fields=("image", "id"))))
    assert batch["id"].tolist() == [b"a.tfrecord:0", b"a.tfrecord:1", b"a.tfrecord:2"]
    assert command("verify", tmp_path, "--decode").returncode == 0


def test_prepare_does_not_overwrite_what_others_wrote(tmp_path: Path, class_folders: Path) -> None:
    write(tmp_path / "a.tfrecord", [{"image": image_bytes(0), "label": 0}])
    indexed(tmp_path)
    result = command("prepare", class_folders, tmp_path, "--overwrite")
    assert result.returncode == 2
    assert "holds TFRecords that others wrote, indexed where they are; give another place" in result.stderr
    assert (tmp_path / "a.tfrecord").exists()


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
    assert "left out   mask: is bytes that are no text" in said
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
    assert "  left out   img_a: is bytes that are no text\n" in said
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
        assert "the images in image_raw are no JPEG, PNG or WebP; if they are bytes of pixels" in result.stderr
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


def test_records_of_ours_whose_manifest_is_lost(tmp_path: Path) -> None:
    path = Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))
    for name in path.glob("*.h5*"):
        name.unlink()
    before = (path / index_name(TFRECORD)).read_bytes()
    (path / "dataset.json").unlink()
    indexed(path)
    assert (path / index_name(TFRECORD)).read_bytes() == before
    data = open_dataset(path)
    assert [data[n]["id"] for n in range(3)][:2] == ["a/1.png", "b/größer.png"]
    verified(path)


# What cannot be indexed


def broken(path: Path, change: str) -> None:
    """Three good records, and damage."""
    file = path / "train-00000-of-00001.tfrecord"
    write(file, [{"image": image_bytes(n), "label": n} for n in range(3)])
    data = bytearray(file.read_bytes())
    if change == "cut":
        data = data[:-20]
    elif change == "length":
        data[0] ^= 1
    elif change == "payload":
        data[-30] ^= 1
    elif change == "gzip":
        data = bytearray(gzip.compress(bytes(data)))
    elif change == "text":
        data = bytearray(b"no TFRecord at all, but a longer text")
    file.write_bytes(data)


def one(path: Path, **record: Any) -> None:
    write(path / "x.tfrecord", [{"image": image_bytes(0)}, record])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda path: broken(path, "cut"), "", "of-00001.tfrecord: was cut off at byte "),
        (lambda path: broken(path, "length"), "", "is no TFRecord file, or is compressed or damaged"),
        (lambda path: broken(path, "payload"), "", "of-00001.tfrecord: the record at byte "),
        (lambda path: broken(path, "gzip"), "", "is compressed by gzip, without random access; unpack it first: gzip"),
        (lambda path: broken(path, "text"), "", "is no TFRecord file, or is compressed or damaged"),
        (lambda path: one(path, image=image_bytes(1, "PNG")), "", "record 1, at byte {}: the image is png uint8, that"),
        (lambda path: one(path, image=image_bytes(1, "GIF", mode="P")), "", "is no JPEG, PNG or WebP: it begins with"),
        (lambda path: one(path, image=image_bytes(1, "PNG", mode="P")), "", "has pixels of Pillow's mode P; the"),
        (lambda path: one(path, label=1), "", "has no feature image, which has the images; its features are label"),
        (lambda path: one(path, image=[b"a", b"b"]), "", "image has 2 bytes, not the bytes of one image"),
        (lambda path: one(path, image=b""), "", "is no JPEG, PNG or WebP: it begins with b''"),
        (lambda path: one(path, image=image_bytes(1)), "--image-key x", "--image-key x: {} has no such feature; it"),
        (lambda path: one(path, image=image_bytes(1)), "--id-key x", "--id-key x: {} has no such feature; it has"),
        (lambda path: one(path, image=image_bytes(1)), "--label-key x", "--label-key x: there is no such feature"),
        (lambda path: one(path, image=image_bytes(1), y=b"cat"), "--label-key y", "holds no whole numbers"),
        (lambda path: one(path, image=image_bytes(1)), "--raw 2x2x3", "which are not the pixels of height 2, width 2"),
        (lambda path: one(path, image=image_bytes(1)), "--raw 2x2", "expected height, width and channels (1 to 4)"),
        (lambda path: one(path, image=image_bytes(1)), "--split a=b*", "--split a=b*: no file has such a name; there"),
        (lambda path: one(path, image=image_bytes(1)), "--split a", "expected NAME=PATTERN, as train='train-*', got"),
        (lambda path: one(path, image=image_bytes(1)), "--split a=* --split b=x*", "x.tfrecord is of a and of b"),
        (lambda path: one(path, image=image_bytes(1)), "--classes x", "there are no labels; name their feature"),
        (lambda path: write(path / "a b.tfrecord", []), "", "'a b.tfrecord': names of shards have letters"),
        (lambda path: write(path / "a.tfrecord", []), "", "1 TFRecord file without a record: there is nothing"),
        (lambda path: (path / "a.txt").write_text(""), "", "holds no TFRecord files by their names"),
        (lambda path: (path / "_image-shards.lock").write_text(""), "", "is not finished; the `image-shards prepare`"),
    ],
    ids=lambda value: None if callable(value) else str(value)[:40],
)  # fmt: skip
def test_what_cannot_be_indexed_is_one_line_and_leaves_nothing(
    tmp_path: Path, make: Any, options: str, message: str
) -> None:
    make(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    result = command("index", tmp_path, "--workers", 1, *options.split())
    assert result.returncode in (1, 2)
    (line,) = result.stderr.splitlines()
    parts = message.split("{}")
    assert all(part in line for part in parts), line
    assert result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_any_flipped_bit_is_an_error_of_one_line(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "x.tfrecord"
    write(file, [{"image": image_bytes(n, encoding), "id": f"{n}".encode(), "n": [1.5, n + 0.5]} for n in range(3)])
    data, rng = file.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(0, len(data), 100).tolist():
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with pytest.raises((JobError, CorruptionError), match=r"x\.tfrecord: ") as caught:
            index_directory(IndexOptions(path=str(tmp_path)), 1, lambda _: None)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [file]


def test_labels_without_a_name(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [{"image": image_bytes(n), "label": n} for n in range(3)])
    (tmp_path / "label.labels.txt").write_text("a\nb\n")
    result = command("index", tmp_path)
    assert result.returncode == 1
    assert "a record has the label 2, and there are 2 class names, for 0 to 1; give one for each" in result.stderr
    assert not (tmp_path / "dataset.json").exists()


# Indexes of ours


@pytest.mark.parametrize("name", ["encoded", "raw", "fields"])
def test_indexes_of_ours_are_made_again_byte_for_byte(tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(GOLDEN / name, tmp_path / "data"))
    indexes = sorted(path.glob("*.index.npy"))
    before = [index.read_bytes() for index in indexes]
    for number, index in enumerate(indexes):
        index.unlink() if number % 2 else index.write_bytes(b"damaged")
    manifest_before = (path / "dataset.json").read_bytes()
    words = "indexes" if len(indexes) > 1 else "index"
    assert indexed(path) == f"{path}: {len(indexes)} {words} made again, 0 whole\n"
    assert [index.read_bytes() for index in indexes] == before
    assert (path / "dataset.json").read_bytes() == manifest_before
    assert indexed(path) == f"{path}: 0 indexes made again, {len(indexes)} whole\n"


def test_an_index_is_not_made_of_a_damaged_shard(tmp_path: Path) -> None:
    path = Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))
    for name in (TFRECORD, "train-00000-of-00002.h5", "train-00001-of-00002.h5"):
        (path / index_name(name)).unlink()
    (path / TFRECORD).write_bytes(b"damaged")
    (path / "train-00001-of-00002.h5").unlink()
    result = command("index", path, "--workers", 1)
    assert result.returncode == 1
    *problems, last = result.stdout.splitlines()
    assert [problem.split(";")[0] for problem in problems] == [
        f"{path / TFRECORD}: is damaged (SHA-256 mismatch), and no index is made of it",
        f"{path}/train-00001-of-00002.h5: is missing, and so is its index",
    ]
    assert last == f"{path}: 1 index made again, 1 whole, 2 problems"


def test_a_manifest_that_was_changed(tmp_path: Path) -> None:
    path = Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))
    body = json.loads((path / "dataset.json").read_text("utf-8"))
    body["splits"]["train"]["shards"][0]["files"]["hdf5"]["index_sha256"] = "00"
    (path / "dataset.json").write_text(json.dumps(body))
    result = command("index", path, "--workers", 1)
    assert result.returncode == 1
    assert "its index comes out otherwise than dataset.json says, though the file is whole" in result.stdout


def test_options_where_the_manifest_says_it_already() -> None:
    result = command("index", GOLDEN / "encoded", "--split", "train=*")
    assert result.returncode == 2
    assert "--split: " in result.stderr and "says it already; leave the option out" in result.stderr


# Names of files


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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path, workers: int) -> None:
    """As on a full disk."""
    resource = pytest.importorskip("resource")
    for number in range(2):
        write(tmp_path / f"{number}.tfrecord", [{"image": image_bytes(n), "label": n} for n in range(3)])
    before = sorted(tmp_path.iterdir())
    result = command(
        "index", tmp_path, "--workers", workers,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)),
    )  # fmt: skip
    assert result.returncode == 1
    assert re.fullmatch(rf"image-shards: error: {tmp_path}/.*: File too large\n", result.stderr)
    assert sorted(tmp_path.iterdir()) == before
