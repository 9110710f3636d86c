"""`image-shards index` of shards that image-shards wrote: their indexes are made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.command import command
from support.foreign_records import GOLDEN, TFRECORD, indexed
from support.stored import edit_shard

from shard_reader.format import index_name
from shard_reader.format.manifest import with_checksum


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
    edit_shard(body, "hdf5", index_sha256="00")
    (path / "dataset.json").write_text(with_checksum(body))
    result = command("index", path, "--workers", 1)
    assert result.returncode == 1
    assert "its index comes out otherwise than dataset.json says, though the file is whole" in result.stdout


def test_options_where_the_manifest_says_it_already() -> None:
    result = command("index", GOLDEN / "encoded", "--split", "train=*")
    assert result.returncode == 2
    assert "--split: " in result.stderr and "says it already; leave the option out" in result.stderr
