"""Indexes with values of their own that strangers crafted: each ends in a line, however it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from support.crafted import change_manifest
from support.stored import edit_shard, several

from beam_jobs.generations.relabeled.relabel import RelabelOptions, relabel
from shard_reader import CorruptionError, Dataset, ManifestError, open_dataset
from shard_reader.format import index
from shard_reader.format.manifest import Manifest

NAME = "g0002/train-00000-of-00001.tfrecord.index.npy"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = several(tmp_path / "shards", 3, size=(4, 6), shards=1, encoding="raw", formats=("tfrecord",))
    rows = [{"id": f"{number}.png", "note": f"note {number}" * 9} for number in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    relabel(RelabelOptions(place=str(place), table=str(tmp_path / "t.jsonl")), 1)
    return place


def edited(path: Path, edit: Callable[[np.ndarray[Any, Any], int, bytes], bytes]) -> None:
    """Change the rows and the values of the index, and make all of its checksums right."""
    manifest = Manifest.from_json((path / "dataset.json").read_text())
    file = manifest.splits["train"].shards[0].files["tfrecord"]
    data = np.frombuffer(bytearray((path / NAME).read_bytes()), np.uint8)
    rows = index.read(data, NAME, file, 3, manifest.fields).copy()
    values = edit(rows, file.bytes, index.values_of(data, file).tobytes())
    made = index.to_bytes(rows, values=values)
    (path / NAME).write_bytes(made)
    said = {"index_values": len(values), "index_crc32c": index.checksums_crc32c(rows)}
    sha256 = hashlib.sha256(made).hexdigest()
    change_manifest(path, lambda m: edit_shard(m, "tfrecord", index_sha256=sha256, **said))


def beyond(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    rows["note_offset"][1] = size + len(values)
    return values


def beyond_by_one(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    rows["note_length"][2] = size + len(values) - rows["note_offset"][2] + 1
    return values


def across(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    rows["note_offset"][1] = size - 2
    return values


def wrapping(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    rows["note_offset"][1] = 2**64 - 8
    return values


def cut_off(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    return values[:-1]


def image_in_values(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    rows["offset"][1], rows["length"][1] = size, len(values)
    return values


def id_in_values(rows: np.ndarray[Any, Any], size: int, values: bytes) -> bytes:
    rows["id_offset"][1], rows["id_length"][1] = size, 9
    return values


EDITS = [beyond, beyond_by_one, across, wrapping, cut_off, image_in_values, id_in_values]


@pytest.fixture(params=["disk", "ranges", "cache"])
def opened(request: pytest.FixtureRequest, path: Path, tmp_path: Path) -> Callable[[], Dataset]:
    def open_it() -> Dataset:
        if request.param == "disk":
            return open_dataset(path)
        if request.param == "cache":
            return open_dataset(path, cache=tmp_path / "cache")
        url = f"memory://hostile-{tmp_path.name}/shards"
        fsspec.filesystem("memory").put(str(path), url.removeprefix("memory:/"), recursive=True)
        return open_dataset(url, retry_for=0)

    return open_it


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_extent_that_leads_out_of_shard_and_values_is_one_line(
    path: Path, opened: Callable[[], Dataset], edit: Callable[..., bytes]
) -> None:
    edited(path, edit)
    with pytest.raises(CorruptionError) as error:
        data = opened()
        [data[number] for number in range(3)]
    assert "\n" not in str(error.value) and "outside" in str(error.value)
    (batch,) = opened().stream(batch_size=3, fields=("id", "image", "note"), shuffle="none", on_error="skip")
    assert batch["weight"].sum() < 3


def test_a_damaged_value_is_the_error_of_its_record_alone(path: Path) -> None:
    file = path / NAME
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"row 2, id '2.png': 'note' is damaged \(CRC mismatch\)"):
        open_dataset(path)[2]
    assert open_dataset(path)[1]["note"] == "note 1" * 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replaced_index": "../../x.index.npy"}, "replaced_index[0]: must be a plain file name"),
        ({"replaced_index": "/etc/passwd"}, "replaced_index[0]: must be a plain file name"),
        ({"replaced_index": "../other/secret"}, "replaced_index[0]: must be a plain file name"),
        ({"path": "../other/secret"}, "path[0]: must be a plain file name"),
        ({"path": "../../other/a.tfrecord"}, "path[0]: must be a plain file name"),
        ({"path": "../a/../../b.tfrecord"}, "path[0]: must be a plain file name"),
        ({"path": "../.ssh/a.tfrecord"}, "path[0]: must be a plain file name"),
        ({"path": "../a.tfrecord"}, "path[0]: must be a plain file name"),
        ({"path": "s3://a/b.tfrecord"}, "path[0]: must be a plain file name"),
        ({"path": "../a/b.tfrecord"}, "requires: lacks 'joined'"),
        ({"index_values": -1}, "index_values"),
    ],
)
def test_a_manifest_names_no_file_but_shards(path: Path, values: dict[str, Any], message: str) -> None:
    change_manifest(path, lambda m: edit_shard(m, "tfrecord", **values))
    with pytest.raises(ManifestError) as error:
        open_dataset(path)
    assert message in str(error.value)


def test_a_claim_of_many_values_takes_no_memory(path: Path) -> None:
    change_manifest(path, lambda m: edit_shard(m, "tfrecord", index_values=2**60))
    with pytest.raises(CorruptionError, match="is not an index of 3 rows"):
        open_dataset(path)[0]
