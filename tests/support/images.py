"""Images to test with: small ones that are drawn, and real ones where they are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import REPOSITORY

SHARED = REPOSITORY.parent / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of real images, which the repository does not contain."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"no real images at {SHARED / name}")
    return SHARED / name


def some_of(source: Path, target: Path, count: int) -> Path:
    """Copies of the first `count` images of each folder in `source`, in the same folders of `target`."""
    for folder in sorted(path for path in source.rglob("*") if path.is_dir()):
        for path in sorted(path for path in folder.iterdir() if path.is_file())[:count]:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return target


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> None:
    """A PNG or JPEG (by the suffix) that is different for each seed. `size` is width and height."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
