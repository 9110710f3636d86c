"""The shape of images that was seen decides the layout of each HDF5 shard, and the shape that the manifest states."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from support.command import command, prepared

from shard_reader import open_dataset
from shard_reader.format import Manifest
from shard_reader.format.image_codecs.table import IMAGE_CODECS

FORMATS = ("--format", "hdf5", "--format", "tfrecord")


def folder(path: Path, sizes: list[tuple[int, int]]) -> Path:
    path.mkdir()
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def shape(output: Path) -> list[int | None]:
    return list(Manifest.from_json((output / "dataset.json").read_text("utf-8")).fields["image"].shape)


@pytest.mark.parametrize("encoding", IMAGE_CODECS)
def test_images_of_one_size_can_be_batched_whatever_the_options(tmp_path: Path, encoding: str) -> None:
    inputs = folder(tmp_path / "in", [(9, 7)] * 5)
    for number, options in enumerate((["--fit", "none", "--channels", "keep"], ["--fit", "inside", "--size", 9])):
        output = prepared(inputs, tmp_path / f"out{number}", *options, "--encoding", encoding, *FORMATS)
        assert shape(output) == [7, 9, 3]
        for format in ("tfrecord", "hdf5"):
            (batch,) = open_dataset(output, format=format).stream(batch_size=5, seed=0)
            assert batch["image"].shape == (5, 7, 9, 3)
    assert command("verify", output).returncode == 0


def test_each_shard_of_raw_images_decides_its_own_layout(tmp_path: Path) -> None:
    inputs = folder(tmp_path / "in", [(9, 7)] * 11 + [(4, 5)])
    output = prepared(inputs, tmp_path / "out", "--fit", "none", "--encoding", "raw", "--shards", 4, *FORMATS)
    layouts = []
    for path in sorted(output.glob("*.h5")):
        with h5py.File(path) as file:
            layouts.append(file["image"].shape)
    assert sorted(layouts) == [(3,), (3, 7, 9, 3), (3, 7, 9, 3), (3, 7, 9, 3)]
    assert shape(output) == [None, None, 3]
    plain, lists = open_dataset(output, format="tfrecord"), open_dataset(output, format="hdf5")
    for number in range(12):
        expected = np.asarray(Image.open(inputs / str(plain[number]["id"])))
        assert np.array_equal(plain[number]["image"], expected)
        assert np.array_equal(lists[number]["image"], expected)
    assert command("verify", output, "--decode").returncode == 0
    assert not list(output.glob("*tmp*"))


def test_images_of_several_numbers_of_channels_have_no_common_number(tmp_path: Path) -> None:
    inputs = folder(tmp_path / "in", [(9, 7)] * 3)
    Image.new("L", (9, 7), 5).save(inputs / "grey.png")
    output = prepared(inputs, tmp_path / "out", "--fit", "none", "--channels", "keep", "--encoding", "raw", *FORMATS)
    assert shape(output) == [7, 9, None]


def test_transparency_that_all_images_have_is_in_the_shape(tmp_path: Path) -> None:
    inputs = folder(tmp_path / "in", [])
    for number in range(3):
        Image.new("RGBA", (9, 7), (number, 2, 3, 99)).save(inputs / f"{number}.png")
    words = ["--fit", "none", "--channels", "keep", "--encoding", "png"]
    result = command("prepare", inputs, tmp_path / "out", *words, *FORMATS)
    assert "as it is (none), all 9x7, with transparency, uint8, png" in result.stdout, result.stderr
    assert shape(tmp_path / "out") == [7, 9, 4]
    (batch,) = open_dataset(tmp_path / "out").stream(batch_size=3, seed=0)
    assert batch["image"].shape == (3, 7, 9, 4)
