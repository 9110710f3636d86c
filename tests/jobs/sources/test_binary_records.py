"""Files of records of one size as input, such as CIFAR-10's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.sources import found_records, refused_records, upload

from shard_reader.format import Field

CIFAR = "label:u1,image:u1[3,32,32]"


@pytest.fixture(scope="module")
def cifar_binary(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[Any], list[int]]:
    """Some of CIFAR-10 in the layout of its binary version: two files, their pixels and labels."""
    root = tmp_path_factory.mktemp("cifar")
    classes = sorted(path.name for path in (cifar10 / "train").iterdir())
    paths = sorted((cifar10 / "train").glob("*/*.jpg"))[::100]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    labels = [classes.index(path.parent.name) for path in paths]
    rows = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in zip(labels, pixels, strict=True)]
    (root / "data_batch_1.bin").write_bytes(b"".join(rows[:10]))
    (root / "data_batch_2.bin").write_bytes(b"".join(rows[10:]))
    (root / "batches.meta.txt").write_text("\n".join(classes))
    return root, pixels, labels


def test_cifar10_binary_as_it_is_published(tmp_path: Path) -> None:
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(bytes(3073))
    (tmp_path / "readme.html").write_bytes(b"")
    listed = found_records(tmp_path, record=CIFAR)
    assert [split for _, split in listed.labels.values()] == ["train", "train", "test"]
    assert listed.text == (
        "split files (test, train; train are those without a split in their names) of 3 files of records (images in"
        " image, labels in label)"
    )


def test_cifar10_binary(cifar_binary: tuple[Path, NDArray[Any], list[int]], bucket: str) -> None:
    root, pixels, labels = cifar_binary
    for name in ("data_batch_1.bin", "data_batch_2.bin"):
        upload(root / name, f"{bucket}/{name}")
    for place in (root, bucket):
        listed = found_records(place, record=CIFAR)
        assert list(listed.entries)[:11:10] == ["data_batch_1.bin/00000000", "data_batch_2.bin/00000000"]
        assert [entry.label for entry in listed.entries.values()] == labels
        np.testing.assert_array_equal(np.stack([listed.read(id) for id in listed.entries]), pixels)
        assert listed.text == "2 files of records (images in image, labels in label)"
    listed = found_records(root / "data_batch_1.bin", record="kind:i1,pixels:u1[3,32,32]", image_key="pixels")
    assert list(listed.entries)[:2] == ["00000000", "00000001"]
    assert listed.entries["00000001"].fields == {"kind": labels[1]}


def test_records_of_several_types(tmp_path: Path) -> None:
    record = "id_code:>u4, label:i8,image:>u2[2,3] ,weight:f4,box:f8[4]"
    dtype = np.dtype([("a", ">u4"), ("b", "<i8"), ("c", ">u2", (2, 3)), ("d", "<f4"), ("e", "<f8", (4,))])
    rows = np.zeros(2, dtype)
    rows["a"], rows["b"], rows["d"] = [7, 8], [-1, 2], [0.5, 0.25]
    rows["c"][1], rows["e"][1] = np.arange(6).reshape(2, 3) * 1000, [1, 2, 3, 4]
    (tmp_path / "a.bin").write_bytes(rows.tobytes())
    listed = found_records(tmp_path / "a.bin", record=record)
    assert listed.entries["00000001"].label == 2
    assert listed.entries["00000001"].fields == {"id_code": 8, "weight": 0.25, "box": [1.0, 2.0, 3.0, 4.0]}
    assert listed.layout.fields == {"box": Field(dtype="float32", shape=(4,))}
    np.testing.assert_array_equal(listed.read("00000001"), np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000)


def test_a_file_with_a_part_of_a_record(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(3073 * 4 + 7))
    assert refused_records(tmp_path / "a.bin", record=CIFAR) == (
        "INPUT: has 12,299 bytes, 4 records of 3,073 (label 1 + image 3,072) and 7 bytes more: give --record as the"
        " file is, or copy it again"
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", None),
        ("image", "cannot be understood at 'image'"),
        ("image:u3[2,2]", "cannot be understood at 'image:u3[2,2]'"),
        ("label:u1,image:u1[2,0]", "cannot be understood at 'image:u1[2,0]'"),
        ("label:u1,", "cannot be understood at 'label:u1,'"),
        ("a:u1,a:u2", "a is there twice"),
    ],
)
def test_records_that_are_none(record: str, message: str | None) -> None:
    if message is None:  # an empty option is none
        assert "does not exist" in refused_records("nowhere", record=record)
        return
    expected = "expected NAME:TYPE[SHAPE],... as label:u1,image:u1[3,32,32], with the types"
    assert refused_records("nowhere", record=record).startswith(f"--record {record}: {message}; {expected} u1 u2 u4 u8")
