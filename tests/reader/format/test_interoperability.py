"""Other people's readers on our files: TensorFlow, TensorFlow Datasets, Beam, h5py and NumPy."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.command import prepared

from shard_reader import Dataset, open_dataset

tf = pytest.importorskip("tensorflow")


def shard_files(data: Dataset, format: str) -> list[str]:
    shards = data.manifest.splits[data.split].shards
    return [str(data.path / shard.files[format].path) for shard in shards]


def parsed(path: Path, **features: Any) -> list[dict[str, Any]]:
    """Every record of the train split, by TFRecordDataset and parse_single_example."""
    scalar = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("label", "height", "width")}
    spec = {"image": tf.io.FixedLenFeature([], tf.string), "id": tf.io.FixedLenFeature([], tf.string), **scalar}
    files = tf.data.TFRecordDataset(shard_files(open_dataset(path), "tfrecord"))
    return list(files.map(lambda record: tf.io.parse_single_example(record, spec)).as_numpy_iterator())


def test_tensorflow_reads_raw_images(raw_shards: Path) -> None:
    data = open_dataset(raw_shards)
    records = parsed(raw_shards)
    assert len(records) == len(data)
    for number, record in enumerate(records):
        expected = data[number]
        assert (record["id"].decode(), record["label"]) == (expected["id"], expected["label"])
        pixels = tf.reshape(tf.io.decode_raw(record["image"], tf.uint8), (record["height"], record["width"], 3))
        assert np.array_equal(pixels, expected["image"])


def test_tensorflow_reads_jpegs_pixel_for_pixel(jpeg_shards: Path) -> None:
    data = open_dataset(jpeg_shards)
    for number, record in enumerate(parsed(jpeg_shards)):
        pixels = tf.io.decode_jpeg(record["image"], dct_method="INTEGER_ACCURATE").numpy()
        assert np.array_equal(pixels, data[number]["image"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--size 16x12 --encoding raw",
        "--size 16x12 --normalize unit --dtype float16",
        "--size 16 --encoding raw",
        "--size 16 --encoding png",
        "--size 16x12 --encoding png --dtype uint16",
    ],
)
@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of NumPy, of protobuf and of itself
def test_tensorflow_datasets_opens_the_directory(class_folders: Path, tmp_path: Path, options: str) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    output = prepared(
        class_folders,
        tmp_path / "my-Data.1",
        *options.split(),
        "--split",
        "train=0.8,val=0.2",
        "--stratify",
        "--shards",
        2,
    )
    builder = tfds.builder_from_directory(str(output))
    assert builder.info.features["label"].names == ["a", "b", "c"]
    for split, size in (("train", 48), ("val", 12)):
        data = open_dataset(output, split)
        config = tfds.ReadConfig(interleave_cycle_length=1)  # one file after the other
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
        found = list(tfds.as_numpy(dataset))
        assert builder.info.splits[split].num_examples == len(found) == size
        pairs = builder.as_dataset(split=split, shuffle_files=False, read_config=config, as_supervised=True)
        assert [label for _, label in tfds.as_numpy(pairs)] == [record["label"] for record in found]
        for number, record in enumerate(found):
            expected = data[number]
            assert (record["id"].decode(), record["label"]) == (expected["id"], expected["label"])
            image = record["image"]
            if isinstance(image, bytes):  # raw images of several sizes
                image = np.frombuffer(image, np.uint8).reshape(record["height"], record["width"], 3)
            assert image.dtype == expected["image"].dtype
            assert np.array_equal(image, expected["image"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorflow_datasets_opens_images_without_labels(odd: Path, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    output = prepared(odd, tmp_path / "odd", "--size", "64x64", "--max-rejects", "1.0")
    (record, *others) = tfds.as_numpy(tfds.builder_from_directory(str(output)).as_dataset(split="train"))
    assert (record["image"].shape, len(others)) == ((64, 64, 3), 31)


def test_beam_reads_the_records(raw_shards: Path, tmp_path: Path) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not there
        options = PipelineOptions([], runner="FnApiRunner", direct_running_mode="in_memory")
        with beam.Pipeline(options=options) as pipeline:
            records = pipeline | beam.io.ReadFromTFRecord(str(raw_shards / "train-*.tfrecord"))
            lengths = records | beam.Map(lambda record: len(record)) | beam.combiners.ToList()
            _ = lengths | beam.Map(lambda found: (tmp_path / "lengths").write_text(str(sorted(found))))
    expected = []
    for path in shard_files(open_dataset(raw_shards), "tfrecord"):
        expected += [len(record.numpy()) for record in tf.data.TFRecordDataset(path)]
    assert (tmp_path / "lengths").read_text() == str(sorted(expected))
    assert len(expected) == 48


@pytest.mark.parametrize("fixture", ["raw_shards", "jpeg_shards"])
def test_two_lines_of_h5py_read_the_records(fixture: str, request: pytest.FixtureRequest) -> None:
    data = open_dataset(request.getfixturevalue(fixture))
    number = 0
    for path in shard_files(data, "hdf5"):
        with h5py.File(path) as file:
            for image, label, id in zip(file["image"], file["label"], file["id"].asstr(), strict=True):
                expected = data[number]
                pixels = (
                    image
                    if fixture == "raw_shards"
                    else tf.io.decode_jpeg(image.tobytes(), dct_method="INTEGER_ACCURATE")
                )
                assert np.array_equal(pixels, expected["image"])
                assert (label, id) == (expected["label"], expected["id"])
                number += 1
    assert number == len(data)


def test_numpy_reads_an_index(raw_shards: Path) -> None:
    rows = np.load(raw_shards / "val-00000-of-00001.h5.index.npy", allow_pickle=False)
    data = open_dataset(raw_shards, "val")
    assert rows["label"].tolist() == [data[n]["label"] for n in range(len(data))]
