"""The example of segmentation, run as a user runs it: both frameworks learn from photos and masks."""

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


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_a_network_learns_masks(tmp_path: Path, framework: str) -> None:
    for package in ("apache_beam", framework):
        pytest.importorskip(package)
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, str(REPOSITORY / "examples/segmentation.py"), "--framework", framework]
    result = subprocess.run(
        [*words, "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    found = [float(value) for value in re.findall(r"(?:background|disc|square) ([\d.]+)", result.stdout)]
    assert len(found) == 3
    # A network that has learned nothing calls all of it background: 0 for the other two.
    assert min(found) > 0.5
    data = open_dataset(tmp_path / "shards", "val")
    assert data[0]["mask"].shape == data[0]["image"].shape[:2] == (96, 96)
