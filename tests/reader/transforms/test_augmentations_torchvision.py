"""Augmentations beside those of torchvision: the same pixels for the same parameters, and the same parameters."""

# The bounds for uint8 are in levels. 0: a table in torchvision's own arithmetic. 1: one rounding where torchvision has
# two, or OpenCV's fixed point.

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shard_reader import Draws
from shard_reader.transforms import (
    ColorJitter,
    GaussianBlur,
    RandAugment,
    RandomAffine,
    RandomErasing,
    RandomRotation,
    TrivialAugmentWide,
)
from shard_reader.transforms.augmentations import auto_augment, colours, levels
from shard_reader.transforms.augmentations.filters import adjust_sharpness
from shard_reader.transforms.augmentations.geometric import AffineParameters
from shard_reader.transforms.augmentations.jitter import JitterParameters

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")
F = v2.functional
BILINEAR = v2.InterpolationMode.BILINEAR
# OpenCV 4 rounds bilinear places to 1/32 pixel, which the noise of these pictures shows.
MIXED_LEVELS, MIXED_FLOATS = (1, 1e-3) if int(cv2.__version__.partition(".")[0]) >= 5 else (8, 0.03)


def smooth(height: int = 62, width: int = 74, channels: int = 3) -> NDArray[np.uint8]:
    """Waves of different colours, with some noise: black and white are in it."""
    rows, columns, planes = np.mgrid[:height, :width, :channels]
    values = 128 + 150 * np.sin(rows / 9 + 2 * planes) * np.cos(columns / 11 - planes)
    values += np.random.default_rng(0).uniform(-12, 12, values.shape)
    return values.clip(0, 255).astype(np.uint8)


def pictures() -> dict[str, NDArray[np.uint8]]:
    """Waves, noise, and images of few colours."""
    noise = np.random.default_rng(1).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    plain = np.full((9, 12, 3), (200, 100, 0), np.uint8)
    return {
        "waves": smooth(),
        "noise": noise,
        "plain": plain,
        "black": plain * 0,
        "two": (noise[:, :, :1] // 128).repeat(3, 2),
    }


def tensor(image: NDArray[Any]) -> Any:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def array(image: Any) -> NDArray[Any]:
    found: NDArray[Any] = image.numpy().transpose(1, 2, 0)
    return found


def furthest(found: NDArray[Any], expected: NDArray[Any]) -> float:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())


def bound(image: Any) -> float:
    return 255.0 if image.dtype == torch.uint8 else 1.0


# Changes of colours: ours, torchvision's, the strengths, and the bound for uint8

CHANGES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[float, ...], float]] = {
    "brightness": (levels.adjust_brightness, F.adjust_brightness, (0.0, 0.3, 1.0, 1.37, 2.0), 0),
    "contrast": (colours.adjust_contrast, F.adjust_contrast, (0.0, 0.3, 1.0, 1.37, 2.0), 1),
    "saturation": (colours.adjust_saturation, F.adjust_saturation, (0.0, 0.3, 1.0, 1.37, 2.0), 1),
    "hue": (colours.adjust_hue, F.adjust_hue, (-0.5, -0.21, 0.0, 0.1, 0.5), 1),
    "sharpness": (adjust_sharpness, F.adjust_sharpness, (0.0, 0.3, 1.0, 1.37, 2.0), 1),
    "posterize": (levels.posterize, F.posterize, (0, 1, 4, 7, 8), 0),
    "solarize": (levels.solarize, lambda one, share: F.solarize(one, share * bound(one)), (0.0, 0.3, 0.5, 1.0), 0),
    "autocontrast": (lambda one, _, out: levels.autocontrast(one, out), lambda one, _: F.autocontrast(one), (0,), 0),
    "equalize": (lambda one, _, out: levels.equalize(one, out), lambda one, _: F.equalize(one), (0,), 0),
    "grayscale": (lambda one, _, out: colours.grey(one, 3, out), lambda one, _: F.rgb_to_grayscale(one, 3), (0,), 1),
    "blur": (
        lambda one, sigma, out: GaussianBlur((7, 5)).apply(one, sigma, out),
        lambda one, sigma: F.gaussian_blur(one, [7, 5], [sigma, sigma]),
        (0.1, 1.0, 2.0),
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("picture", pictures())
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_uint8_is_that_of_torchvision(change: str, picture: str) -> None:
    ours, theirs, strengths, most = CHANGES[change]
    image = pictures()[picture]
    for strength in strengths:
        expected = array(theirs(tensor(image), strength))
        assert furthest(ours(image, strength, None), expected) <= most, strength


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_floats_is_that_of_torchvision(change: str) -> None:
    ours, theirs, strengths, _ = CHANGES[change]
    image = smooth().astype(np.float32) / 255
    for strength in strengths:
        assert furthest(ours(image, strength, None), array(theirs(tensor(image), strength))) < 2e-5, strength


@pytest.mark.parametrize("change", [one for one in CHANGES if one not in ("posterize", "equalize")])
def test_a_change_of_uint16_and_of_float16_is_that_of_floats(change: str) -> None:
    """torchvision itself has no arithmetic for uint16."""
    ours, theirs, strengths, _ = CHANGES[change]
    wide = smooth().astype(np.uint16) * 257
    half = (wide / 65535).astype(np.float16)
    for strength in strengths:
        expected = array(theirs(tensor((wide / 65535).astype(np.float32)), strength))
        assert np.abs(ours(wide, strength, None) / 65535 - expected).max() < 3 / 65535, strength
        assert np.abs(ours(half, strength, None).astype(np.float64) - expected).max() < 0.004, strength


def test_uint16_is_posterized_by_its_bits_and_equalized_in_256_levels() -> None:
    image = smooth()
    wide = image.astype(np.uint16) * 257
    assert np.array_equal(levels.posterize(wide, 3, None), wide & 0xE000)
    assert np.array_equal(levels.equalize(wide, None), array(F.equalize(tensor(image))).astype(np.uint16) * 256)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_change_as_those_of_torchvision(channels: int) -> None:
    image = smooth(channels=channels)
    for change, (ours, theirs, strengths, most) in CHANGES.items():
        for strength in strengths:
            assert channels == 3 or change != "grayscale" or ours(image, strength, None).shape[2] == 3
            assert furthest(ours(image, strength, None), array(theirs(tensor(image), strength))) <= most, change


@pytest.mark.parametrize("seed", range(6))
def test_color_jitter_is_that_of_torchvision_given_the_same_draws(seed: int) -> None:
    jitter, theirs = ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    for image in pictures().values():
        for position in range(4):
            found = jitter.parameters(*image.shape[:2], Draws(seed, position))
            expected = array(theirs.transform(tensor(image), as_theirs(found)))
            # Four changes, of which three may be off by a level, which the ones after it make up to 1.4 of.
            assert furthest(jitter.apply(image, found), expected) <= 6
            assert np.abs(jitter.apply(image, found).astype(int) - expected).mean() < 1


def as_theirs(found: JitterParameters) -> dict[str, Any]:
    names = [f"{name}_factor" for name in ("brightness", "contrast", "saturation", "hue")]
    return {"fn_idx": torch.tensor(found.order), **dict(zip(names, found.factors, strict=True))}


@pytest.mark.slow
def test_photos_change_as_those_of_torchvision(photos: Path) -> None:
    jitter, theirs = ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))[::10]):
        image = np.asarray(Image.open(path).convert("RGB"))[::2, ::2].copy()
        for change, (ours, other, strengths, most) in CHANGES.items():
            strength = strengths[number % len(strengths)]
            assert furthest(ours(image, strength, None), array(other(tensor(image), strength))) <= most, (change, path)
        found = jitter.parameters(*image.shape[:2], Draws(1, number))
        expected = array(theirs.transform(tensor(image), as_theirs(found)))
        assert np.abs(jitter.apply(image, found).astype(int) - expected).mean() < 1


# Geometry

AFFINES = [
    AffineParameters(0.0, (7, -5)),
    AffineParameters(33.0),
    AffineParameters(-120.0, (3, 4), 1.3),
    AffineParameters(0.0, (0, 0), 0.6),
    AffineParameters(0.0, shear=(20.0, 0.0)),
    AffineParameters(10.0, (-9, 2), 0.8, (-15.0, 25.0)),
    AffineParameters(180.0),
    AffineParameters(90.0),
]


def mismatches(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The share of pixels that differ at all: places between two pixels may be rounded to either."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float((found != expected).any(axis=2).mean())


@pytest.mark.parametrize("center", [None, (10.0, 50.0)], ids=["middle", "corner"])
@pytest.mark.parametrize("parameters", AFFINES, ids=str)
def test_an_affine_image_is_that_of_torchvision(
    parameters: AffineParameters, center: tuple[float, float] | None
) -> None:
    for image in (smooth(), smooth(50, 50), smooth(70, 34, 1)):
        expected = array(F.affine(tensor(image), *parameters, center=center and list(center), fill=[9.0]))
        transform = RandomAffine(0, center=center, fill=9)
        assert mismatches(transform.apply(image, parameters), expected) < 0.006
        # Where torchvision mixes pixels with the fill, it weighs the pixels twice.
        transform = RandomAffine(0, center=center, interpolation="bilinear")
        mixed = F.affine(tensor(image), *parameters, BILINEAR, None, center and list(center))
        assert furthest(transform.apply(image, parameters), array(mixed)) <= MIXED_LEVELS
        floats = image.astype(np.float32) / 255
        mixed = F.affine(tensor(floats), *parameters, BILINEAR, None, center and list(center))
        assert furthest(transform.apply(floats, parameters), array(mixed)) < MIXED_FLOATS


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("angle", [0.0, 13.0, -45.0, 90.0, 180.0, 270.0, 300.0])
def test_a_rotated_image_is_that_of_torchvision(angle: float, expand: bool) -> None:
    for image in (smooth(), smooth(50, 50), smooth(70, 34, 1)):
        expected = array(F.rotate(tensor(image), angle, expand=expand, fill=[9.0]))
        assert mismatches(RandomRotation(0, expand=expand, fill=9).apply(image, angle), expected) < 0.006
        mixed = array(F.rotate(tensor(image), angle, BILINEAR, expand))
        assert furthest(RandomRotation(0, "bilinear", expand).apply(image, angle), mixed) <= MIXED_LEVELS


@pytest.mark.parametrize("dtype", ["uint16", "float16", "float32", "int32", "int64", "bool"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_nearest_pixels_are_the_same_for_any_dtype(dtype: str, channels: int) -> None:
    numbers = np.arange(62 * 74 * channels).reshape(62, 74, channels) % 251
    transform = RandomAffine(0, fill=1)
    for parameters in AFFINES:
        expected = transform.apply(numbers.astype(np.uint8)[..., :1], parameters).astype(dtype)
        assert np.array_equal(transform.apply(numbers.astype(dtype), parameters)[..., :1], expected)


# RandAugment and TrivialAugment


@pytest.mark.parametrize(
    ("space", "theirs"),
    [(auto_augment._RAND, v2.RandAugment), (auto_augment._WIDE, v2.TrivialAugmentWide)],
    ids=["RandAugment", "TrivialAugmentWide"],
)
@pytest.mark.parametrize("bins", [2, 5, 10, 31])
def test_the_strengths_are_those_of_torchvision(space: Any, theirs: Any, bins: int) -> None:
    assert tuple(theirs._AUGMENTATION_SPACE) == auto_augment._NAMES
    for (name, (function, signed)), (height, width) in itertools.product(
        theirs._AUGMENTATION_SPACE.items(), [(224, 224), (331, 32), (97, 1000)]
    ):
        expected = function(bins, height, width)
        assert (name in auto_augment._SIGNED) == signed
        if expected is None:
            assert name in ("Identity", *auto_augment._PLAIN)
            continue
        found = [auto_augment._magnitude(space, name, strength, bins, height, width) for strength in range(bins)]
        assert np.allclose(found, expected.numpy(), rtol=1e-6, atol=1e-7), name
        assert [int(one) for one in found] == [int(one) for one in expected], name


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", auto_augment._NAMES)
def test_each_change_is_that_of_torchvision(name: str, interpolation: str) -> None:
    ours, theirs = RandAugment(interpolation=interpolation), v2.RandAugment(interpolation=interpolation)  # type: ignore[arg-type]
    _, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
    for strength, sign in itertools.product((0, 9, 30), (1, -1) if signed else (1,)):
        has_strength = name != "Identity" and name not in auto_augment._PLAIN
        magnitude = (
            sign * auto_augment._magnitude(auto_augment._RAND, name, strength, 31, 62, 74) if has_strength else 0.0
        )
        for image in (smooth(), smooth(62, 74, 1)):
            expected = theirs._apply_image_or_video_transform(
                tensor(image), name, magnitude, theirs.interpolation, theirs._fill
            )
            found = ours.apply(image, (auto_augment.Change(name, magnitude),))
            if name in auto_augment._GEOMETRY and interpolation == "nearest":
                assert mismatches(found, array(expected)) < 0.006
            else:
                assert furthest(found, array(expected)) <= MIXED_LEVELS


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(RandAugment(3, 12), v2.RandAugment(3, 12)), (TrivialAugmentWide(), v2.TrivialAugmentWide())],
    ids=["RandAugment", "TrivialAugmentWide"],
)
def test_changes_are_chosen_as_often_as_by_torchvision(ours: Any, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[str, float]] = []

    def choose(image: Any, name: str, magnitude: float, **options: Any) -> Any:
        chosen.append((name, magnitude))
        return image

    monkeypatch.setattr(theirs, "_apply_image_or_video_transform", choose)
    torch.manual_seed(0)
    image, count = torch.zeros((3, 40, 50), dtype=torch.uint8), 3000
    for _ in range(count):
        theirs(image)
    found = [change for position in range(count) for change in ours.parameters(40, 50, Draws(2, position))]
    assert len(found) == len(chosen)
    for name in auto_augment._NAMES:
        one, other = (np.array(sorted(value for key, value in those if key == name)) for those in (found, chosen))
        assert abs(len(one) - len(other)) < 6 * math.sqrt(len(found) / 14), name
        assert abs(one.mean() - other.mean()) < 5 * (other.std() + 1e-9) * math.sqrt(2 / len(other)), name
        assert (round(float(one.min()), 4), round(float(one.max()), 4)) == (
            round(float(other.min()), 4),
            round(float(other.max()), 4),
        ), name


# Parameters


def torch_parameters(theirs: Any, height: int, width: int, count: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    image = torch.zeros((3, height, width))
    return [theirs.make_params([image]) for _ in range(count)]


def assert_same_distribution(found: list[float], expected: list[float]) -> None:
    """Kolmogorov and Smirnov's distance, which the samples of one distribution exceed once in a million times."""
    one, other = np.sort(found), np.sort(expected)
    places = np.concatenate([one, other])
    shares = (np.searchsorted(values, places, "right") / len(values) for values in (one, other))
    first, second = shares
    assert np.abs(first - second).max() < 2.7 * math.sqrt((len(one) + len(other)) / (len(one) * len(other)))


def test_color_jitter_draws_as_torchvision_s() -> None:
    jitter, count = ColorJitter(0.4, (0.5, 2), 1.5, 0.1), 3000
    theirs = torch_parameters(v2.ColorJitter(0.4, (0.5, 2), 1.5, 0.1), 40, 50, count)
    ours = [jitter.parameters(40, 50, Draws(3, position)) for position in range(count)]
    for number, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        assert_same_distribution(
            [one.factors[number] or 0.0 for one in ours], [one[f"{name}_factor"] for one in theirs]
        )
    orders = np.unique([one.order for one in ours], axis=0, return_counts=True)
    assert len(orders[0]) == 24 and (abs(orders[1] - count / 24) < 60).all()
    values = np.array([one.factors for one in ours], float)
    assert (abs(np.corrcoef(values.T) - np.eye(4)) < 0.08).all()


def test_random_affine_draws_as_torchvision_s() -> None:
    options: tuple[Any, ...] = ((-10, 40), (0.1, 0.3), (0.5, 2), (-5, 20, 3, 9))
    theirs = torch_parameters(v2.RandomAffine(*options), 400, 500, 3000)
    ours = [RandomAffine(*options).parameters(400, 500, Draws(3, position)) for position in range(3000)]
    for name in ("angle", "scale"):
        assert_same_distribution([getattr(one, name) for one in ours], [one[name] for one in theirs])
    for name, number in itertools.product(("translate", "shear"), range(2)):
        assert_same_distribution([getattr(one, name)[number] for one in ours], [one[name][number] for one in theirs])
    (plain,) = torch_parameters(v2.RandomAffine(0), 40, 50, 1)
    assert RandomAffine(0).parameters(40, 50, Draws(1, 1)) == tuple(plain.values())


def test_blur_rotation_and_erasing_draw_as_torchvision_s() -> None:
    theirs = torch_parameters(v2.GaussianBlur(5), 40, 50, 2000)
    ours = [GaussianBlur(5).parameters(40, 50, Draws(3, position)) for position in range(2000)]
    assert_same_distribution(ours, [one["sigma"][0] for one in theirs])
    theirs = torch_parameters(v2.RandomRotation((-5, 60)), 40, 50, 2000)
    ours = [RandomRotation((-5, 60)).parameters(40, 50, Draws(3, position)) for position in range(2000)]
    assert_same_distribution(ours, [one["angle"] for one in theirs])
    theirs = [one for one in torch_parameters(v2.RandomErasing(), 200, 300, 3000) if one["v"] is not None]
    erased = [RandomErasing(1.0).parameters(200, 300, Draws(3, position)) for position in range(3000)]
    parts = [one.part for one in erased if one is not None]
    assert abs(len(parts) - len(theirs)) < 60
    for name, number in {"i": 0, "j": 1, "h": 2, "w": 3}.items():
        assert_same_distribution([part[number] for part in parts], [one[name] for one in theirs])
    some = [RandomErasing(0.3).parameters(200, 300, Draws(3, position)) is not None for position in range(3000)]
    assert abs(np.mean(some) - 0.3) < 0.05


def test_an_erased_image_is_that_of_torchvision() -> None:
    transform = RandomErasing(1.0, value=(1, 2, 3))
    for position in range(9):
        found = transform.parameters(62, 74, Draws(1, position))
        assert found is not None
        top, left, height, width, _ = found.part
        value = torch.tensor([1, 2, 3], dtype=torch.uint8).reshape(3, 1, 1)
        expected = F.erase(tensor(smooth()), top, left, height, width, value)
        assert np.array_equal(transform.apply(smooth(), found), array(expected))


@pytest.mark.parametrize(
    "name", ["ColorJitter", "Grayscale", "RandomGrayscale", "GaussianBlur", "RandomErasing", "RandomRotation",
             "RandomAffine", "RandAugment", "TrivialAugmentWide"],
)  # fmt: skip
def test_parameters_have_the_names_and_defaults_of_torchvision(name: str) -> None:
    import inspect

    import shard_reader.transforms

    def defaults(kind: type) -> dict[str, Any]:
        found = {key: one.default for key, one in inspect.signature(kind).parameters.items()}
        found.pop("inplace", None)  # `out` decides that
        found.pop("mask_fill", None)  # torchvision has a dictionary for it
        return found

    assert defaults(getattr(shard_reader.transforms, name)) == defaults(getattr(v2, name))
    assert list(defaults(getattr(shard_reader.transforms, name))) == list(defaults(getattr(v2, name)))
