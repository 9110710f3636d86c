"""HDF5 shards: extents that point at the right bytes, equal bytes from equal records, and h5py's view."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_reader.errors import CorruptionError
from shard_reader.format import Field, index
from shard_reader.format.checksum import crc32c, sha256_file
from shard_reader.format.shard_formats import hdf5
from shard_reader.system.memory_map import map_file

NUMBER = Field(dtype="int64")
OTHERS = {"label": NUMBER, "id": Field(dtype="string"), "height": NUMBER, "width": NUMBER}
ENCODED = {"image": Field(dtype="uint8", shape=(None, None, 3), encoding="jpeg"), **OTHERS}


def raw(height: int, width: int, dtype: str) -> dict[str, Field]:
    return {"image": Field(dtype=dtype, shape=(height, width, 3), encoding="raw"), **OTHERS}


def record(number: int, image: bytes, id: str | None = None) -> dict[str, Any]:
    return {"image": image, "id": id or f"é{number}.jpg", "label": -number, "height": 2, "width": 3}


def write(path: Path, fields: dict[str, Field], records: list[dict[str, Any]]) -> None:
    writer = hdf5.ShardWriter(path, fields)
    for one in records:
        writer.append(one)
    writer.close()


def check_extents(path: Path, fields: dict[str, Field], records: list[dict[str, Any]]) -> None:
    data = map_file(path)
    rows = index.build(path, "hdf5", fields)
    assert len(rows) == len(records)
    for row, one in zip(rows, records, strict=True):
        payload = data[int(row["offset"]) :][: int(row["length"])].tobytes()
        assert payload == one["image"]
        assert data[int(row["id_offset"]) :][: int(row["id_length"])].tobytes() == one["id"].encode()
        assert (row["label"], row["crc32c"]) == (one["label"], crc32c(one["image"]))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 70_000), st.text("aé/", min_size=1, max_size=300)), max_size=30))
def test_extents_of_encoded_images_and_ids(sizes: list[tuple[int, str]]) -> None:
    rng = np.random.default_rng(0)
    records = [record(n, rng.bytes(size), id) for n, (size, id) in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s.h5"
        write(path, ENCODED, records)
        check_extents(path, ENCODED, records)


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1500])
def test_extents_over_several_chunks(tmp_path: Path, count: int) -> None:
    records = [record(n, bytes([n % 251] * (n % 40 + 1))) for n in range(count)]
    write(tmp_path / "s.h5", ENCODED, records)
    check_extents(tmp_path / "s.h5", ENCODED, records)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize(("height", "width", "count"), [(2, 3, 0), (2, 3, 1), (2, 3, 5000), (200, 180, 3), (90, 90, 6)])
def test_extents_of_raw_images(tmp_path: Path, dtype: str, height: int, width: int, count: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, height, width, 3)).astype(dtype)
    records = [record(n, image.tobytes()) for n, image in enumerate(images)]
    write(tmp_path / "s.h5", raw(height, width, dtype), records)
    check_extents(tmp_path / "s.h5", raw(height, width, dtype), records)
    with h5py.File(tmp_path / "s.h5") as file:
        assert np.array_equal(file["image"][:], images)


def test_two_lines_of_h5py_read_it(tmp_path: Path) -> None:
    write(tmp_path / "s.h5", ENCODED, [record(0, b"first"), record(1, b"second one")])
    file = h5py.File(tmp_path / "s.h5")
    image, label, id = file["image"][1], file["label"][1], file["id"].asstr()[1]
    assert (image.tobytes(), label, id) == (b"second one", -1, "é1.jpg")
    assert file["image"].attrs["encoding"] == "jpeg"
    file.close()


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    records = [record(n, bytes(n * 37 % 5000)) for n in range(700)]
    write(tmp_path / "a.h5", ENCODED, records)
    time.sleep(1.1)  # HDF5 stamps times in seconds where it is asked to
    write(tmp_path / "b.h5", ENCODED, records)
    assert sha256_file(tmp_path / "a.h5") == sha256_file(tmp_path / "b.h5")


def test_a_damaged_heap_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write(path, ENCODED, [record(0, b"x" * 50)])
    path.write_bytes(path.read_bytes().replace(b"GCOL", b"GCOX"))
    with pytest.raises(CorruptionError, match="no heap at byte"):
        hdf5.read_columns(path, map_file(path), ENCODED)
