"""Augmentations that move pixels by an affine map: RandomRotation and RandomAffine."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from shard_reader.transforms.augmentations.arguments import (
    checked_fill,
    checked_interpolation,
    number,
    numbers,
    ordered,
    pair,
)
from shard_reader.transforms.augmentations.augmentation import Augmentation
from shard_reader.transforms.base import Image, Shape
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.affine import AffineMap, affine_map, expanded
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.moves.warp import Fill, Interpolation, warp

__all__ = ["AffineParameters", "RandomAffine", "RandomRotation"]


class AffineParameters(NamedTuple):
    """The geometry of one image, as in `affine_map`: degrees, pixels, a factor, and degrees."""

    angle: float
    translate: tuple[int, int] = (0, 0)
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)


class _Geometric(Augmentation):
    """An augmentation by an affine map, with the fields `interpolation`, `fill`, `mask_fill` and `center`."""

    __slots__ = ()

    keeps_places = False

    interpolation: Interpolation
    fill: Fill
    mask_fill: float
    center: tuple[float, float] | None

    def _check(self) -> None:
        object.__setattr__(self, "interpolation", checked_interpolation(self.interpolation))
        object.__setattr__(self, "fill", checked_fill("fill", self.fill))
        object.__setattr__(self, "mask_fill", number("mask_fill", self.mask_fill))
        if self.center is not None:
            object.__setattr__(self, "center", pair("center", self.center, "x and y of a point, in pixels"))

    @abstractmethod
    def map(self, height: int, width: int, parameters: Any) -> tuple[AffineMap, tuple[int, int]]:
        """The map of an image of this size, and the height and width of its result."""

    def apply(self, image: Image, parameters: Any, out: Image | None = None) -> Image:
        """The moved pixels, of the same dtype; `image` itself, where nothing moves."""
        found, shape = self.map(image.shape[0], image.shape[1], parameters)
        return warp(image, found, shape, self.interpolation, self.fill, out)

    def move(self, height: int, width: int, draws: Draws) -> Move:
        found, shape = self.map(height, width, self.parameters(height, width, draws))
        return Move.by_map(height, width, found, shape, self.mask_fill)


@dataclass(frozen=True, slots=True)
class RandomRotation(_Geometric):
    """Rotates an image by a random angle, as torchvision's does.

    Args:
        degrees: the greatest angle in both directions, or the least and the greatest angle, counter-clockwise.
        interpolation: "nearest" or "bilinear". Masks and depth maps always take the nearest pixels.
        expand: whether the result has room for the whole image, and so a size of its own. With a `center` of one's own,
            some of the image may be outside.
        center: x, y of the point that stays, in pixels; the middle by default.
        fill: the value of pixels outside of the image, or one for each channel.
        mask_fill: the same for masks and depth maps, such as the number of pixels that a loss ignores.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of bounds; on a call, the dtype does not have the value of `fill`, or has no
            values to mix.

    Examples:
        >>> RandomRotation(20).degrees
        (-20.0, 20.0)
    """

    degrees: float | tuple[float, float]
    interpolation: Interpolation = "nearest"
    expand: bool = False
    center: tuple[float, float] | None = None
    fill: Fill = 0
    mask_fill: float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", _angles("degrees", self.degrees, (2,)))
        self._check()

    @property
    def in_place(self) -> bool:  # type: ignore[override]  # that of the options
        """Whether the result has the size of the image."""
        return not self.expand

    def output_shape(self, shape: Shape) -> Shape:
        return (None, None, *shape[2:]) if self.expand else shape

    def parameters(self, height: int, width: int, draws: Draws) -> float:
        """The next angle, in degrees, counter-clockwise."""
        return draws.uniform(*self.degrees)  # type: ignore[misc]  # two numbers, since the construction

    def map(self, height: int, width: int, parameters: float) -> tuple[AffineMap, tuple[int, int]]:
        size = shape = (height, width)
        found = affine_map(size, -parameters, center=self.center)
        if self.expand:
            # A quarter of a turn about the middle leaves no room.
            is_quarter = self.center is None and parameters % 180 == 90
            shape = (width, height) if is_quarter else expanded(size, found)
            found = affine_map(size, -parameters, center=self.center, shape=shape)
        return found, shape


@dataclass(frozen=True, slots=True)
class RandomAffine(_Geometric):
    """Rotates, translates, scales and shears an image at random about its middle, as torchvision's does.

    Args:
        degrees: the greatest angle in both directions, or the least and the greatest angle, clockwise. 0 leaves
            rotation out.
        translate: the greatest translation along x and y, as parts of the width and the height, from 0 to 1.
        scale: the least and the greatest factor, above 0: below 1 shows more than the image, above 1 a part.
        shear: degrees along x: the greatest in both directions, or the least and the greatest; or those along x and
            those along y, four numbers.
        interpolation: "nearest" or "bilinear". Masks and depth maps always take the nearest pixels.
        fill: the value of pixels outside of the image, or one for each channel.
        center: x, y of the point that stays, in pixels; the middle by default.
        mask_fill: the value of masks and depth maps there, such as the number of pixels that a loss ignores.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of bounds; on a call, the dtype does not have the value of `fill`, or has no
            values to mix.

    Examples:
        >>> RandomAffine(0, shear=(-10, 10, -5, 5)).shear
        (-10.0, 10.0, -5.0, 5.0)
    """

    degrees: float | tuple[float, float]
    translate: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    shear: float | tuple[float, ...] | None = None
    interpolation: Interpolation = "nearest"
    fill: Fill = 0
    center: tuple[float, float] | None = None
    mask_fill: float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", _angles("degrees", self.degrees, (2,)))
        if self.translate is not None:
            translate = pair("translate", self.translate, "two numbers, for x and y")
            if not all(0 <= one <= 1 for one in translate):
                raise ValueError(
                    f"translate={self.translate!r}: must be from 0 to 1, parts of the width and the height"
                )
            object.__setattr__(self, "translate", translate)
        if self.scale is not None:
            object.__setattr__(self, "scale", ordered("scale", self.scale, 1e-6, 1e6, "above 0"))
        if self.shear is not None:
            shear = _angles("shear", self.shear, (2, 4))
            if not all(-90 < one < 90 for one in shear):
                raise ValueError(f"shear={self.shear!r}: must be between -90 and 90 degrees")
            object.__setattr__(self, "shear", shear)
        self._check()

    def parameters(self, height: int, width: int, draws: Draws) -> AffineParameters:
        """The next geometry of an image of this size."""
        angle = draws.uniform(*self.degrees)  # type: ignore[misc]  # two numbers, since the construction
        translate, scale, shear = (0, 0), 1.0, (0.0, 0.0)
        if self.translate is not None:
            x, y = self.translate[0] * width, self.translate[1] * height
            translate = round(draws.uniform(-x, x)), round(draws.uniform(-y, y))
        if self.scale is not None:
            scale = draws.uniform(*self.scale)
        if isinstance(self.shear, tuple):
            ranges = [*self.shear, 0.0, 0.0]
            shear = draws.uniform(*ranges[:2]), draws.uniform(*ranges[2:4])
        return AffineParameters(angle, translate, scale, shear)

    def map(self, height: int, width: int, parameters: AffineParameters) -> tuple[AffineMap, tuple[int, int]]:
        return affine_map((height, width), *parameters, center=self.center), (height, width)


def _angles(name: str, value: Any, counts: tuple[int, ...]) -> tuple[float, ...]:
    if isinstance(value, list | tuple):
        wanted = f"a number, or {' or '.join(map(str, counts))} numbers"
        found = numbers(name, value, counts, wanted)
        if any(low > high for low, high in zip(found[::2], found[1::2], strict=True)):
            raise ValueError(f"{name}={value!r}: the least comes before the greatest")
        return found
    most = number(name, value)
    if most < 0:
        raise ValueError(f"{name}={value!r}: a single number is the greatest in both directions, 0 or above")
    return -most, most
