"""The resizer on boxes of any fraction of a pixel: it once ended the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import random, sys
import numpy as np
from beam_jobs.images.pixels.resample import resampled
source = random.Random(5)
for number in range(1500):
    width, height, part = source.randint(2, 60), source.randint(2, 60), source.choice([1, 2, 4, 8])
    left, top = (source.randint(0, (size - 1) * part) / part for size in (width, height))
    across = source.randint(1, int((width - left) * part)) / part
    down = source.randint(1, int((height - top) * part)) / part
    target = max(1, int(across * source.choice([1, 2, 4, 0.5]))), max(1, int(down * source.choice([1, 2, 1.1, 0.5])))
    shape = (height, width, source.choice([1, 3, 4]))
    dtype = source.choice([np.uint8, np.uint16])
    pixels = np.full(shape, np.iinfo(dtype).max, dtype)
    found = resampled(pixels, (left, top, across, down), target, sys.argv[1])
    assert found.shape == (*target[::-1], shape[2]) and (found == pixels[0, 0]).all()
"""


@pytest.mark.parametrize("filter", ["bicubic", "lanczos", "bilinear", "area", "nearest"])
def test_any_box_keeps_one_colour(filter: str) -> None:
    """In a process of its own, since the fault was foreign memory."""
    done = subprocess.run([sys.executable, "-c", CODE, filter], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
