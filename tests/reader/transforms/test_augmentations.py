"""Augmentations: shapes and dtypes, `out`, draws, refused images and refused parameters."""

from __future__ import annotations

import copy
import doctest
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shard_reader import Draws, Flip, RandomResizedCrop, Transform
from shard_reader.transforms import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomGrayscale,
    RandomRotation,
    TrivialAugment,
    TrivialAugmentWide,
)
from shard_reader.transforms.augmentations import auto_augment, filters, geometric, jitter
from shard_reader.transforms.compose import compose

DTYPES = ["uint8", "uint16", "float16", "float32"]
JITTER = ColorJitter(0.4, 0.4, 0.4, 0.1)
COLOURS: list[Transform] = [JITTER, RandomGrayscale(0.5), RandAugment(4, 12), TrivialAugmentWide()]
ANY: list[Transform] = [
    GaussianBlur(5),
    RandomErasing(1.0),
    RandomErasing(0.5, value="random"),
    RandomRotation(30, "bilinear"),
    RandomRotation((40, 50), expand=True),
    RandomAffine(10, (0.1, 0.2), (0.8, 1.2), (-9, 9, -5, 5), fill=1),
]


def picture(channels: int = 3, dtype: str = "uint8", height: int = 40, width: int = 50) -> NDArray[Any]:
    """Smooth, with some noise, different for every pixel and channel; floats are from 0 to 1."""
    rows, columns, planes = np.mgrid[:height, :width, :channels]
    values = 0.5 + 0.4 * np.sin(rows / 5 + planes) * np.cos(columns / 7)
    values += np.random.default_rng(0).uniform(-0.1, 0.1, values.shape)
    most = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (values.clip(0, 1) * most).astype(dtype)


def cases() -> list[Any]:
    """Each augmentation with each number of channels that it takes."""
    found = [(one, channels) for one in COLOURS for channels in (1, 3)]
    found += [(one, channels) for one in ANY for channels in (1, 3, 4)]
    return [pytest.param(*one, id=f"{type(one[0]).__name__}-{number}") for number, one in enumerate(found)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("transform", "channels"), cases())
def test_out_and_the_layout_of_the_image_change_nothing(transform: Transform, channels: int, dtype: str) -> None:
    image = picture(channels, dtype)
    rows = np.zeros((44, 60, channels), dtype)
    rows[2:42, 5:55] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    layouts = {
        "a part of the rows": rows[2:42, 5:55],
        "upside down": np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1],
        "read-only": frozen,
        "another byte order": image.astype(image.dtype.newbyteorder("S")),
    }
    for position in range(6):
        expected = transform(image, Draws(1, position)).copy()
        assert expected.dtype == image.dtype and expected.shape[2] == channels
        shape = transform.output_shape(image.shape)
        assert shape is None or all(a in (None, b) for a, b in zip(shape, expected.shape, strict=True))
        for name, layout in {"plain": image, **layouts}.items():
            assert np.array_equal(transform(layout, Draws(1, position)), expected), name
            out = np.empty_like(expected)
            assert compose(transform)(layout, Draws(1, position), out) is out
            assert np.array_equal(out, expected), name
        if transform.in_place:
            own = image.copy()
            assert transform(own, Draws(1, position), own) is own and np.array_equal(own, expected)
    assert np.array_equal(image, picture(channels, dtype))


@pytest.mark.parametrize("transform", [*COLOURS, *ANY], ids=lambda one: type(one).__name__)
def test_a_call_and_its_moves_use_the_same_draws(transform: Transform) -> None:
    for position in range(40):
        called, moved = Draws(3, position), Draws(3, position)
        result = transform(picture(), called)
        found = transform.move(40, 50, moved)
        moves = found if isinstance(found, list) else [found]
        assert called.uniform() == moved.uniform()
        assert result.shape[:2] == ((moves[-1].height, moves[-1].width) if moves else (40, 50))


@pytest.mark.parametrize("transform", [*COLOURS, *ANY, Grayscale(3)], ids=lambda one: type(one).__name__)
def test_a_copy_by_pickle_is_the_same(transform: Transform) -> None:
    copied = pickle.loads(pickle.dumps(transform))
    assert copied == transform and repr(copied) == repr(transform)
    assert np.array_equal(copied(picture(), Draws(1, 1)), transform(picture(), Draws(1, 1)))
    assert eval(repr(transform)) == transform
    assert not transform.keeps_image


def test_colours_keep_places_and_geometry_does_not() -> None:
    kept = [*COLOURS[:2], Grayscale(), *ANY[:3]]
    assert all(one.keeps_places for one in kept)
    assert not any(one.keeps_places for one in (*COLOURS[2:], *ANY[3:]))
    assert compose([RandomResizedCrop(9), *COLOURS, *ANY]).output_shape((None, None, 3)) == (None, None, 3)
    assert compose([RandomResizedCrop(9), *COLOURS]).output_shape((None, None, 3)) == (9, 9, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_grayscale_changes_the_channels(dtype: str, channels: int) -> None:
    image = picture(channels, dtype)
    one, three = Grayscale()(image), Grayscale(3)(image)
    assert one.shape == (40, 50, 1) and one.dtype == dtype
    assert np.array_equal(three, one.repeat(3, axis=2))
    assert Grayscale().output_shape(image.shape) == one.shape
    if channels == 1:
        assert np.array_equal(one, image)
    out = np.empty_like(one)
    assert compose(Grayscale())(image, None, out) is out and np.array_equal(out, one)


def test_a_grey_image_keeps_its_saturation_and_its_hue() -> None:
    image = picture(1)
    assert np.array_equal(ColorJitter(saturation=(0, 2), hue=0.5)(image, Draws(1, 1)), image)
    assert not np.array_equal(ColorJitter(0.5)(image, Draws(1, 1)), image)


def test_nothing_is_done_without_a_strength() -> None:
    image = picture()
    for transform in (ColorJitter(), ColorJitter(0, (1, 1), 0.0), RandAugment(0), RandomAffine(0), RandomRotation(0)):
        assert transform(image, Draws(1, 1)) is image
    assert np.array_equal(ColorJitter((1, 1.0000001))(image, Draws(1, 1)), image)
    assert ColorJitter().parameters(9, 9, Draws(1, 1)).factors == (None,) * 4


def test_erased_pixels_have_the_value_and_the_others_stay() -> None:
    image = picture()
    for value in (7, (1, 2, 3)):
        transform = RandomErasing(1.0, value=value)
        found = transform(image, Draws(1, 4))
        erased = transform.parameters(40, 50, Draws(1, 4))
        assert erased is not None
        expected = image.copy()
        expected[erased.part.rows, erased.part.columns] = value
        assert np.array_equal(found, expected) and not np.array_equal(found, image)
    assert RandomErasing(0.0)(image, Draws(1, 4)) is image


def test_random_values_are_uniform_in_integers_and_normal_in_floats() -> None:
    transform = RandomErasing(1.0, (0.9, 0.95), (1, 1), "random")
    part = transform.parameters(300, 300, Draws(1, 0)).part  # type: ignore[union-attr]
    pixels = transform(np.zeros((300, 300, 3), np.uint8), Draws(1, 0))[part.rows, part.columns]
    counts = np.bincount(pixels.ravel(), minlength=256)
    assert abs(counts / counts.mean() - 1).max() < 0.25
    floats = transform(np.zeros((300, 300, 3), np.float32), Draws(1, 0))[part.rows, part.columns]
    assert abs(floats.mean()) < 0.02 and abs(floats.std() - 1) < 0.02
    again = transform(np.zeros((300, 300, 3), np.float32), Draws(1, 0))[part.rows, part.columns]
    assert np.array_equal(floats, again)


def test_masks_follow_what_comes_after_colours() -> None:
    """Each of them draws in `move` as many numbers as in a call."""
    chain = compose([*COLOURS[:2], RandomErasing(), GaussianBlur(3), Flip(), RandAugment(), RandomRotation(40), Flip()])
    chain.check_moves("mask")
    for position in range(20):
        called, moved = Draws(1, position), Draws(1, position)
        chain(picture(), called)
        chain.by_nearest(keeps_values=True)(picture(1), moved)
        assert called.uniform() == moved.uniform()


def test_trivial_augment_has_both_names() -> None:
    assert TrivialAugment is TrivialAugmentWide and "TrivialAugment:" in (TrivialAugmentWide.__doc__ or "")


def test_numbers_of_numpy_become_python_s() -> None:
    assert repr(RandomErasing(np.float32(0.5), value=np.int64(3))) == repr(RandomErasing(0.5, value=3))
    assert repr(RandAugment(np.int64(2))) == repr(RandAugment(2))


class Mode:
    """As `InterpolationMode.BILINEAR`, which has the name as its value."""

    value = "bilinear"


def test_an_interpolation_mode_of_torchvision_is_taken() -> None:
    assert RandomAffine(0, interpolation=Mode()).interpolation == "bilinear"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ColorJitter(-0.1), ValueError, "brightness=-0.1: must be 0 or above"),
        (lambda: ColorJitter(contrast=(1, 0.5)), ValueError, r"contrast=\(1, 0.5\): the least comes first, \(0.5, 1"),
        (lambda: ColorJitter(saturation=(-1, 1)), ValueError, r"saturation=\(-1, 1\): must be 0 or above, or a number"),
        (lambda: ColorJitter(hue=0.6), ValueError, "hue=0.6: must be from 0 to 0.5"),
        (lambda: ColorJitter(hue=(-0.6, 0)), ValueError, r"hue=\(-0.6, 0\): must be from -0.5 to 0.5"),
        (lambda: ColorJitter("a"), TypeError, "brightness='a': must be a number"),
        (lambda: ColorJitter((1, 2, 3)), TypeError, r"brightness=\(1, 2, 3\): must be two numbers, the least and the"),
        (lambda: ColorJitter(float("nan")), ValueError, "brightness=nan: must be finite"),
        (lambda: Grayscale(2), ValueError, "num_output_channels=2: must be 1 or 3"),
        (lambda: Grayscale(4), ValueError, "num_output_channels=4: must be 1 to 3"),
        (lambda: Grayscale("1"), TypeError, "num_output_channels='1': must be an integer"),
        (lambda: RandomGrayscale(1.5), ValueError, "p=1.5: must be from 0 to 1"),
        (lambda: GaussianBlur(4), ValueError, "kernel_size=4: must be odd"),
        (lambda: GaussianBlur((3, 0)), ValueError, "kernel_size=0: must be 1 to 4095"),
        (lambda: GaussianBlur((3, 3, 3)), TypeError, r"kernel_size=\(3, 3, 3\): must be an odd integer, or \(width"),
        (lambda: GaussianBlur(3, 0), ValueError, r"sigma=\(0, 0\): must be above 0"),
        (lambda: GaussianBlur(3, (2, 1)), ValueError, r"sigma=\(2, 1\): the least comes first"),
        (lambda: RandomErasing(2), ValueError, "p=2: must be from 0 to 1"),
        (lambda: RandomErasing(scale=(0.5, 1.5)), ValueError, r"scale=\(0.5, 1.5\): must be from 0 to 1"),
        (lambda: RandomErasing(scale=0.5), TypeError, "scale=0.5: must be two numbers"),
        (lambda: RandomErasing(ratio=(0, 1)), ValueError, r"ratio=\(0, 1\): must be above 0"),
        (lambda: RandomErasing(value="noise"), ValueError, "value='noise': must be a number, one for each channel, or"),
        (lambda: RandomRotation(-1), ValueError, "degrees=-1: a single number is the greatest in both directions"),
        (lambda: RandomRotation((1, 2, 3)), TypeError, r"degrees=\(1, 2, 3\): must be a number, or 2 numbers"),
        (lambda: RandomRotation((9, 1)), ValueError, r"degrees=\(9, 1\): the least comes before the greatest"),
        (lambda: RandomRotation(9, "bicubic"), ValueError, "interpolation='bicubic': must be one of nearest, bilinear"),
        (lambda: RandomRotation(9, center=3), TypeError, "center=3: must be x and y of a point, in pixels"),
        (lambda: RandomRotation(9, fill="red"), TypeError, "fill='red': must be a number"),
        (lambda: RandomRotation(9, mask_fill=None), TypeError, "mask_fill=None: must be a number"),
        (lambda: RandomAffine(0, (2, 0)), ValueError, r"translate=\(2, 0\): must be from 0 to 1"),
        (lambda: RandomAffine(0, scale=(0, 1)), ValueError, r"scale=\(0, 1\): must be above 0"),
        (lambda: RandomAffine(0, shear=90), ValueError, "shear=90: must be between -90 and 90 degrees"),
        (lambda: RandomAffine(0, shear=(1, 2, 3)), TypeError, r"shear=\(1, 2, 3\): must be a number, or 2 or 4"),
        (lambda: RandAugment(-1), ValueError, "num_ops=-1: must be 0 or above"),
        (lambda: RandAugment(2, 31), ValueError, "magnitude=31: must be 0 to 30"),
        (lambda: RandAugment(2, 0.5), TypeError, "magnitude=0.5: must be an integer"),
        (lambda: RandAugment(num_magnitude_bins=1), ValueError, "num_magnitude_bins=1: must be 2 or above"),
        (lambda: TrivialAugmentWide(1), ValueError, "num_magnitude_bins=1: must be 2 or above"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("transform", "image", "message"),
    [
        (JITTER, picture(4), "has 4 channels: ColorJitter takes 1 or 3 channels, as in torchvision"),
        (JITTER, picture()[..., 0], r"has the shape \(40, 50\): ColorJitter takes 1 or 3"),
        (JITTER, picture().astype(np.int32), "has pixels of int32: ColorJitter takes uint8, uint16, float16 and"),
        (
            RandAugment(),
            picture().astype(np.float32),
            r"has floats from 1 to 253: RandAugment takes floats from 0 to 1, .* or --normalize unit",
        ),
        (Grayscale(), picture(2), "has 2 channels: Grayscale takes 1 or 3"),
        (RandomErasing(1.0, value=300), picture(), "has pixels of uint8, from 0 to 255, and not of 300.0, its fill"),
        (RandomErasing(1.0, value=(1, 2)), picture(), r"has 3 channels, and \(1.0, 2.0\), its fill, has 2: give"),
        (RandomRotation((9, 9), fill=-1), picture(), "has pixels of uint8, from 0 to 255, and not of -1.0, its fill"),
        (RandomRotation((9, 9), "bilinear"), picture().astype(np.int64), "has pixels of int64, whose values are not"),
        (RandomRotation((9, 9), "bilinear"), picture(5), "has 5 channels: interpolation='bilinear' takes up to 4"),
        (GaussianBlur(3), picture().astype(np.int64), "has pixels of int64: GaussianBlur takes uint8, uint16, int16"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Transform) else None,
)  # fmt: skip
def test_what_cannot_be_done_with_an_image_is_said(transform: Transform, image: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(image, next(d for d in map(Draws, [1] * 99, range(99)) if copy.copy(d).uniform() < 0.9))


def test_images_of_one_pixel_and_of_narrow_sides_are_taken() -> None:
    for size in ((1, 1), (1, 30), (30, 1), (2, 2)):
        for transform in (*COLOURS, *ANY):
            for position in range(20):
                image = picture(3, "uint8", *size)
                found = transform(image, Draws(1, position))
                assert transform is ANY[4] or found.shape == image.shape


def test_opencv_is_loaded_with_the_first_image() -> None:
    code = (
        "import sys, numpy; from shard_reader.transforms import *; from shard_reader import Draws;"
        " a = [ColorJitter(0.4), RandAugment(), RandomAffine(9), GaussianBlur(3), RandomErasing()];"
        " assert 'cv2' not in sys.modules; a[3](numpy.ones((9, 9, 3), 'uint8'), Draws(0, 0));"
        " assert 'cv2' in sys.modules"
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_examples_of_the_documentation() -> None:
    found = [doctest.testmod(module) for module in (auto_augment, filters, geometric, jitter)]
    assert sum(one.attempted for one in found) >= 6
    assert sum(one.failed for one in found) == 0
