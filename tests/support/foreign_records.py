"""TFRecords as others write them, with TensorFlow, and the command that indexes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import REPOSITORY, command

from shard_reader import Dataset
from shard_reader.format import Manifest

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
