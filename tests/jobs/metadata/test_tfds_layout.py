"""`--tfds-layout`: TensorFlow Datasets finds a dataset by its name, and so does timm's reader of such datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import command, prepared

from shard_reader import open_dataset


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of NumPy, of protobuf and of itself
def test_tfds_finds_a_dataset_by_its_name(class_folders: Path, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    options = ["--size", 16, "--workers", 1, "--split", "train=0.8,val=0.2", "--tfds-layout", "--name", "My Pets!"]
    result = command("prepare", class_folders, tmp_path / "out", *options)
    place = tmp_path / "out/my_pets/1.0.0"
    assert f"{place}: 60 images" in result.stdout
    data = open_dataset(place, "val")
    pairs = list(tfds.load("my_pets", data_dir=tmp_path / "out", split="val", as_supervised=True).as_numpy_iterator())
    assert [int(label) for _, label in pairs] == [data[number]["label"] for number in range(len(data))]
    assert all(image.shape == data[number]["image"].shape for number, (image, _) in enumerate(pairs))
    # As timm's reader of `tfds/my_pets` opens it.
    builder = tfds.builder("my_pets", data_dir=tmp_path / "out")
    assert builder.info.splits["val"].num_examples == len(data)
    assert builder.info.features["label"].names == ["a", "b", "c"]
    # A second one beside it, and the first again.
    prepared(class_folders, tmp_path / "out", *options[:-1], "Others")
    assert (tmp_path / "out/others/1.0.0/dataset.json").exists()
    again = command("prepare", class_folders, tmp_path / "out", *options)
    assert f"{place}: is finished" in again.stdout


def test_the_name_comes_from_output_if_there_is_no_other(class_folders: Path, tmp_path: Path) -> None:
    result = command("prepare", class_folders, tmp_path / "pets", "--size", 16, "--tfds-layout", "--dry-run")
    assert f"{tmp_path}/pets/pets/1.0.0: is empty" in result.stdout
