"""Affine maps of an image: rotation, translation, scale and shear, as torchvision defines them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AffineMap", "affine_map", "expanded"]

_WHOLE = 1e-6  # pixels: a translation that is this near to whole pixels is one of whole pixels
_CORNER = 1e-4  # pixels, which torchvision cuts off before it looks for the edges of a rotated image


class AffineMap(NamedTuple):
    """The place in an image that each place of the result shows: `a * x + b * y + c` and `d * x + e * y + f`.

    Places are in pixels, where 0 is the edge of the image and 0.5 the centre of its first pixel. x goes to the right,
    y down.
    """

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    @property
    def determinant(self) -> float:
        """The area in the image that a pixel of the result shows; below 0 where the result is mirrored."""
        return self.a * self.e - self.b * self.d

    @property
    def is_invertible(self) -> bool:
        """Whether each place of the image has one place in the result."""
        return all(map(math.isfinite, self)) and math.isfinite(self.determinant) and self.determinant != 0

    @property
    def shift(self) -> tuple[int, int] | None:
        """Where it only moves by whole pixels: by how many rows and columns the image is left of its result."""
        whole = round(self.f), round(self.c)
        rest = (self.a - 1, self.b, self.c - whole[1], self.d, self.e - 1, self.f - whole[0])
        # The coefficients are multiplied by sides of up to a hundred thousand pixels.
        most = (_WHOLE / 1e5, _WHOLE / 1e5, _WHOLE) * 2
        return whole if all(abs(one) <= bound for one, bound in zip(rest, most, strict=True)) else None

    def moved(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places in the result of places in the image, `[..., 2]`: y, x in pixels."""
        y, x = points[..., 0] - self.f, points[..., 1] - self.c
        moved = np.stack([self.a * y - self.d * x, self.e * x - self.b * y], axis=-1)
        found: NDArray[np.float64] = moved / self.determinant
        return found


def affine_map(
    size: tuple[int, int],
    angle: float,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear: tuple[float, float] = (0.0, 0.0),
    center: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
) -> AffineMap:
    """The map of `torchvision.transforms.v2.functional.affine`.

    An image is sheared along x, then along y, scaled, rotated about its centre and translated: the inverse of that
    says what each place of the result shows.

    Args:
        size: height and width of the image, in pixels.
        angle: degrees, clockwise.
        translate: pixels to the right, and down.
        scale: above 1 enlarges.
        shear: degrees along x, and along y.
        center: x, y of the point that stays, in pixels; the middle of the image by default.
        shape: height and width of the result, whose middle takes the place of the image's; by default `size`.
    """
    (height, width), (tall, wide) = size, shape or size
    turn, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    # The forward matrix without its scale, whose determinant is 1: rotation @ shear along y @ shear along x.
    a, c = math.cos(turn - sy) / math.cos(sy), math.sin(turn - sy) / math.cos(sy)
    b, d = -a * math.tan(sx) - math.sin(turn), math.cos(turn) - c * math.tan(sx)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    # In places from the middles of both images, the point that stays goes to its translated place.
    x, y = (0.0, 0.0) if center is None else (center[0] - width / 2, center[1] - height / 2)
    to_x, to_y = x + translate[0] + wide / 2, y + translate[1] + tall / 2
    left, top = x + width / 2 - a * to_x - b * to_y, y + height / 2 - c * to_x - d * to_y
    return AffineMap(a, b, left, c, d, top)


def expanded(size: tuple[int, int], found: AffineMap) -> tuple[int, int]:
    """Height and width of a result that has room for all of the image, by the rule of torchvision's `expand`.

    Args:
        size: height and width of the image, in pixels.
        found: the map to a result of this size.
    """
    height, width = size
    corners = np.array([(y, x) for y in (0.0, height) for x in (0.0, width)])
    # torchvision takes the corners by the inverse map, which has the same extent for a rotation about the middle.
    x, y = corners[:, 1], corners[:, 0]
    xs, ys = found.a * x + found.b * y + found.c, found.d * x + found.e * y + found.f
    return _extent(ys), _extent(xs)


def _extent(places: NDArray[Any]) -> int:
    least, most = (math.trunc(place / _CORNER) * _CORNER for place in (float(places.min()), float(places.max())))
    return math.ceil(most) - math.floor(least)
