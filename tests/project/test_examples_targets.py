"""The examples of masks and keypoints, run as a user runs them: networks learn from what moves with the photos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import REPOSITORY

from shard_reader import open_dataset

# A process that imports a framework and trains: CI runs it.
pytestmark = pytest.mark.slow


def run(script: str, *words: object) -> str:
    """The output of an example."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("framework", [pytest.param("keras", marks=pytest.mark.nightly), "torch"])
def test_a_network_learns_masks(tmp_path: Path, framework: str) -> None:
    for package in ("apache_beam", framework):
        pytest.importorskip(package)
    printed = run("segmentation.py", "--framework", framework, "--directory", tmp_path)
    found = [float(value) for value in re.findall(r"(?:background|disc|square) ([\d.]+)", printed)]
    assert len(found) == 3
    # A network that has learned nothing calls all of it background: 0 for the other two.
    assert min(found) > 0.5
    data = open_dataset(tmp_path / "shards", "val")
    assert data[0]["mask"].shape == data[0]["image"].shape[:2] == (96, 96)


@pytest.mark.nightly
def test_a_network_learns_keypoints(tmp_path: Path) -> None:
    for package in ("apache_beam", "torch"):
        pytest.importorskip(package)
    printed = run("keypoints.py", tmp_path)
    # The middle of the image as an answer is 17 pixels off, in the mean.
    assert float(re.findall(r"val split: ([\d.]+) pixels of 64", printed)[0]) < 13
    field = open_dataset(tmp_path / "shards", "val").fields["objects/keypoints"]
    assert (field.names, field.flip_pairs) == (("nose", "tail", "left_fin", "right_fin"), ((2, 3),))
