"""Perceptual hashes: pinned values, the images that have none, and changes that leave them alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.images.measures.perceptual_hash import NO_HASHES, PerceptualHashes, perceptual_hashes
from beam_jobs.plan.near_duplicates import distance


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth picture of integers, the same on every machine at every size."""
    y, x = np.mgrid[:height, :width]
    y, x = y * 1000 // height, x * 1000 // width
    waves = (x * (1000 - x) // 1000 + 3 * y, x + y * (1000 - y) // 500, (x // 125 * 90 + y // 200 * 70) % 500)
    return np.stack([wave * 255 // max(1, int(wave.max())) for wave in waves], 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (256, 256, PerceptualHashes(-9071882328887833223, -144119586122367009)),
        (333, 129, PerceptualHashes(-9071882328887833223, -144119586122367009)),
        (32, 32, PerceptualHashes(-9071882327814222471, -144682536075788321)),
        (5, 7, PerceptualHashes(-8281497058702248355, -202113025)),
    ],
)
def test_hashes_are_the_same_on_every_machine(width: int, height: int, expected: PerceptualHashes) -> None:
    assert perceptual_hashes(picture(width, height)) == expected


@pytest.mark.parametrize("value", [0, 1, 127, 255])
@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 30, 3), (500, 3, 1), (40, 30, 4)])
def test_an_image_of_one_colour_has_no_hashes(value: int, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, value, np.uint8)
    assert perceptual_hashes(pixels) == NO_HASHES
    noisy = pixels // 2 + np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    if shape[2] < 4:
        assert perceptual_hashes(noisy) == NO_HASHES


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 3, 4]), st.integers(0, 2**32))
def test_every_other_image_has_one(height: int, width: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    pixels[..., 3:] = 255
    found = perceptual_hashes(pixels)
    assert found == NO_HASHES or found.phash != 0
    assert all(-(1 << 63) <= number < 1 << 63 for number in found)


def test_depth_grey_and_opacity_play_no_part() -> None:
    pixels = picture(200, 150)
    expected = perceptual_hashes(pixels)
    assert perceptual_hashes(pixels.astype(np.uint16) * 257) == expected
    assert perceptual_hashes(np.dstack([pixels, np.full((150, 200), 255, np.uint8)])) == expected
    grey = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    assert distance(perceptual_hashes(grey).phash, expected.phash) <= 2


def test_hidden_colours_play_no_part() -> None:
    pixels = np.dstack([picture(64, 64), np.tile(np.repeat(np.array([0, 255], np.uint8), 32), (64, 1))])
    other = pixels.copy()
    other[:, :32, :3] = 77
    assert perceptual_hashes(pixels) == perceptual_hashes(other)


def test_a_scaled_image_is_near_and_a_mirrored_one_is_not() -> None:
    image = Image.fromarray(picture(320, 240))
    own = perceptual_hashes(np.asarray(image))
    for size in ((160, 120), (640, 480), (300, 300)):
        other = perceptual_hashes(np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
        assert distance(own.phash, other.phash) <= 4
    mirrored = np.ascontiguousarray(np.asarray(image)[:, ::-1])
    assert distance(own.phash, perceptual_hashes(mirrored).phash) > 11
