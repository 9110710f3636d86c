"""The examples for tf.data and Keras, run as a user runs them; and that their checks can fail."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from support.command import REPOSITORY
from support.images import write_image
from support.pictures import profile

from shard_reader import open_dataset

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

# Processes that import TensorFlow and train: CI runs them.
pytestmark = pytest.mark.slow

EXAMPLES = ("keras_generator_to_shards", "tf_data_shards")
NUMBER = r" +([\d,.]+)"


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(REPOSITORY / "examples" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=REPOSITORY)


def output(name: str, *arguments: object) -> str:
    result = run(name, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 images of several sizes in three class folders below "train", and one of "test" that is left alone.

    The JPEGs are as phones write them: with a profile that is not sRGB, and some turned.
    """
    root = tmp_path_factory.mktemp("images")
    for number in range(150):
        path = (
            root
            / "train"
            / ("cat", "dog", "great auk, old")[number % 3]
            / f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        )
        write_image(path, number, (30 + number % 7, 40 - number % 5))
        if path.suffix == ".jpg":
            exif = Image.Exif()
            exif[0x0112] = (1, 6)[number % 4 == 0]
            with Image.open(path) as image:
                image.save(path, icc_profile=profile(), exif=exif)
    write_image(root / "test" / "cat" / "x.png")
    return root


@pytest.fixture(scope="module")
def generator(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("generator")
    return output(EXAMPLES[0], folders, directory), directory


@pytest.fixture(scope="module")
def sources(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("sources")
    return output(EXAMPLES[1], folders, directory), directory


def check_generator(text: str, images: int, resumed: str) -> None:
    assert f"ids: each of {images} files once in an epoch, with its class" in text
    assert f"coverage: each of {images} records once in each of 3 epochs of training" in text
    rows = re.findall(rf"^(generator|shards){NUMBER}{NUMBER}{NUMBER}%$", text, re.M)
    assert [way for way, *_ in rows] == ["generator", "shards"]
    assert all(float(figure.replace(",", "")) > 1 for _, *figures in rows for figure in figures)
    assert f"resumed: at {resumed}; weights differ by at most" in text


def check_sources(text: str, images: int) -> None:
    rows = re.findall(rf"^(\S.*\S){NUMBER}{NUMBER}{NUMBER}{NUMBER}$", text, re.M)
    assert [way.split(",")[0] for way, *_ in rows] == [
        *["as_dataset"] * 3,
        "TFRecordDataset",
        "TextLineDataset",
        "FixedLengthRecordDataset",
    ]
    assert [int(found.replace(",", "")) for _, found, *_ in rows] == [images] * 6
    assert all(float(speed.replace(",", "")) > 1 for _, _, speed, *_ in rows)
    assert text.rstrip().endswith(f"all ways gave the same {images} images with the same labels, each once")


def test_the_generator_and_shards_train(generator: tuple[str, Path]) -> None:
    check_generator(generator[0], 150, "epoch 2, step 2, 1 steps to the end")


def test_the_position_is_that_of_the_checkpoint(generator: tuple[str, Path]) -> None:
    _, directory = generator
    state = json.loads((directory / "shards.json").read_text())
    assert (state["epoch"], state["step"], state["coverage"]["records"]) == (2, 2, 128)
    model = keras.models.load_model(directory / "shards.keras")
    assert int(model.optimizer.iterations) == 2 * 3 + 2
    assert (directory / "generator.keras").exists()


def test_a_file_that_is_in_no_shard_is_named(folders: Path, tmp_path: Path) -> None:
    for path in (folders / "train").glob("*/*"):
        copy = tmp_path / "images" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    damaged = tmp_path / "images" / "dog" / "004.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    result = run(EXAMPLES[0], tmp_path / "images", tmp_path / "out")
    assert result.returncode == 1
    assert "not once in an epoch, with its class: dog/004.jpg; 1 in all" in result.stderr


def test_weights_and_records_that_are_not_the_same_are_noticed(generator: tuple[str, Path], tmp_path: Path) -> None:
    _, directory = generator
    example, data = imported(EXAMPLES[0]), open_dataset(directory / "shards")
    before = keras.models.load_model(directory / "shards.keras")
    with pytest.raises(SystemExit, match=r"resumed at epoch 2, step 2, .*: weights differ by [1-9]"):
        example.go_on(data, directory / "shards.keras", directory / "shards.json", before)
    names = [(record["id"], record["id"].split("/")[0]) for record in data]
    for wrong in (names[1:], [*names, names[0]], [(names[0][0], "dodo"), *names[1:]]):
        with pytest.raises(SystemExit, match=f"not once in an epoch, with its class: {names[0][0]}; 1 in all"):
            example.check_ids(data, Counter(wrong))


def test_all_ways_give_the_same_images(sources: tuple[str, Path]) -> None:
    check_sources(sources[0], 150)


def test_what_was_written_is_what_is_in_the_images(sources: tuple[str, Path], folders: Path) -> None:
    _, directory = sources
    paths = sorted((folders / "train").glob("*/*"))
    labels = [("cat", "dog", "great auk, old").index(path.parent.name) for path in paths]
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((32, 32))) for path in paths]
    expected = Counter((label, image.tobytes()) for label, image in zip(labels, pixels, strict=True))
    for name in ("from-folder", "from-table", "from-records"):
        data = open_dataset(directory / name)
        assert Counter((record["label"], record["image"].tobytes()) for record in data) == expected
    rows = np.fromfile(directory / "images.bin", np.uint8).reshape(150, 3073)
    assert rows[:, 0].tolist() == labels
    assert np.array_equal(rows[7, 1:].reshape(3, 32, 32), pixels[7].transpose(2, 0, 1))


def test_images_that_are_lost_doubled_or_others_are_noticed(sources: tuple[str, Path]) -> None:
    _, directory = sources
    example = imported(EXAMPLES[1])
    expected = example.contents(example.streamed(directory / "from-folder"))
    lines = example.tf.data.TextLineDataset(str(directory / "images.csv"))
    example.check("text", example.contents(example.transformed(lines.skip(1), example.parse_line)), expected)
    for some, missing, other in (
        (lines.skip(2), 1, 0),
        (lines.skip(1).concatenate(lines.skip(150)), 0, 1),
        (lines.skip(2).concatenate(lines.skip(150)), 1, 1),
    ):
        found = example.contents(example.transformed(some, example.parse_line))
        with pytest.raises(SystemExit, match=f"text: of 150 images {missing} are missing, and {other} are doubled"):
            example.check("text", found, expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_directory_with_something_in_it_is_refused(name: str, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    result = run(name, folders, tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith(f"{tmp_path}: is not empty; give a new directory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.nightly
def test_the_generator_and_shards_train_on_cifar10(cifar10: Path, tmp_path: Path) -> None:
    check_generator(output(EXAMPLES[0], cifar10, tmp_path), 3000, "epoch 2, step 24, 23 steps to the end")


@pytest.mark.nightly
def test_all_ways_give_the_same_images_of_cifar10(cifar10: Path, tmp_path: Path) -> None:
    check_sources(output(EXAMPLES[1], cifar10, tmp_path), 3000)
