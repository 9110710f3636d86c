"""The transforms that come with the reader.

An image is an array `[height, width, channels]`. A transform does not change it, unless it is `out`.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import numpy as np

from shard_reader.transforms.base import Image, PartTransform, Shape, Transform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.move import Move
from shard_reader.transforms.part import Part, scale_for
from shard_reader.transforms.resize import Filter, flip, resize

__all__ = ["CenterCrop", "Flip", "RandomResizedCrop", "Resize"]

_ATTEMPTS = 10

# Bilinear reads 2 x 2 pixels for each that it writes: up to a factor of 2 it leaves none out, but weighs them ever less
# evenly. Up to 1.5, photos are as near to Lanczos' as with area, in a seventh of the time.
_BILINEAR_UP_TO = 1.5

# Bilinear to twice the size, and then the mean of 2 x 2 pixels: 45 dB and more from area up to this factor, as near to
# Lanczos', and in half of the time.
_HALVED_UP_TO = 2.5


@dataclass(frozen=True, slots=True)
class _Sized(PartTransform):
    """A transform to images of one size: the side of a square, or (height, width), in pixels."""

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size(self.size))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every result."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def output_shape(self, shape: Shape) -> Shape:
        return (*self.shape, *shape[2:])


@dataclass(frozen=True, slots=True)
class CenterCrop(_Sized):
    """Takes the middle of an image, without scaling it.

    Args:
        size: side of a square, or (height, width), in pixels.

    Raises:
        TypeError: the size is neither.
        ValueError: the size is below 1; on a call, the image is smaller than the crop.

    Examples:
        >>> import numpy as np
        >>> CenterCrop(2)(np.zeros((4, 6, 3), np.uint8)).shape
        (2, 2, 3)
    """

    is_random = False
    keeps_image = False

    def part(self, height: int, width: int, draws: Draws | None = None) -> Part:
        """The middle; the whole of an image that is smaller."""
        tall, wide = self.shape
        if height < tall or width < wide:
            return Part(0, 0, height, width)
        return Part((height - tall) // 2, (width - wide) // 2, tall, wide)

    def of_part(self, image: Image, out: Image | None = None) -> Image:
        """The middle itself, `[*shape, channels]`: on a call, a view of the image."""
        self._check(image.shape[0], image.shape[1])
        return image

    def move(self, height: int, width: int, draws: Draws | None = None) -> Move:
        self._check(height, width)
        return Move(self.part(height, width), *self.shape)

    def _check(self, tall: int, wide: int) -> None:
        height, width = self.shape
        if tall < height or wide < width:
            raise ValueError(
                f"is {wide}x{tall}, smaller than the crop of {width}x{height}:"
                " ask for a smaller crop, or prepare larger images (--size)"
            )


@dataclass(frozen=True, slots=True)
class Resize(_Sized):
    """Scales an image to one size, which stretches it where the size has another aspect ratio.

    Args:
        size: side of a square, or (height, width), in pixels.
        filter: "area" weighs all pixels that a new pixel covers, and is bilinear in a direction that grows. The other
            filters are OpenCV's, for images that grow or shrink a little: they read 2 x 2 pixels ("bilinear"), 4 x 4
            ("bicubic") or the pixel at the centre ("nearest", as for masks), and leave out the pixels between.
        exact: in a stream, do not decode a JPEG at 1/2, 1/4 or 1/8 of its size first, which is the default where that
            leaves at least twice the size in each direction and the filter is "area".

    Raises:
        TypeError: the size is neither.
        ValueError: the size is below 1, or the filter is unknown; on a call, the pixels are of a dtype other than
            uint8, uint16, int16, float16, float32 and float64.

    Examples:
        >>> Resize((2, 3)).output_shape((None, None, 3))
        (2, 3, 3)
    """

    is_random = False
    keeps_image = False

    filter: Filter = "area"
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _Sized.__post_init__(self)
        if self.filter not in get_args(Filter):
            raise ValueError(f"filter={self.filter!r}: must be one of {', '.join(get_args(Filter))}")

    def __setstate__(self, state: list[Any]) -> None:
        _restore(self, state)

    def part(self, height: int, width: int, draws: Draws | None = None) -> Part:
        """The whole image."""
        scaled = self.filter == "area" and not self.exact
        return Part(0, 0, height, width, scale_for(height, width, self.shape) if scaled else 1)

    def of_part(self, image: Image, out: Image | None = None) -> Image:
        """`[h, w, channels]` to `[*shape, channels]` of the same dtype."""
        return resize(image, self.shape, self.filter, out)  # where `image` is `out`, it has this size already

    def move(self, height: int, width: int, draws: Draws | None = None) -> Move:
        return Move(Part(0, 0, height, width), *self.shape)


@dataclass(frozen=True, slots=True)
class RandomResizedCrop(_Sized):
    """Takes a random part of an image and scales it to one size: the usual augmentation for classification.

    The part's share of the image's area is uniform in `scale`, the logarithm of its aspect ratio in that of `ratio`.
    If ten parts do not fit, the middle is taken, as large as `ratio` allows. This is Inception's augmentation
    (Szegedy and others, 2015, "Going deeper with convolutions", section 6) as torchvision defines it.

    It scales bilinearly where the part is at most 1.5 times the size in each direction, by area above 2.5, and between
    bilinearly to twice the size, and from there by area.

    Args:
        size: side of a square, or (height, width), in pixels.
        scale: the least and the greatest share of the area, above 0 and at most 1.
        ratio: the least and the greatest width / height, above 0.
        exact: in a stream, do not decode the part of a JPEG at 1/2, 1/4 or 1/8 of its size first, which is the default
            where that leaves at least twice the size in each direction. The edges of such a part lie at multiples of
            2, 4 or 8 pixels.

    Raises:
        TypeError: the size is neither, or a range is not two numbers.
        ValueError: the size is below 1, or a range is out of bounds or reversed; on a call, the pixels are of a dtype
            that `Resize` rejects, too.

    Examples:
        >>> crop = RandomResizedCrop(224)
        >>> crop.box(256, 341, Draws(key=1, position=0)) == crop.box(256, 341, Draws(key=1, position=0))
        True
    """

    keeps_image = False

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    _log_ratio: tuple[float, float] = field(init=False, repr=False, compare=False)
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _Sized.__post_init__(self)
        object.__setattr__(self, "scale", _positive_range("scale", self.scale, 1.0, "above 0 and at most 1"))
        object.__setattr__(self, "ratio", _positive_range("ratio", self.ratio, math.inf, "above 0 and finite"))
        object.__setattr__(self, "_log_ratio", (math.log(self.ratio[0]), math.log(self.ratio[1])))

    def __setstate__(self, state: list[Any]) -> None:
        _restore(self, state)

    def part(self, height: int, width: int, draws: Draws) -> Part:
        """The next part of an image of this size."""
        box = self.box(height, width, draws)
        return Part(*box, 1 if self.exact else scale_for(box[2], box[3], self.shape))

    def of_part(self, image: Image, out: Image | None = None) -> Image:
        """`[h, w, channels]` to `[*shape, channels]` of the same dtype."""
        # The part and the result would overlap in the same memory.
        if out is not None and np.may_share_memory(image, out):
            image = image.copy()
        height, width = self.shape
        factor = max(image.shape[0] / height, image.shape[1] / width)
        if factor <= _BILINEAR_UP_TO:
            return resize(image, self.shape, "bilinear", out)
        if factor <= _HALVED_UP_TO:
            image = resize(image, (2 * height, 2 * width), "bilinear", None)
        return resize(image, self.shape, "area", out)

    def move(self, height: int, width: int, draws: Draws) -> Move:
        return Move(Part(*self.box(height, width, draws)), *self.shape)

    def box(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        """The next part of an image of this size: top, left, height and width, in pixels."""
        box = self._exact_box(height, width, draws)
        scale = 1 if self.exact else scale_for(box[2], box[3], self.shape)
        # A decoder's pixels at a scale are squares of the image's.
        return box if scale == 1 else tuple(side - side % scale for side in box)  # type: ignore[return-value]

    def _exact_box(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        uniform, (low, high) = draws.uniform, self._log_ratio
        for _ in range(_ATTEMPTS):
            area = height * width * uniform(*self.scale)
            ratio = math.exp(uniform(low, high))
            tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < tall <= height and 0 < wide <= width:
                return draws.integer(height - tall + 1), draws.integer(width - wide + 1), tall, wide
        tall = min(height, max(1, round(width / self.ratio[0])))
        wide = min(width, max(1, round(height * self.ratio[1])))
        return (height - tall) // 2, (width - wide) // 2, tall, wide


@dataclass(frozen=True, slots=True)
class Flip(Transform):
    """Mirrors an image, left to right, with a probability.

    Args:
        probability: a number from 0 to 1.

    Raises:
        TypeError: the probability is not a number.
        ValueError: the probability is below 0 or above 1.
    """

    in_place = True
    keeps_image = False

    probability: float = 0.5

    def __post_init__(self) -> None:
        probability = _number("probability", self.probability, self.probability)
        if not 0 <= probability <= 1:
            raise ValueError(f"probability={self.probability!r}: must be from 0 to 1")
        object.__setattr__(self, "probability", probability)

    def __call__(self, image: Image, draws: Draws, out: Image | None = None) -> Image:
        """The mirrored image, or `image` itself."""
        return flip(image, out) if self._is_mirrored(draws) else image

    def move(self, height: int, width: int, draws: Draws) -> Move:
        return Move.whole(height, width, is_mirrored=self._is_mirrored(draws))

    def _is_mirrored(self, draws: Draws) -> bool:
        return draws.uniform() < self.probability


def _restore(transform: Resize | RandomResizedCrop, state: list[Any]) -> None:
    """Set the fields of a pickled transform; those made before November 2026 have no `exact`."""
    names = [one.name for one in fields(transform)]
    for name, value in zip(names, [*state, False], strict=False):
        object.__setattr__(transform, name, value)


def _size(size: Any) -> int | tuple[int, int]:
    """A size in Python's integers, converted from NumPy's."""
    try:
        sides = [operator.index(side) for side in (size if isinstance(size, list | tuple) else (size, size))]
    except TypeError:
        sides = []
    if len(sides) != 2:
        raise TypeError(f"size={size!r}: must be an integer, or (height, width)")
    if min(sides) < 1:
        raise ValueError(f"size={size!r}: must be at least 1 pixel")
    return (sides[0], sides[1]) if isinstance(size, list | tuple) else sides[0]


def _number(name: str, value: Any, shown: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={shown!r}: must be a number") from None


def _positive_range(name: str, value: tuple[float, float], most: float, allowed: str) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TypeError(f"{name}={value!r}: must be two numbers, the least and the greatest")
    low, high = (_number(name, one, value) for one in value)
    if not (low > 0 and high <= most and math.isfinite(high)):
        raise ValueError(f"{name}={value!r}: must be {allowed}")
    if low > high:
        raise ValueError(f"{name}={value!r}: the least comes first, ({high}, {low})")
    return low, high
