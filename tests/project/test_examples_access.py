"""The examples of random access: what they print and write is true, and they fail when it is not."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from support.command import REPOSITORY, prepared
from support.images import write_image

from shard_reader import open_dataset

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

# Processes that import TensorFlow and train: CI runs them.
pytestmark = pytest.mark.slow

EXAMPLES = REPOSITORY / "examples"
SEQUENCE, BATCHES = EXAMPLES / "keras_sequence_hdf5.py", EXAMPLES / "random_access_batches.py"
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit of memory is Linux's")


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=REPOSITORY)


def succeeded(script: Path, *arguments: object) -> str:
    result = run(script, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def split_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 images to train with and 60 to test with, in three classes, of shapes that a crop cuts on either side."""
    root = tmp_path_factory.mktemp("split folders")  # with a space in it
    for number in range(150):
        split, size = ("train" if number < 90 else "test"), (40 + number % 50, 30 + number % 40)
        write_image(root / split / "abc"[number % 3] / f"{number:03d}.jpg", number, size)
    return root


@pytest.mark.parametrize("script", [SEQUENCE, BATCHES], ids=["hdf5", "batches"])
def test_a_directory_that_is_not_empty_is_refused(script: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = run(script, tmp_path, tmp_path)
    assert (result.returncode, result.stderr) == (1, f"{tmp_path}: is not empty; give a new directory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("script", [SEQUENCE, BATCHES], ids=["hdf5", "batches"])
def test_a_folder_without_images_is_an_error(script: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    result = run(script, tmp_path / "images", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"{tmp_path / 'images'}: has no images"


def check_sequence(output: str, directory: Path, test_ids: list[str], picks: int) -> None:
    """Compare predictions.csv with what the saved model predicts of each image that h5py reads."""
    with (directory / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert sorted(line["id"] for line in lines) == test_ids
    assert all(Path(line["id"]).parent.name == line["label"] for line in lines)
    ids, images = [], []
    for path in (directory / "shards").glob("test-*.h5"):
        with h5py.File(path) as file:
            ids += [id.decode() for id in file["id"]]
            images += [*file["image"]]
    found = keras.models.load_model(directory / "model.keras").predict(np.array(images), verbose=0).argmax(1)
    names = open_dataset(directory / "shards", "test").class_names or ()
    assert {line["id"]: line["predicted"] for line in lines} == {
        id: names[number] for id, number in zip(ids, found, strict=True)
    }
    assert f"shards, in order: {picks} of {picks} predictions are in the row" in output
    shuffled = re.search(r"loop, shuffled: +(\d+) of", output)
    assert shuffled and int(shuffled[1]) < picks
    worst = re.search(r"boxes: those of \d+ records are at most (\S+) pixels", output)
    assert worst and float(worst[1]) < 1


def test_predictions_are_those_of_their_images(split_folders: Path, tmp_path: Path) -> None:
    output = succeeded(SEQUENCE, split_folders, tmp_path / "out")
    ids = [path.relative_to(split_folders).as_posix() for path in split_folders.glob("test/*/*.jpg")]
    check_sequence(output, tmp_path / "out", sorted(ids), 40)
    with (tmp_path / "out" / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 150


@pytest.mark.nightly
def test_predictions_on_real_images(cifar10: Path, tmp_path: Path) -> None:
    output = succeeded(SEQUENCE, cifar10, tmp_path / "out")
    ids = sorted(path.relative_to(cifar10).as_posix() for path in cifar10.glob("test/*/*.jpg"))
    check_sequence(output, tmp_path / "out", ids, 40)
    right = re.search(r"600 predictions, (\S+)% right", output)
    assert right and float(right[1]) > 20


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        (
            'BATCH, shuffle="none"',
            'BATCH, shuffle="full"',
            "predictions are not in the order of the records",
        ),
        ('"--root", str(images)]', '"--root", str(images), "--fit", "pad"]', r"a box is \S+ pixels from where"),
    ],
    ids=["order", "boxes"],
)
def test_a_wrong_claim_fails(split_folders: Path, tmp_path: Path, line: str, instead: str, message: str) -> None:
    text = SEQUENCE.read_text("utf-8")
    assert text.count(line) == 1
    (tmp_path / "broken.py").write_text(text.replace(line, instead), "utf-8")
    result = run(tmp_path / "broken.py", split_folders, tmp_path / "out")
    assert result.returncode == 1
    assert re.match(message, result.stderr.splitlines()[-1])


@LINUX
def test_batches_by_number_take_no_more_memory_than_there_is(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import random_access_batches as example

    shards = prepared(class_folders, tmp_path / "shards", *["--size", "640x640", "--encoding", "raw"])
    decoded, steps = 60 * 640 * 640 * 3, [19, 3, 3, 0]
    _, memory, sums = example.in_a_process(example.measured, example.by_number, shards, steps, decoded // 2)
    with example.batches(open_dataset(shards)) as stream:
        expected = [zlib.crc32(batch["image"]) for batch in stream]
    assert (len(expected), sums) == (20, [expected[step] for step in steps])
    assert 0 < memory < decoded // 2
    text = example.in_a_process(example.random_access, shards, decoded // 2)
    assert "20 batches in random order: 60 records, each once" in text
    assert "a 20, b 20, c 20" in text
    with pytest.raises(MemoryError):
        example.in_a_process(example.measured, all_of_it, shards, steps, decoded // 2)


def all_of_it(new_stream, steps):  # type: ignore[no-untyped-def]
    """A way as the example has them, which keeps every batch."""
    held = list(new_stream())
    return (held[step]["image"] for step in steps)


def check_batches(output: str, records: int, batches: int) -> None:
    """Compare the lines of the table with what each way has to hold."""
    head = re.search(r"decoded (\d+) MB; limit (\d+) MB", output)
    line = r"^(list|next|stream).*? +(none|\d+ MB) +(?:-  (too little)|([\d.]+)  \+(\d+) MB)"
    rows = re.findall(line, output, re.M)
    assert head
    decoded, limit = int(head[1]), int(head[2])
    assert decoded == pytest.approx(2 * limit, abs=2)
    assert [row[:3] for row in rows] == [
        ("list", "none", ""),
        ("list", f"{limit} MB", "too little"),
        ("next", f"{limit} MB", ""),
        ("stream", f"{limit} MB", ""),
    ]
    kept, _, skipped, ours = (int(row[4] or 0) for row in rows)
    assert kept > 0.9 * decoded and skipped < limit and ours < limit
    assert f"{batches} batches in random order: {records:,} records, each once" in output


@LINUX
@pytest.mark.parametrize("images", ["class_folders", pytest.param("cifar10", marks=pytest.mark.nightly)])
def test_a_list_does_not_fit_and_batches_by_number_do(images: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(images)
    output = succeeded(BATCHES, folder, request.getfixturevalue("tmp_path") / "out")
    check_batches(output, *{"class_folders": (60, 20), "cifar10": (3000, 94)}[images])
