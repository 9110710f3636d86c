"""`image-shards index` of TFRecords in known layouts: they become a dataset where they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.command import command
from support.foreign_records import GOLDEN, TFRECORD, image_bytes, indexed, manifest, parsed, tf, verified, write

from shard_reader import CenterCrop, open_dataset
from shard_reader.errors import CorruptionError
from shard_reader.format import index_name


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


def test_labels_that_some_records_lack_are_named_a_list(tmp_path: Path) -> None:
    write(tmp_path / "x.tfrecord", [{"image": image_bytes(n), **({"label": 1} if n else {})} for n in range(2)])
    assert "  label      from label, a list: not every record has exactly one\n" in indexed(tmp_path)
