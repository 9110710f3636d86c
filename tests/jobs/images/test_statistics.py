"""Sums over pixels: exact, of any depth, in any order."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support.pictures import (
    numbers,
)

from beam_jobs.images.measures.statistics import ChannelSums


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_sums_are_exact(pixels: np.ndarray) -> None:
    sums = ChannelSums.of(pixels)
    flat = pixels.reshape(-1, 3).astype(object)
    assert sums == ChannelSums(len(flat), tuple(flat.sum(0)), tuple((flat**2).sum(0)))
    mean, std = sums.mean_std()
    assert np.allclose(mean, pixels.reshape(-1, 3).mean(0) / 255)
    assert np.allclose(std, pixels.reshape(-1, 3).std(0) / 255)


def test_sums_of_the_largest_image_do_not_overflow() -> None:
    sums = ChannelSums.of(np.full((65_500, 2, 3), 255, np.uint8))
    assert sums.squares == (65_500 * 2 * 255**2,) * 3


@st.composite
def some_images(draw: st.DrawFn) -> list[np.ndarray]:
    channels = draw(st.sampled_from([1, 3, 4]))
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(channels))
    kinds = st.sampled_from([np.uint8, np.uint16])
    return draw(st.lists(kinds.flatmap(lambda kind: npst.arrays(kind, shapes)), min_size=1, max_size=4))


@given(some_images(), st.randoms(use_true_random=False))
def test_sums_of_any_depth_are_those_of_numpy_in_any_order(images: list[np.ndarray], random: Any) -> None:
    total = sum(map(ChannelSums.of, images), ChannelSums())
    shuffled = random.sample(images, len(images))
    half = len(images) // 2
    halves = [sum(map(ChannelSums.of, part), ChannelSums()) for part in (shuffled[:half], shuffled[half:])]
    assert halves[0] + halves[1] == total and not total.mixed
    every = np.concatenate([i.reshape(-1, i.shape[2]) / np.float64(np.iinfo(i.dtype).max) for i in images])
    mean, std = total.mean_std()
    assert np.allclose(mean, every.mean(0), rtol=0, atol=1e-6)
    assert np.allclose(std, every.std(0), rtol=0, atol=1e-6)


@given(st.permutations([(1, np.uint8), (3, np.uint16), (3, np.uint8), (4, np.uint8)]))
def test_sums_of_different_channels_are_mixed_in_any_order(kinds: list[tuple[int, Any]]) -> None:
    sums = [ChannelSums.of(np.ones((2, 3, channels), kind)) for channels, kind in kinds]
    total = sum(sums, ChannelSums())
    assert total.mixed and total == ChannelSums(pixels=24, peak=65_535)
    assert total == sums[0] + (sums[1] + (sums[2] + sums[3]))
    assert total + ChannelSums() == ChannelSums() + total == total
    with pytest.raises(ValueError, match="different numbers of channels"):
        total.mean_std()


def test_sums_survive_json() -> None:
    deep, one = ChannelSums.of(numbers(3)), ChannelSums.of(np.ones((1, 1, 1), np.uint8))
    for sums in (ChannelSums(), deep, deep + one):
        assert ChannelSums.from_json(json.loads(json.dumps(asdict(sums)))) == sums
    assert ChannelSums().mean_std() == ((0,), (0,))


def test_sums_of_the_largest_16_bit_image_do_not_overflow() -> None:
    sums = ChannelSums.of(np.full((65_500, 2, 1), 65_535, np.uint16))
    assert sums == ChannelSums(131_000, (131_000 * 65_535,), (131_000 * 65_535**2,), 65_535)
