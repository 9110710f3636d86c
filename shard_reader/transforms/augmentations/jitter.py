"""Augmentations of colours: ColorJitter, Grayscale and RandomGrayscale."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from shard_reader.transforms.augmentations.arguments import integer, probability, range_around
from shard_reader.transforms.augmentations.augmentation import Augmentation
from shard_reader.transforms.augmentations.colours import adjust_contrast, adjust_hue, adjust_saturation, grey
from shard_reader.transforms.augmentations.levels import adjust_brightness, of_colours
from shard_reader.transforms.base import Image, Shape, Transform
from shard_reader.transforms.draws import Draws

__all__ = ["ColorJitter", "Grayscale", "JitterParameters", "RandomGrayscale"]

_ORDERS = tuple(itertools.permutations(range(4)))
_CHANGES: tuple[Callable[[Image, float, Image | None], Image], ...] = (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_hue,
)
Range = float | tuple[float, float] | None


class JitterParameters(NamedTuple):
    """The changes of one image.

    Attributes:
        order: the numbers of the changes in the order in which they are made: 0 is brightness, 1 contrast, 2 saturation
            and 3 hue.
        factors: brightness, contrast, saturation and hue, in this order; None leaves one out.
    """

    order: tuple[int, ...]
    factors: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue at random, in random order, as torchvision's does.

    Args:
        brightness: how far the factor is from 1, at most; or its least and greatest value. 0 makes an image black.
        contrast: the same. 0 leaves the mean luminance alone.
        saturation: the same. 0 makes an image grey.
        hue: by which share of the circle of hues they turn, at most, up to 0.5; or the least and the greatest share,
            from -0.5 to 0.5.

    Images have 1 or 3 channels, of which a grey one keeps its saturation and its hue. Floats are from 0 to 1.

    Raises:
        TypeError: an argument is neither a number nor two.
        ValueError: an argument is out of bounds or reversed; on a call, the image has 4 channels, pixels of another
            dtype than uint8, uint16, float16 and float32, or floats that are not from 0 to 1.

    Examples:
        >>> ColorJitter(0.4, hue=0.1)
        ColorJitter(brightness=(0.6, 1.4), contrast=None, saturation=None, hue=(-0.1, 0.1))
    """

    brightness: Range = None
    contrast: Range = None
    saturation: Range = None
    hue: Range = None
    _ranges: tuple[tuple[float, float] | None, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = []
        for name in ("brightness", "contrast", "saturation"):
            found.append(range_around(name, getattr(self, name), 1.0, 0.0, float("inf"), "0 or above"))
        found.append(range_around("hue", self.hue, 0.0, -0.5, 0.5, "from -0.5 to 0.5"))
        for name, value in zip(("brightness", "contrast", "saturation", "hue"), found, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_ranges", tuple(found))

    def parameters(self, height: int, width: int, draws: Draws) -> JitterParameters:
        """The next changes. One number decides the order, and each factor takes another one."""
        order = _ORDERS[draws.integer(len(_ORDERS))]
        return JitterParameters(order, tuple(None if one is None else draws.uniform(*one) for one in self._ranges))

    def apply(self, image: Image, parameters: JitterParameters, out: Image | None = None) -> Image:
        """The changed image, of the same shape and dtype."""
        image = of_colours(image, "ColorJitter")
        for number in parameters.order:
            factor = parameters.factors[number]
            if factor is not None:
                changed = _CHANGES[number](image, factor, out)
                if changed is not image:
                    image = out = changed
        return image


@dataclass(frozen=True, slots=True)
class Grayscale(Transform):
    """Turns RGB into grey, as torchvision's does: 0.2989, 0.587 and 0.114 of red, green and blue.

    Args:
        num_output_channels: 1, or 3 equal channels.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is neither 1 nor 3; on a call, as `ColorJitter`.

    Examples:
        >>> Grayscale().output_shape((224, 224, 3))
        (224, 224, 1)
    """

    is_random = False
    keeps_image = False
    keeps_places = True

    num_output_channels: int = 1

    def __post_init__(self) -> None:
        channels = integer("num_output_channels", self.num_output_channels, 1, 3)
        if channels == 2:
            raise ValueError("num_output_channels=2: must be 1 or 3")
        object.__setattr__(self, "num_output_channels", channels)

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:2], self.num_output_channels)

    def __call__(self, image: Image, draws: Draws | None = None, out: Image | None = None) -> Image:
        """The grey image, `[height, width, num_output_channels]` of the same dtype."""
        return grey(of_colours(image, "Grayscale"), self.num_output_channels, out)


@dataclass(frozen=True, slots=True)
class RandomGrayscale(Augmentation):
    """Turns RGB into three equal grey channels with a probability, as torchvision's does.

    Args:
        p: the probability, from 0 to 1.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of bounds; on a call, as `ColorJitter`.
    """

    p: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", probability("p", self.p))

    def parameters(self, height: int, width: int, draws: Draws) -> bool:
        """Whether the next image becomes grey."""
        return draws.uniform() < self.p

    def apply(self, image: Image, parameters: bool, out: Image | None = None) -> Image:
        """The grey image, of the same shape and dtype, or `image` itself."""
        image = of_colours(image, "RandomGrayscale")
        return grey(image, image.shape[2], out) if parameters else image
