"""The sources of tf.data, and shards: the same images from each, how fast, and in how much memory.

    python examples/tf_data_shards.py IMAGES [DIRECTORY]

IMAGES is a folder of class folders, or has them in `train/`. Each image becomes a 32x32 PNG file, a `path,label` line
of a text file, and a record of one length as CIFAR-10's binary version has them; and `image-shards prepare` makes
shards of the folder, of the table and of the records of one length. tf.data reads the text, the records, and the
folder's shards, which are plain TFRecord; `as_dataset` streams all three data sets. Images and labels have to be the
same in every way, each once an epoch. The speed of each way and the growth of its memory are measured.
"""

import csv
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages of TensorFlow,
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nor the one about oneDNN

import numpy as np
import tensorflow as tf
from PIL import Image

from shard_reader import open_dataset
from shard_reader.tf_data import as_dataset

SIZE, BATCH, SECONDS = 32, 64, 0.5
RECORD = 1 + 3 * SIZE * SIZE  # the bytes of a label and of three planes of pixels
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def main(images: Path, directory: Path) -> None:
    """Write the sources, and read all of them."""
    root = images / "train" if (images / "train").is_dir() else images
    table, binary = directory / "images.csv", directory / "images.bin"
    expected = write_sources(root, directory / "images", table, binary)
    size = f"--size {SIZE}x{SIZE}"
    prepare(directory / "images", directory / "from-folder", f"{size} --encoding png --shards 4")
    prepare(table, directory / "from-table", f"--source table {size} --encoding raw")
    prepare(binary, directory / "from-records", f"--record label:u1,image:u1[3,{SIZE},{SIZE}] {size} --encoding raw")

    ways = {
        "as_dataset, shards of PNG": streamed(directory / "from-folder"),
        "as_dataset, raw, of the table": streamed(directory / "from-table"),
        "as_dataset, raw, of the records": streamed(directory / "from-records"),
        "TFRecordDataset, shards of PNG": transformed(records(directory / "from-folder"), parse_record),
        "TextLineDataset, PNG files": transformed(tf.data.TextLineDataset(str(table)).skip(1), parse_line),
        "FixedLengthRecordDataset": transformed(tf.data.FixedLengthRecordDataset(str(binary), RECORD), parse_fixed),
    }
    print(f"\n{'':32} {'images':>7} {'images/s':>9} {'pixel MiB':>10} {'growth in MiB':>14}")
    for way, batches in ways.items():
        found = contents(batches)
        check(way, found, expected)
        read, seconds, growth = measured(batches, found.total())
        size = read * (RECORD - 1) / 2**20
        print(f"{way:32} {found.total():7,} {read / seconds:9,.0f} {size:10,.1f} {growth:14,.1f}")
        if way.startswith("as_dataset") and growth > max(64, size / 4):
            sys.exit(f"{way}: the memory grew by {growth:.0f} MiB while it gave {size:.0f} MiB")
    print(f"\nall ways gave the same {expected.total()} images with the same labels, each once")


def write_sources(root: Path, folder: Path, table: Path, binary: Path) -> Counter[tuple[int, str]]:
    """Write the images as PNG files, a table of them, and as records of one length. Returns the expected contents."""
    paths = sorted(path for path in root.glob("*/*") if path.suffix.lower() in SUFFIXES)
    classes = sorted({path.parent.name for path in paths})
    if not 0 < len(classes) <= 256:
        sys.exit(f"{root}: has {len(classes)} class folders with images; a label of one byte needs 1 to 256")
    expected: Counter[tuple[int, str]] = Counter()
    with table.open("w", newline="") as lines, binary.open("wb") as rows:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["path", "label"])
        for number, path in enumerate(paths):
            copy, label = folder / path.parent.name / f"{number:06d}.png", classes.index(path.parent.name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE)))
            Image.fromarray(pixels).save(copy)  # without the photo's colour profile, which these pixels do not have
            writer.writerow([copy, label])
            rows.write(bytes([label]) + pixels.transpose(2, 0, 1).tobytes())
            expected[label, digest(pixels)] += 1
    return expected


def prepare(source: Path, shards: Path, options: str) -> None:
    """Run the command that a user types."""
    command = [sys.executable, "-m", "beam_jobs", "prepare", str(source), str(shards), *options.split()]
    status = subprocess.run(command).returncode
    if status:
        sys.exit(status)  # the command has said why


def streamed(shards: Path) -> tf.data.Dataset:
    """Mini-batches from shards: shuffled over all of them, padded with images of weight 0."""
    stream = open_dataset(shards).stream(batch_size=BATCH, seed=0)
    return as_dataset(stream, inputs="image", targets="label")


def transformed(source: tf.data.Dataset, parse: Callable) -> tf.data.Dataset:
    """Mini-batches with tf.data's transformations: shuffled among a thousand records."""
    parsed = source.shuffle(1000, seed=0).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return parsed.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def records(shards: Path) -> tf.data.Dataset:
    """The `tf.train.Example` of each record, as bytes."""
    return tf.data.TFRecordDataset(sorted(map(str, shards.glob("train-*.tfrecord"))))


def parse_record(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """An image and its label, from a `tf.train.Example`."""
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    example = tf.io.parse_single_example(record, features)
    return tf.io.decode_png(example["image"], channels=3), example["label"]


def parse_line(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """An image and its label, from a line with the path of a file."""
    path, label = tf.io.decode_csv(line, ["", tf.constant(0, tf.int64)])
    return tf.io.decode_png(tf.io.read_file(path), channels=3), label


def parse_fixed(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """An image and its label, from a byte and three planes of pixels."""
    values = tf.io.decode_raw(record, tf.uint8)
    return tf.transpose(tf.reshape(values[1:], (3, SIZE, SIZE)), (1, 2, 0)), tf.cast(values[0], tf.int64)


def digest(pixels: np.ndarray) -> str:
    """A hash that tells one image from another."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def contents(batches: tf.data.Dataset) -> Counter[tuple[int, str]]:
    """Counts of each label and image in an epoch, without padding, which has weight 0."""
    found: Counter[tuple[int, str]] = Counter()
    for images, labels, *weights in batches.as_numpy_iterator():
        kept = weights[0] > 0 if weights else np.ones(len(labels), bool)
        found.update(zip(labels[kept].tolist(), map(digest, images[kept]), strict=True))
    return found


def check(way: str, found: Counter[tuple[int, str]], expected: Counter[tuple[int, str]]) -> None:
    """End the script where images are missing, doubled, or other ones."""
    missing, other = (expected - found).total(), (found - expected).total()
    if missing or other:
        sys.exit(f"{way}: of {expected.total()} images {missing} are missing, and {other} are doubled or other ones")


def measured(batches: tf.data.Dataset, images: int) -> tuple[int, float, float]:
    """Images in whole epochs, the seconds they took, and by how much the process's peak memory grew, in MiB."""
    before, began, read = peak(), time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for _ in batches:
            pass
        read += images
    return read, time.perf_counter() - began, peak() - before


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/tf_data_shards.py IMAGES [DIRECTORY]")
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="image-shards-tf-data-"))
    if where.exists() and any(where.iterdir()):
        sys.exit(f"{where}: is not empty; give a new directory")
    where.mkdir(parents=True, exist_ok=True)
    main(Path(sys.argv[1]), where.resolve())
