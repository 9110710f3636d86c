"""`image-shards index`: what cannot be indexed is one line, and nothing is left."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import command
from support.foreign_records import image_bytes, tf, write
from support.torture import draws

from beam_jobs.errors import JobError
from beam_jobs.tools.index import IndexOptions, index_directory
from shard_reader.errors import CorruptionError


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
        data = bytearray(gzip.compress(bytes(data), mtime=0))
    elif change == "text":
        data = bytearray(b"no TFRecord at all, but a longer text")
    file.write_bytes(data)


def one(path: Path, **record: Any) -> None:
    write(path / "x.tfrecord", [{"image": image_bytes(0)}, record])


def tensor() -> bytes:
    return bytes(tf.io.serialize_tensor(np.zeros((2, 2, 3), np.uint8)).numpy())


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda path: broken(path, "cut"), "", "of-00001.tfrecord: was cut off at byte "),
        (lambda path: broken(path, "length"), "", "is no TFRecord file, or is compressed or damaged"),
        (lambda path: broken(path, "payload"), "", "of-00001.tfrecord: the record at byte "),
        (lambda path: broken(path, "gzip"), "", "is compressed by gzip, without random access; unpack it first: gzip"),
        (lambda path: broken(path, "text"), "", "is no TFRecord file, or is compressed or damaged"),
        (lambda path: one(path, image=image_bytes(1, "PNG")), "", "record 1, at byte {}: the image is png uint8, that"),
        (lambda path: one(path, image=image_bytes(1, "GIF", mode="P")), "", "is no JPEG, PNG, WebP or AVIF: it begins"),
        (lambda path: one(path, image=image_bytes(1, "PNG", mode="P")), "", "has pixels of Pillow's mode P; the"),
        (lambda path: one(path, label=1), "", "has no feature image, which has the images; its features are label"),
        (lambda path: one(path, image=[b"a", b"b"]), "", "image has 2 bytes, not the bytes of one image"),
        (lambda path: one(path, image=b""), "", "is no JPEG, PNG, WebP or AVIF: it begins with b''"),
        (lambda path: one(path, image=image_bytes(1)), "--image-key x", "--image-key x: {} has no such feature; it"),
        (lambda path: one(path, image=image_bytes(1)), "--id-key x", "--id-key x: {} has no such feature; it has"),
        (lambda path: one(path, image=image_bytes(1)), "--label-key x", "--label-key x: there is no such feature"),
        (lambda path: one(path, image=image_bytes(1), y=b"cat"), "--label-key y", "holds no whole numbers"),
        (lambda path: write(path / "x.tfrecord", [{"image": tensor()}]), "", "are serialized tensors: `image-shards "),
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


@pytest.mark.torture
@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_any_flipped_bit_is_an_error_of_one_line(
    tmp_path: Path, encoding: str, record_property: Callable[[str, object], None]
) -> None:
    file = tmp_path / "x.tfrecord"
    write(file, [{"image": image_bytes(n, encoding), "id": f"{n}".encode(), "n": [1.5, n + 0.5]} for n in range(3)])
    data, rng = file.read_bytes(), draws(0)
    for position in rng.integers(0, len(data), 100).tolist():
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with pytest.raises((JobError, CorruptionError), match=r"x\.tfrecord: ") as caught:
            index_directory(IndexOptions(path=str(tmp_path)), 1, lambda _: None)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [file]
    record_property("flipped bits", 100)


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
