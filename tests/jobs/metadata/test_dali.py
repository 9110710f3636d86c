"""Indexes for DALI: the lines of its own tool, by the package `tfrecord`, and by `index` and `verify`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import command, prepared
from support.foreign_records import GOLDEN, TFRECORD

from beam_jobs.metadata.dali import dali_index
from shard_reader import open_dataset


def documented(path: Path) -> str:
    """The index as DALI's documentation has it: where each record begins, and how many bytes it takes."""
    lines, data, start = "", path.read_bytes(), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        lines += f"{start} {8 + 4 + length + 4}\n"
        start += 8 + 4 + length + 4
    return lines


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "encoded", tmp_path / "data"))


@pytest.mark.slow
def test_prepare_writes_an_index_beside_each_tfrecord_file(class_folders: Path, tmp_path: Path) -> None:
    options = "--size 16 --shards 2 --format tfrecord --format hdf5 --workers 1 --dali-index"
    path = prepared(class_folders, tmp_path / "out", *options.split())
    shards = sorted(path.glob("*.tfrecord"))
    assert len(shards) == 2 and len(list(path.glob("*.idx"))) == 2
    for shard in shards:
        assert Path(f"{shard}.idx").read_text() == documented(shard)
    assert command("verify", path).stdout.startswith(f"{path}: whole")


@pytest.mark.slow
def test_the_package_tfrecord_reads_by_it(copy: Path) -> None:
    if importlib.util.find_spec("tfrecord") is None:
        pytest.skip("needs the package tfrecord")
    command("index", "--dali", copy, "--workers", 1)
    file = str(copy / TFRECORD)
    # The second half of the records, which it finds by the index alone.
    code = (
        "import json; from tfrecord.reader import tfrecord_loader;"
        f"found = tfrecord_loader({file!r}, {file + '.idx'!r}, {{'id': 'byte'}}, shard=(1, 2));"
        "print(json.dumps([bytes(record['id']).decode() for record in found]))"
    )
    # In a process of its own: its protocol buffers have the names of TensorFlow's.
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ids = [open_dataset(copy)[number]["id"] for number in range(len(documented(copy / TFRECORD).splitlines()))]
    assert json.loads(found) == ids[len(ids) // 2 :]


def test_index_writes_them_for_a_finished_dataset(copy: Path) -> None:
    result = command("index", "--dali", copy, "--workers", 1)
    assert result.returncode == 0 and "indexes for DALI, as train-00000-of-00002.tfrecord.idx" in result.stdout
    for shard in copy.glob("*.tfrecord"):
        assert Path(f"{shard}.idx").read_text() == documented(shard)
    result = command("verify", copy)
    assert result.returncode == 0 and "does not know" not in result.stdout


def test_index_writes_them_for_tfrecords_of_others(copy: Path) -> None:
    (copy / "dataset.json").unlink()
    for path in [*copy.glob("*.npy"), *copy.glob("*.h5")]:
        path.unlink()
    result = command("index", copy, "--dali", "--workers", 1)
    assert result.returncode == 0 and "for DALI" in result.stdout, result.stderr
    assert (copy / f"{TFRECORD}.idx").read_text() == documented(copy / TFRECORD)


def test_damage_is_named(copy: Path) -> None:
    command("index", "--dali", copy, "--workers", 1)
    (copy / f"{TFRECORD}.idx").write_text("0 12\n")
    result = command("verify", copy)
    assert result.returncode == 1
    assert (
        f"{TFRECORD}.idx: is not the index of its shard; `image-shards index --dali {copy}` makes it" in result.stdout
    )
    data = bytearray((copy / TFRECORD).read_bytes())
    data[-1] ^= 1
    (copy / TFRECORD).write_bytes(data)
    result = command("index", "--dali", copy, "--workers", 1)
    assert result.returncode == 1 and "is damaged (CRC mismatch)" in result.stdout


def test_a_dataset_without_tfrecords(class_folders: Path, tmp_path: Path) -> None:
    path = prepared(class_folders, tmp_path / "out", "--size", 16, "--format", "hdf5", "--workers", 1)
    result = command("index", "--dali", path)
    assert result.returncode == 2 and "--dali: is for TFRecords, and" in result.stderr
    refused = command("prepare", class_folders, path, "--size", 16, "--dali-index")
    assert refused.returncode == 2


def test_a_finished_dataset_is_not_made_again_for_them(class_folders: Path, tmp_path: Path) -> None:
    words = [class_folders, tmp_path / "out", "--size", 16, "--workers", 1]
    prepared(*words)
    refused = command("prepare", *words, "--dali-index")
    assert refused.returncode == 2 and "`image-shards index --dali` adds the indexes" in refused.stderr


def test_an_empty_file_has_an_empty_index(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"")
    assert dali_index(tmp_path / "a.tfrecord") == b""
