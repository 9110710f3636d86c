"""The example of transfer learning, run as a user runs it: ids, counts, rows of predictions, exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import REPOSITORY
from support.images import write_image

from shard_reader import open_dataset

keras = pytest.importorskip("keras")
pandas = pytest.importorskip("pandas")
pytest.importorskip("tensorflow")
pytest.importorskip("scipy")

# Processes that import TensorFlow and train: CI runs them.
pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "examples" / "transfer_learning_vgg16_cifar.py"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, str(SCRIPT), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.run(words, capture_output=True, text=True, timeout=600, env=env)


def checked_predictions(directory: Path, classes: list[str]) -> pandas.DataFrame:
    """predictions.csv, whose rows are the records of the test split, in their order."""
    table = pandas.read_csv(directory / "predictions.csv")
    data = open_dataset(directory / "shards", "test")
    assert list(table.columns) == ["id", "class", "predicted class", "probability"]
    assert table["id"].tolist() == [id.decode() for id in data.ids()]
    assert table["id"].is_unique
    assert table["class"].tolist() == [Path(id).parent.name for id in table["id"]]
    assert set(table["predicted class"]) <= set(classes)
    assert table["probability"].between(1 / len(classes), 1).all()
    return table


def checked_speeds(printed: str) -> None:
    """A speed above 0 for each of the ways."""
    found = re.findall(r"^  (.+?) +([\d,]+) images/s$", printed, re.MULTILINE)
    assert [name.split(",")[0] for name, _ in found] == [
        "augmentation alone",
        "augmentation alone",
        "reading the shards",
        "reading the image files",
    ]
    assert all(int(speed.replace(",", "")) > 0 for _, speed in found)


def test_each_record_is_trained_once_and_predictions_have_their_ids(tmp_path: Path) -> None:
    for number in range(180):
        write_image(tmp_path / "images" / "abc"[number % 3] / f"{number:03d}.jpg", number, (36, 32))
    result = run(tmp_path / "images", tmp_path / "out", "--weights", "none", "--epochs", 2)
    assert result.returncode == 0, result.stderr
    for epoch in (1, 2):
        assert f"epoch {epoch}: 3 batches, 144 records, each once\n" in result.stdout
    assert "evaluated 18 records of the test split, each once: loss " in result.stdout
    assert "accuracy: not given" in result.stdout
    assert "predictions: 18 rows" in result.stdout
    assert json.loads((tmp_path / "out/checkpoint/position.json").read_text("utf-8"))["epoch"] == 2
    assert len(checked_predictions(tmp_path / "out", ["a", "b", "c"])) == 18
    checked_speeds(result.stdout)


def test_weights_that_cannot_be_downloaded_are_one_line(class_folders: Path, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9"  # the port where nobody listens, in the place of the network
    proxies = {"https_proxy": closed, "HTTPS_PROXY": closed, "no_proxy": "", "NO_PROXY": ""}
    result = run(class_folders, tmp_path / "out", KERAS_HOME=str(tmp_path / "keras"), **proxies)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("weights 'imagenet' of VGG16 cannot be loaded (URL fetch failure on https://")
    assert line.endswith("--weights none")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_not_empty_is_refused(class_folders: Path) -> None:
    result = run(class_folders, class_folders, "--weights", "none")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"{class_folders}: is not empty; give a new directory"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # TensorFlow's tensors, in NumPy 2
@pytest.mark.nightly
def test_transfer_learning_on_cifar10(cifar10: Path, tmp_path: Path) -> None:
    weights = tmp_path / "vgg16.weights.h5"
    keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3)).save_weights(weights)
    result = run(cifar10, tmp_path / "out", "--weights", weights, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    assert "epoch 1: 43 batches, 2700 records, each once\n" in result.stdout
    assert "epoch 2" not in result.stdout
    assert "evaluated 600 records of the test split, each once: loss " in result.stdout
    table = checked_predictions(tmp_path / "out", sorted(path.name for path in (cifar10 / "test").iterdir()))
    assert sorted(table["id"]) == sorted(str(path.relative_to(cifar10)) for path in (cifar10 / "test").rglob("*.jpg"))
    hits = int((table["class"] == table["predicted class"]).sum())
    assert f"and {hits} of 600 predictions are right" in result.stdout
    checked_speeds(result.stdout)
