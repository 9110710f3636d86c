"""The parts of benchmarks/feed_gpu.py that need no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command import REPOSITORY

from shard_reader import CenterCrop, Flip, open_dataset

pytest.importorskip("torch")
pytest.importorskip("torchvision")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchvision's, of a successor
def test_crops_and_flips_on_a_device_are_those_of_the_stream(
    jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import feed_gpu

    monkeypatch.setattr(feed_gpu, "SIZE", 12)
    data = open_dataset(jpeg_shards)
    options = {"batch_size": 20, "image": [CenterCrop(12), Flip()]}
    for stored, expected in zip(data.stream(**options, decode=False), data.stream(**options), strict=True):
        images = feed_gpu.decoded(stored, "cpu").permute(0, 2, 3, 1).numpy()
        assert np.abs(images.astype(int) - expected["image"]).max() <= 4


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured() -> None:
    call = [sys.executable, str(REPOSITORY / "benchmarks/feed_gpu.py")]
    result = subprocess.run(
        call, capture_output=True, text=True, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert json.loads(result.stdout) == {"absent": "no GPU that PyTorch can use"}
