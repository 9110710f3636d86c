"""RandAugment and TrivialAugment: changes that are chosen at random."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shard_reader.transforms.augmentations.arguments import checked_fill, checked_interpolation, integer, number
from shard_reader.transforms.augmentations.augmentation import Augmentation
from shard_reader.transforms.augmentations.colours import adjust_contrast, adjust_saturation
from shard_reader.transforms.augmentations.filters import adjust_sharpness
from shard_reader.transforms.augmentations.levels import (
    adjust_brightness,
    autocontrast,
    equalize,
    of_colours,
    posterize,
    solarize,
)
from shard_reader.transforms.base import Image
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.affine import AffineMap, affine_map
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.moves.warp import Fill, Interpolation, warp

__all__ = ["Change", "RandAugment", "TrivialAugment", "TrivialAugmentWide"]


class Change(NamedTuple):
    """One change of an image.

    Attributes:
        name: as torchvision calls it, as "ShearX".
        magnitude: its strength, of which each change has its own unit; 0 where it has none.
    """

    name: str
    magnitude: float


class _Space(NamedTuple):
    """The strengths of the changes that have one, at the last of the magnitudes.

    Attributes:
        shear: the tangent of the angle.
        translate: pixels, or None for 150 / 331 of the side.
        rotate: degrees.
        colours: how far the factor of brightness, colour, contrast and sharpness is from 1.
        bits: how many of the 8 bits posterizing leaves out.
    """

    shear: float
    translate: float | None
    rotate: float
    colours: float
    bits: int


_RAND = _Space(0.3, None, 30.0, 0.9, 4)
_WIDE = _Space(0.99, 32.0, 135.0, 0.99, 6)
_TRANSLATED = 150.0 / 331.0

_GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_FACTORS: dict[str, Callable[[Image, float, Image | None], Image]] = {
    "Brightness": adjust_brightness,
    "Color": adjust_saturation,
    "Contrast": adjust_contrast,
    "Sharpness": adjust_sharpness,
}
_PLAIN: dict[str, Callable[[Image, Image | None], Image]] = {"AutoContrast": autocontrast, "Equalize": equalize}
# In torchvision's order.
_NAMES = ("Identity", *_GEOMETRY, *_FACTORS, "Posterize", "Solarize", *_PLAIN)
_SIGNED = frozenset((*_GEOMETRY, *_FACTORS))


class _AutoAugment(Augmentation):
    """An augmentation by changes, with the fields `interpolation`, `fill` and `mask_fill`."""

    __slots__ = ()

    keeps_places = False

    interpolation: Interpolation
    fill: Fill | None
    mask_fill: float

    @abstractmethod
    def parameters(self, height: int, width: int, draws: Draws) -> tuple[Change, ...]:
        """The next changes of an image of this size, in order."""

    def apply(self, image: Image, parameters: tuple[Change, ...], out: Image | None = None) -> Image:
        """The changed image, of the same shape and dtype."""
        image = of_colours(image, type(self).__name__)
        for change in parameters:
            changed = self._changed(image, change, out)
            if changed is not image:
                image = out = changed
        return image

    def move(self, height: int, width: int, draws: Draws) -> list[Move]:
        return [
            Move.by_map(height, width, _map(height, width, change), mask_fill=self.mask_fill)
            for change in self.parameters(height, width, draws)
            if change.name in _GEOMETRY
        ]

    def _check(self) -> None:
        object.__setattr__(self, "interpolation", checked_interpolation(self.interpolation))
        object.__setattr__(self, "fill", checked_fill("fill", self.fill))
        object.__setattr__(self, "mask_fill", number("mask_fill", self.mask_fill))

    def _changed(self, image: Image, change: Change, out: Image | None) -> Image:
        name, magnitude = change
        if name in _GEOMETRY:
            height, width = image.shape[:2]
            fill = 0.0 if self.fill is None else self.fill
            return warp(image, _map(height, width, change), (height, width), self.interpolation, fill, out)
        if name in _FACTORS:
            return _FACTORS[name](image, 1 + magnitude, out)
        if name == "Posterize":
            return posterize(image, int(magnitude), out)
        if name == "Solarize":
            return solarize(image, magnitude, out)
        return _PLAIN[name](image, out) if name in _PLAIN else image


@dataclass(frozen=True, slots=True)
class RandAugment(_AutoAugment):
    """Makes changes that are chosen at random, all with one strength.

    Cubuk and others, 2020, "RandAugment: Practical automated data augmentation with a reduced search space", with the
    changes and strengths of torchvision: shear, translation, rotation, brightness, colour, contrast, sharpness,
    posterizing, solarizing, automatic contrast, equalizing, or none. Those with a direction take either.

    Masks, depth maps, boxes and keypoints follow shear, translation and rotation.

    Args:
        num_ops: the number of changes, 0 or above.
        magnitude: their strength, from 0 to `num_magnitude_bins` - 1.
        num_magnitude_bins: the number of strengths, 2 or above.
        interpolation: "nearest" or "bilinear". Masks and depth maps always take the nearest pixels.
        fill: the value of pixels outside of the image, or one for each channel. None is 0.
        mask_fill: the value of masks and depth maps there, such as the number of pixels that a loss ignores.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of bounds; on a call, as `ColorJitter` and `RandomAffine`.

    Examples:
        >>> RandAugment(magnitude=15).magnitude
        15
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: Interpolation = "nearest"
    fill: Fill | None = None
    mask_fill: float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_ops", integer("num_ops", self.num_ops, 0))
        bins = integer("num_magnitude_bins", self.num_magnitude_bins, 2)
        object.__setattr__(self, "num_magnitude_bins", bins)
        object.__setattr__(self, "magnitude", integer("magnitude", self.magnitude, 0, bins - 1))
        self._check()

    def parameters(self, height: int, width: int, draws: Draws) -> tuple[Change, ...]:
        return tuple(
            _change(_RAND, draws, self.magnitude, self.num_magnitude_bins, height, width) for _ in range(self.num_ops)
        )


@dataclass(frozen=True, slots=True)
class TrivialAugmentWide(_AutoAugment):
    """TrivialAugment: makes one change, chosen at random as its strength is.

    Müller and Hutter, 2021, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation", with the wide
    strengths, which torchvision has under this name. `TrivialAugment` is the same class.

    Masks, depth maps, boxes and keypoints follow shear, translation and rotation.

    Args:
        num_magnitude_bins: the number of strengths, 2 or above.
        interpolation: "nearest" or "bilinear". Masks and depth maps always take the nearest pixels.
        fill: the value of pixels outside of the image, or one for each channel. None is 0.
        mask_fill: the value of masks and depth maps there, such as the number of pixels that a loss ignores.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of bounds; on a call, as `ColorJitter` and `RandomAffine`.
    """

    num_magnitude_bins: int = 31
    interpolation: Interpolation = "nearest"
    fill: Fill | None = None
    mask_fill: float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_magnitude_bins", integer("num_magnitude_bins", self.num_magnitude_bins, 2))
        self._check()

    def parameters(self, height: int, width: int, draws: Draws) -> tuple[Change, ...]:
        return (_change(_WIDE, draws, None, self.num_magnitude_bins, height, width),)


TrivialAugment = TrivialAugmentWide


def _change(space: _Space, draws: Draws, strength: int | None, bins: int, height: int, width: int) -> Change:
    """The next change: its name, its strength if that is random, and its direction if it has one."""
    name = _NAMES[draws.integer(len(_NAMES))]
    if name == "Identity" or name in _PLAIN:
        return Change(name, 0.0)
    magnitude = _magnitude(space, name, draws.integer(bins) if strength is None else strength, bins, height, width)
    return Change(name, -magnitude if name in _SIGNED and draws.uniform() < 0.5 else magnitude)


def _magnitude(space: _Space, name: str, strength: int, bins: int, height: int, width: int) -> float:
    if name.startswith("Shear"):
        return _step(0.0, space.shear, strength, bins)
    if name.startswith("Translate"):
        side = width if name == "TranslateX" else height
        return _step(0.0, _TRANSLATED * side if space.translate is None else space.translate, strength, bins)
    if name == "Rotate":
        return _step(0.0, space.rotate, strength, bins)
    if name == "Posterize":
        return round(8 - np.float32(strength) / np.float32((bins - 1) / space.bits))
    return _step(1.0, 0.0, strength, bins) if name == "Solarize" else _step(0.0, space.colours, strength, bins)


def _step(first: float, last: float, number: int, count: int) -> float:
    """A number of `count` ones in even steps, from the nearer end, as float32.

    In the arithmetic of `torch.linspace`: the step is rounded, its product is not. A translation is cut off to whole
    pixels, where that shows.
    """
    step = float((np.float32(last) - np.float32(first)) / np.float32(count - 1))
    start, end = float(np.float32(first)), float(np.float32(last))
    return float(np.float32(start + step * number if number < count // 2 else end - step * (count - 1 - number)))


@functools.lru_cache(256)
def _map(height: int, width: int, change: Change) -> AffineMap:
    name, magnitude = change
    if name == "Rotate":
        return affine_map((height, width), -magnitude)
    if name.startswith("Translate"):
        pixels = int(magnitude)
        return affine_map((height, width), 0.0, (pixels, 0) if name == "TranslateX" else (0, pixels))
    # The first pixel's edge stays, not the middle.
    angle = math.degrees(math.atan(magnitude))
    shear = (angle, 0.0) if name == "ShearX" else (0.0, angle)
    return affine_map((height, width), 0.0, shear=shear, center=(0.0, 0.0))
