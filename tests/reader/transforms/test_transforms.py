"""Transforms: what they give, that (key, position) alone decides it, and that `out` changes nothing but where it is."""

from __future__ import annotations

import copy
import doctest
import functools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import shard_reader.transforms.compose
import shard_reader.transforms.draws
import shard_reader.transforms.resize
import shard_reader.transforms.standard
from shard_reader import CenterCrop, Draws, Flip, RandomResizedCrop, Resize, Transform
from shard_reader.transforms.compose import ComposedTransform, compose

KEY = 0x0123456789ABCDEF
DTYPES = ["uint8", "uint16", "float16", "float32"]
SQUEEZE = (25, 60)  # of an image of 40 x 50: one direction shrinks, the other grows


def named(value: Any) -> str | None:
    """The id of a parameter; functions would show their address, another one in each process."""
    return None if " at 0x" in repr(value) else repr(value)


def picture(height: int = 40, width: int = 50, channels: int = 3, dtype: str = "uint8") -> NDArray[Any]:
    """Smooth, with some noise, different for every pixel and channel; floats are from 0 to 1."""
    rows, columns, planes = np.mgrid[:height, :width, :channels]
    values = 0.5 + 0.4 * np.sin(rows / 5 + planes) * np.cos(columns / 7)
    values += np.random.default_rng(0).uniform(-0.1, 0.1, values.shape)
    most = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (values.clip(0, 1) * most).astype(dtype)


def by_hand(image: NDArray[Any], shape: tuple[int, int], interpolation: int) -> NDArray[Any]:
    """What OpenCV makes of a plain copy."""
    plain = np.ascontiguousarray(image, np.float32 if image.dtype == np.float16 else image.dtype)
    scaled = cv2.resize(plain, shape[::-1], interpolation=interpolation)
    return scaled.reshape(*shape, image.shape[2]).astype(image.dtype)


def draws(position: int = 0) -> Draws:
    return Draws(KEY, position)


def a_flip_that_mirrors() -> Draws:
    return next(one for one in map(draws, range(99)) if copy.copy(one).uniform() < 0.5)


# Draws


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator as its authors describe it, with NumPy's integers in the place of Python's."""
    results = []
    with np.errstate(over="ignore"):
        state = np.uint64(seed)
        for _ in range(count):
            state = state + np.uint64(0x9E3779B97F4A7C15)
            mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            results.append(int(mixed ^ (mixed >> np.uint64(31))))
    return results


def test_the_reference_is_splitmix64() -> None:
    """Vigna's published outputs for the seed 1234567."""
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("key", [0, 1, KEY, 2**64 - 1])
def test_draws_are_a_splitmix64_sequence_that_begins_in_that_of_the_key(key: int) -> None:
    starts = splitmix64((key - 0x9E3779B97F4A7C15) % 2**64, 5)
    for position in (0, 1, 4):
        expected = [(number >> 11) / 2**53 for number in splitmix64(starts[position], 4)]
        one = Draws(key, position)
        assert [one.uniform() for _ in range(4)] == expected


def test_draws_never_change() -> None:
    """A change here changes what every stream gives for a seed."""
    one = Draws(KEY, 7)
    assert [one.uniform(), one.uniform(-2, 3), one.integer(1000)] == [0.3998052060209121, 0.3883822261941674, 162]
    assert Draws(KEY, 7).generator().integers(0, 1000, 4).tolist() == [384, 627, 344, 990]
    one = Draws(KEY, 7)
    assert [one.child(0).uniform(), one.child(1).uniform()] == [0.90504818981911, 0.9550904503104881]
    assert one.uniform() == Draws(KEY, 7).uniform() and one.child(1).uniform() == 0.9550904503104881
    assert Draws(2**64 + KEY, 7).uniform() == Draws(KEY, 7).uniform() == 0.3998052060209121


def test_draws_are_uniform() -> None:
    """The first of many positions, as well as many of one: the mean, and chi-square over 64 bins."""
    one = draws()
    for numbers in ([draws(position).uniform() for position in range(64_000)], [one.uniform() for _ in range(64_000)]):
        assert min(numbers) >= 0
        assert max(numbers) < 1
        assert abs(np.mean(numbers) - 0.5) < 5 / math.sqrt(12 * 64_000)
        counts, _ = np.histogram(numbers, 64, (0, 1))
        assert 25 < (((counts - 1000) ** 2) / 1000).sum() < 120  # 63 on average, with a deviation of 11


@pytest.mark.parametrize("apart", [1, 2, 64, 1000])
def test_neighbouring_positions_and_keys_have_nothing_in_common(apart: int) -> None:
    count = 20_000
    here = np.array([Draws(KEY, position).uniform() for position in range(count)])
    there = np.array([Draws(KEY, position + apart).uniform() for position in range(count)])
    other = np.array([Draws(KEY + apart, position).uniform() for position in range(count)])
    second = []
    for position in range(count):
        one = Draws(KEY, position + apart)
        one.uniform()
        second.append(one.uniform())
    for numbers in (there, other, np.array(second)):
        assert abs(np.corrcoef(here, numbers)[0, 1]) < 5 / math.sqrt(count)
    assert not set(here) & set(other) | set(here) & set(second)


def test_integers_are_below_stop_and_equally_likely() -> None:
    one = draws()
    counts = np.bincount([one.integer(7) for _ in range(70_000)])
    assert len(counts) == 7
    assert (abs(counts - 10_000) < 500).all()
    assert {one.integer(1) for _ in range(9)} == {0}
    with pytest.raises(ValueError, match="stop=0: must be at least 1"):
        one.integer(0)


def test_a_generator_follows_from_the_draws_before_it() -> None:
    one, other = draws(), draws()
    numbers = [one.generator().normal(size=3).tolist() for _ in range(2)]
    assert numbers[0] != numbers[1]
    assert numbers == [other.generator().normal(size=3).tolist() for _ in range(2)]
    assert numbers[0] != draws(1).generator().normal(size=3).tolist()


# Each transform alone

EVERY = [CenterCrop((21, 33)), Resize(17), Resize(SQUEEZE), RandomResizedCrop((24, 32)), Flip(), Flip(1)]
IN_PLACE = [Resize((40, 50)), RandomResizedCrop((40, 50)), Flip(1)]  # which keep the size of the picture


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_shape_and_dtype_are_as_announced(transform: Transform, dtype: str, channels: int) -> None:
    image = picture(channels=channels, dtype=dtype)
    for position in range(4):
        result = transform(image, draws(position))
        assert result.shape == transform.output_shape(image.shape)
        assert result.dtype == image.dtype


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_out_and_the_layout_of_the_image_change_nothing(transform: Transform, dtype: str, channels: int) -> None:
    image = picture(channels=channels, dtype=dtype)
    wide = picture(80, 100, channels, dtype)
    wide[:40, :50] = wide[10:50:1, 7:57] = wide[::2, 1::2] = image
    assert np.array_equal(wide[::2, 1::2], image)
    rows = np.zeros((44, 60, channels), dtype)
    rows[2:42, 5:55] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    layouts = {
        "a part of the rows": rows[2:42, 5:55],
        "every other column": wide[::2, 1::2],
        "upside down": np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1],
        "read-only": frozen,
        "another byte order": image.astype(image.dtype.newbyteorder("S")),
    }
    for position in range(4):
        expected = transform(image, draws(position)).copy()
        for name, layout in layouts.items():
            assert np.array_equal(transform(layout, draws(position)), expected), name
        for name, layout in {"plain": image, **layouts}.items():
            out = np.empty_like(expected)
            assert compose(transform)(layout, draws(position), out) is out
            assert np.array_equal(out, expected), name
    assert np.array_equal(image, picture(channels=channels, dtype=dtype))


@pytest.mark.parametrize(
    "out", [np.empty((9, 9, 3), np.uint8), np.empty((17, 17, 3), np.float32)], ids=["shape", "dtype"]
)
def test_an_out_that_does_not_fit_is_left_alone(out: NDArray[Any]) -> None:
    out[:] = 1
    assert np.array_equal(Resize(17)(picture(), None, out), Resize(17)(picture()))
    assert (out == 1).all()


def test_every_transform_that_works_in_place_is_tested_so() -> None:
    assert {type(one) for one in EVERY if one.in_place} <= {type(one) for one in IN_PLACE}


@pytest.mark.parametrize("transform", IN_PLACE, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_can_be_transformed_in_place(transform: Transform, channels: int, dtype: str) -> None:
    image = picture(channels=channels, dtype=dtype)
    expected = transform(image.copy(), draws())
    assert transform(image, draws(), image) is image
    assert np.array_equal(image, expected)


def test_an_array_that_opencv_makes_instead_of_filling_ours_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Resize(17)(picture(channels=1))
    real = cv2.resize
    monkeypatch.setattr(
        cv2, "resize", lambda image, size, dst, interpolation: real(image, size, None, 0, 0, interpolation)
    )
    out = np.zeros((17, 17, 1), np.uint8)
    assert Resize(17)(picture(channels=1), None, out) is out
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("transform", "interpolation"),
    [
        (Resize((20, 25)), cv2.INTER_AREA),
        (Resize((33, 50)), cv2.INTER_AREA),
        (Resize((40, 50)), cv2.INTER_NEAREST),
        (Resize((80, 75)), cv2.INTER_LINEAR),
        (Resize((20, 75), "bilinear"), cv2.INTER_LINEAR),
        (Resize((20, 75), "bicubic"), cv2.INTER_CUBIC),
        (Resize((20, 76), "nearest"), cv2.INTER_NEAREST_EXACT),
    ],
    ids=str,
)
def test_a_resize_is_that_of_opencv(transform: Resize, interpolation: int, dtype: str) -> None:
    image = picture(dtype=dtype)
    assert np.array_equal(transform(image), by_hand(image, transform.shape, interpolation))


@pytest.mark.parametrize("shape", [(5, 100), (80, 5)], ids=str)
def test_where_one_direction_shrinks_all_its_pixels_count(shape: tuple[int, int]) -> None:
    """Thin stripes have to become their mean, and not what the few pixels are that a filter happens to read."""
    image = np.zeros((40, 50, 3), np.float32)
    if shape[0] < 40:
        image[::4] = 1
    else:
        image[:, ::5] = 1
    assert np.allclose(Resize(shape)(image), image.mean(), atol=1e-6)
    assert np.allclose(Resize(shape, "bilinear")(image), 0.5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [*DTYPES, "int64", "bool"])
def test_a_flip_mirrors(dtype: str, channels: int) -> None:
    image = np.arange(7 * 5 * channels).reshape(7, 5, channels).astype(dtype)
    assert np.array_equal(Flip(1)(image, draws()), image[:, ::-1])
    assert Flip(0)(image, draws()) is image
    assert np.array_equal(compose(Flip(0))(image, draws(), np.empty_like(image)), image)


def test_a_flip_is_as_frequent_as_its_probability() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    for probability in (0.1, 0.5, 0.8):
        flips = [Flip(probability)(image, draws(position)) is not image for position in range(10_000)]
        assert abs(np.mean(flips) - probability) < 0.02


def test_a_crop_is_the_middle() -> None:
    image = picture(9, 10)
    assert np.array_equal(CenterCrop((4, 5))(image), image[2:6, 2:7])
    assert np.shares_memory(CenterCrop(4)(image), image)
    with pytest.raises(ValueError, match=r"is 10x9, smaller than the crop of 10x10: ask for a smaller crop"):
        CenterCrop(10)(image)


# RandomResizedCrop


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)).map(sorted),
    st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)).map(sorted),
    st.integers(0, 2**40),
)
@example(1, 1, [0.08, 1.0], [3 / 4, 4 / 3], 0)
@example(1, 300, [1, 1], [0.001, 0.001], 0)
@example(300, 1, [1, 1], [1000, 1000], 0)
def test_the_part_is_inside_of_any_image(
    height: int, width: int, scale: list[float], ratio: list[float], position: int
) -> None:
    crop = RandomResizedCrop(8, tuple(scale), tuple(ratio))
    top, left, tall, wide = crop.box(height, width, draws(position))
    assert 0 <= top < top + tall <= height
    assert 0 <= left < left + wide <= width
    assert crop(np.zeros((height, width, 1), np.uint8), draws(position)).shape == (8, 8, 1)


def test_area_ratio_and_place_of_the_part_are_as_they_should_be() -> None:
    """In an image so large that every part fits at once: each is uniform between its ends."""
    side, crop = 100_000, RandomResizedCrop(224, scale=(0.1, 0.3), ratio=(1 / 2, 3))
    top, left, tall, wide = np.array([crop.box(side, side, draws(position)) for position in range(20_000)], float).T
    shares = {
        "area": (tall * wide / side**2 - 0.1) / 0.2,
        "ratio": np.log(2 * wide / tall) / np.log(6),
        "top": top / (side - tall),
        "left": left / (side - wide),
    }
    for name, share in shares.items():
        assert share.min() > -0.001, name
        assert share.max() < 1.001, name
        counts, _ = np.histogram(share.clip(0, 1), 20, (0, 1))
        assert (((counts - 1000) ** 2) / 1000).sum() < 60, name  # 19 on average, with a deviation of 6
    assert (abs(np.corrcoef(list(shares.values())) - np.eye(4)) < 0.04).all()


def test_the_part_can_be_anywhere() -> None:
    """A quarter of 4 x 6 pixels with the ratio of the whole: 2 x 3, in any of 3 x 4 places."""
    crop = RandomResizedCrop(2, scale=(0.25, 0.25), ratio=(1.5, 1.5))
    boxes = [crop.box(4, 6, draws(position)) for position in range(6000)]
    places, counts = np.unique(boxes, axis=0, return_counts=True)
    assert places.tolist() == [[top, left, 2, 3] for top in range(3) for left in range(4)]
    assert (abs(counts - 500) < 110).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [((100, 1000), (0, 433, 100, 133)), ((1000, 90), (440, 0, 120, 90)), ((100, 100), (0, 0, 100, 100))],
    ids=str,
)
def test_where_no_part_fits_it_is_the_middle(size: tuple[int, int], box: tuple[int, ...]) -> None:
    """All of the area with another ratio does not fit; for the square, no ratio but 1 would."""
    assert RandomResizedCrop(224, scale=(1, 1)).box(*size, draws()) == box


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "usual"), [(8, cv2.INTER_AREA), (16, cv2.INTER_AREA), ((30, 20), cv2.INTER_LINEAR), (60, cv2.INTER_LINEAR)]
)
def test_a_random_crop_is_its_part_scaled_by_opencv(size: int | tuple[int, int], usual: int, dtype: str) -> None:
    image, crop = picture(dtype=dtype), RandomResizedCrop(size)
    found = set()
    for position in range(40):
        top, left, tall, wide = crop.box(40, 50, draws(position))
        factors = tall / crop.shape[0], wide / crop.shape[1]
        interpolation = cv2.INTER_AREA if max(factors) > 1.5 else cv2.INTER_LINEAR
        part = image[top : top + tall, left : left + wide]
        if 1.5 < max(factors) <= 2.5:
            part = by_hand(part, (2 * crop.shape[0], 2 * crop.shape[1]), cv2.INTER_LINEAR)
        elif interpolation == cv2.INTER_AREA and min(factors) < 1:
            continue  # two steps of another kind, as in a Resize
        assert np.array_equal(crop(image, draws(position)), by_hand(part, crop.shape, interpolation))
        found.add(interpolation)
    assert usual in found


# Chains


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_key_and_position_alone_decide(transform: Transform) -> None:
    image, chain = picture(), compose([transform, RandomResizedCrop(9), Flip()])
    for position in range(9):
        once = chain(image, draws(position))
        for _ in range(3):
            chain(picture(33, 44), draws(position + 5))
            assert np.array_equal(chain(image, draws(position)), once)
    results = {chain(image, Draws(key, position)).tobytes() for key in range(5) for position in range(5)}
    assert len(results) == 25


def test_a_crop_and_a_flip_need_no_array_but_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    target = shard_reader.transforms.resize.target_for
    monkeypatch.setattr(
        shard_reader.transforms.resize, "target_for", lambda *given: made.append(target(*given)) or made[-1]
    )
    out = np.empty((36, 36, 3), np.uint8)
    chain = compose([RandomResizedCrop(36), Flip(1)])
    assert chain(picture(), draws(), out) is out
    assert [one is out for one in made] == [True, True]
    assert np.array_equal(out, chain(picture(), draws()))


def double(image: NDArray[Any]) -> NDArray[Any]:
    return image * 2


def as_floats(image: NDArray[Any]) -> NDArray[Any]:
    return image.astype(np.float32) / 255


def channels_first(image: NDArray[Any]) -> NDArray[Any]:
    return image.transpose(2, 0, 1)


@dataclass(frozen=True)
class Noise(Transform):
    strength: float = 2.0
    in_place = True

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        noise = draws.generator().normal(0, self.strength, image.shape)
        return np.clip(image + noise, 0, 255, out=out, casting="unsafe") if out is not None else self._new(image, noise)

    def _new(self, image: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        return np.clip(image + noise, 0, 255).astype(image.dtype)


class Shift(Transform):
    """No dataclass, not in place: it would read what it has written."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, image: NDArray[Any], draws: Draws, out: NDArray[Any] | None = None) -> NDArray[Any]:
        assert out is None or not np.shares_memory(image, out)
        return np.roll(image, draws.integer(self.most), 1)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [Flip()],
        [Noise()],
        [Flip(), Noise(), Flip()],
        [RandomResizedCrop((40, 50)), Noise(), Flip()],
        [RandomResizedCrop((40, 50)), Shift(9), Flip()],
        [Resize(60), RandomResizedCrop((40, 50)), Shift(9)],
        [Resize((40, 50)), Resize((40, 50), "bicubic")],
        [Resize((40, 50)), CenterCrop(30), Resize((40, 50))],
        [Resize((40, 50)), np.fliplr, Resize((40, 50))],
        [Resize((40, 50)), double, Flip()],
        [Flip(), lambda image: image[:, ::-1]],
        [as_floats],
        [RandomResizedCrop(20), as_floats, Flip(), Noise(0.1)],
        [CenterCrop(20), channels_first],
    ],
    ids=lambda steps: repr(compose(steps)),
)
def test_a_chain_is_its_steps_one_after_the_other(steps: list[Any]) -> None:
    chain = compose(steps)
    for position in range(6):
        image = expected = picture()
        one = draws(position)
        for step in steps:
            expected = step(expected.copy(), one) if isinstance(step, Transform) else step(expected.copy())
        assert np.array_equal(chain(image, draws(position)), expected)
        out = np.full_like(expected, 7)
        assert chain(image, draws(position), out) is out
        assert np.array_equal(out, expected)
        assert np.array_equal(image, picture())


@pytest.mark.parametrize(
    ("transforms", "shape", "expected"),
    [
        (None, (None, 50, 3), (None, 50, 3)),
        (Flip(), (None, None, 3), (None, None, 3)),
        (Resize((2, 3)), (None, None, 3), (2, 3, 3)),
        ([Flip(), Noise(), CenterCrop(9)], (40, 50, None), (9, 9, None)),
        ([RandomResizedCrop(9), double], (40, 50, 3), None),
        ([double, RandomResizedCrop(9)], (40, 50, 3), None),
        (Shift(3), (40, 50, 3), None),
    ],
    ids=named,
)
def test_the_shape_of_a_chain(transforms: Any, shape: Any, expected: Any) -> None:
    assert compose(transforms).output_shape(shape) == expected


def test_no_transform_leaves_the_image_as_it_is() -> None:
    image = picture()
    assert compose(None)(image) is image
    assert compose(())(image) is image
    assert compose(None)(image, None, image) is image


@pytest.mark.parametrize(
    ("transforms", "is_random"),
    [(None, False), (CenterCrop(3), False), ([Resize(3), double], False), ([Resize(3), Flip()], True), (Noise(), True)],
    ids=named,
)
def test_what_is_random_needs_draws(transforms: Any, is_random: bool) -> None:
    chain = compose(transforms)
    assert chain.is_random == is_random
    if is_random:
        with pytest.raises(TypeError, match=r"draws=None: \[.*\] needs the draws of a record"):
            chain(picture())
    else:
        assert np.array_equal(chain(picture()), chain(picture(), draws()))


class Callable2:
    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        return image

    def method(self, image: NDArray[Any]) -> NDArray[Any]:
        return image


@pytest.mark.parametrize(
    ("transforms", "text"),
    [
        (None, "[]"),
        (CenterCrop(224), "[CenterCrop(size=224)]"),
        (Resize((2, 3)), "[Resize(size=(2, 3), filter='area', exact=False)]"),
        (
            [RandomResizedCrop(224, scale=[1 / 2, 1], ratio=(1, 2)), Flip(1)],
            "[RandomResizedCrop(size=224, scale=(0.5, 1.0), ratio=(1.0, 2.0), exact=False), Flip(probability=1.0)]",
        ),
        (Noise(3), "[Noise(strength=3)]"),
        (Shift(3), "[test_transforms.Shift(most=3)]"),
        ((double, np.fliplr), "[test_transforms.double, numpy.fliplr]"),
        (functools.partial(np.rot90, k=2), "[partial(numpy.rot90, k=2)]"),
        (Callable2(), "[test_transforms.Callable2]"),
        (Callable2().method, "[test_transforms.Callable2.method]"),
    ],
    ids=named,
)
def test_a_chain_shows_all_that_it_is(transforms: Any, text: str) -> None:
    assert repr(compose(transforms)).replace("tests.test_transforms", "test_transforms") == text
    assert repr(pickle.loads(pickle.dumps(compose(transforms)))) == repr(compose(transforms))


def test_what_was_pickled_does_the_same() -> None:
    chain = compose([RandomResizedCrop((40, 50)), Flip(), Noise(), Shift(9), as_floats])
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        other = pickle.loads(pickle.dumps(chain, protocol))
        assert isinstance(other, ComposedTransform)
        assert np.array_equal(other(picture(), draws()), chain(picture(), draws()))
    for transform in EVERY:
        assert pickle.loads(pickle.dumps(transform)) == transform == copy.deepcopy(transform)


def test_a_chain_of_a_chain_is_that_chain() -> None:
    chain = compose([Resize(3), Flip()])
    assert compose(chain) is chain


# What is refused

CROP = RandomResizedCrop


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Resize("9"), TypeError, r"size='9': must be an integer, or \(height, width\)"),
        (lambda: Resize((9, 0)), ValueError, r"size=\(9, 0\): must be at least 1 pixel"),
        (lambda: Resize(9, "box"), ValueError, "filter='box': must be one of area, bilinear, bicubic, nearest"),
        (lambda: CROP((1, 2, 3)), TypeError, r"size=\(1, 2, 3\): must be an integer"),
        (lambda: CROP(0), ValueError, "size=0: must be at least 1 pixel"),
        (lambda: CROP(9, scale=0.5), TypeError, "scale=0.5: must be two numbers, the least and the greatest"),
        (lambda: CROP(9, scale=("a", 1)), TypeError, r"scale=\('a', 1\): must be a number"),
        (lambda: CROP(9, scale=(0, 1)), ValueError, r"scale=\(0, 1\): must be above 0 and at most 1"),
        (lambda: CROP(9, scale=(0.5, 1.5)), ValueError, r"scale=\(0.5, 1.5\): must be above 0 and at most 1"),
        (lambda: CROP(9, scale=(math.nan, 1)), ValueError, r"scale=\(nan, 1\): must be above 0"),
        (lambda: CROP(9, scale=(0.5, math.nan)), ValueError, r"scale=\(0.5, nan\): must be above 0"),
        (lambda: CROP(9, ratio=(2, 1)), ValueError, r"ratio=\(2, 1\): the least comes first, \(1.0, 2.0\)"),
        (lambda: CROP(9, ratio=(1, math.inf)), ValueError, r"ratio=\(1, inf\): must be above 0 and finite"),
        (lambda: Flip(1.5), ValueError, "probability=1.5: must be from 0 to 1"),
        (lambda: Flip(math.nan), ValueError, "probability=nan: must be from 0 to 1"),
        (lambda: Flip("often"), TypeError, "probability='often': must be a number"),
        (lambda: compose(224), TypeError, r"image=224: expected a transform, as CenterCrop\(224\), a function"),
        (lambda: compose([Flip(), "flip"]), TypeError, "image='flip': expected a transform"),
        (lambda: compose(Flip), TypeError, r"image=Flip: is a class, pass an instance: Flip\(...\)"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("transforms", "image", "message"),
    [
        (Resize(9), picture().astype(np.int64), "has pixels of int64, which cannot be resized: make them uint8 or"),
        (Resize(9), picture()[:, :, 0], r"has the shape \(40, 50\) and cannot .*: give \(height, width, channels\)"),
        (Resize(9), picture()[:0], r"has the shape \(0, 50, 3\) and cannot be resized"),
        (
            Resize(9, filter="bilinear"),
            np.empty((9, 9, 9999), np.uint8),
            r"of \(9, 9, 9999\) uint8: OpenCV cannot resize it: ",
        ),
        ([Resize(9), channels_first], picture(), r"gives \(3, 9, 9\) uint8, the first image gave \(9, 9, 3\) uint8: "),
        ([Resize(9), as_floats], picture(), r"gives \(9, 9, 3\) float32, the first image gave \(9, 9, 3\) uint8: "),
        (CenterCrop(8), picture(), r"gives \(8, 8, 3\) uint8, the first image gave \(9, 9, 3\) uint8: transforms must"),
        (np.ndarray.tolist, picture(), "becomes list: transforms must give an array of NumPy"),
    ],
)
def test_what_cannot_be_done_with_an_image_is_said(transforms: Any, image: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose(transforms)(image, None, np.empty((9, 9, 3), np.uint8))


def test_a_transform_says_how_it_is_called() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Transform()  # type: ignore[abstract]


def test_opencv_is_loaded_with_the_first_image() -> None:
    code = (
        "import sys, numpy; from shard_reader import *; from shard_reader.transforms.compose import compose;"
        " chain = compose([RandomResizedCrop(4), Flip(), Resize(5)]); chain.output_shape((9, 9, 3));"
        " assert 'cv2' not in sys.modules;"
        " chain(numpy.ones((9, 9, 3)), Draws(0, 0)); assert 'cv2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_opencv_keeps_its_threads() -> None:
    before = cv2.getNumThreads()
    Resize(400)(picture())
    assert cv2.getNumThreads() == before


def test_the_examples_of_the_documentation() -> None:
    found = [
        doctest.testmod(module)
        for module in (shard_reader.transforms.standard, shard_reader.transforms.compose, shard_reader.transforms.draws)
    ]
    assert sum(one.attempted for one in found) >= 5
    assert sum(one.failed for one in found) == 0
