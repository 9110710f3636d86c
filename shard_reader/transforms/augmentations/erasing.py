"""RandomErasing: a rectangle of an image is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from shard_reader.transforms.augmentations.arguments import checked_fill, ordered, probability
from shard_reader.transforms.augmentations.augmentation import Augmentation
from shard_reader.transforms.base import Image
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.warp import fill_values, native
from shard_reader.transforms.part import Part
from shard_reader.transforms.resize import target_for

__all__ = ["Erased", "RandomErasing"]

_ATTEMPTS = 10


class Erased(NamedTuple):
    """What is erased of one image.

    Attributes:
        part: the rectangle.
        noise: the generator of its pixels, where they are random.
    """

    part: Part
    noise: np.random.Generator | None


@dataclass(frozen=True, slots=True)
class RandomErasing(Augmentation):
    """Erases a random rectangle with a probability (Zhong and others, 2020, "Random erasing data augmentation").

    As torchvision's: the share of the area is uniform in `scale`, the logarithm of height / width in that of `ratio`.
    If ten rectangles do not fit, nothing is erased. Masks, boxes and keypoints stay as they are.

    Args:
        p: the probability, from 0 to 1.
        scale: the least and the greatest share of the area, from 0 to 1.
        ratio: the least and the greatest height / width, above 0.
        value: the value of erased pixels, one for each channel, or "random": normally distributed floats with mean 0
            and deviation 1, as torchvision's, and integers that are uniform over the range of their dtype, as in the
            paper.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of bounds or reversed; on a call, the dtype does not have the value, or there
            are fewer values than channels.

    Examples:
        >>> RandomErasing(0.1).value
        0.0
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | tuple[float, ...] | Literal["random"] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.value, str) and self.value != "random":
            raise ValueError(f"value={self.value!r}: must be a number, one for each channel, or 'random'")
        object.__setattr__(self, "p", probability("p", self.p))
        object.__setattr__(self, "scale", ordered("scale", self.scale, 0.0, 1.0, "from 0 to 1"))
        object.__setattr__(self, "ratio", ordered("ratio", self.ratio, np.nextafter(0, 1), np.inf, "above 0"))
        if self.value != "random":
            object.__setattr__(self, "value", checked_fill("value", self.value))

    def parameters(self, height: int, width: int, draws: Draws) -> Erased | None:
        """The next rectangle of an image of this size, or None."""
        if draws.uniform() >= self.p:
            return None
        low, high = map(math.log, self.ratio)
        for _ in range(_ATTEMPTS):
            area = height * width * draws.uniform(*self.scale)
            ratio = math.exp(draws.uniform(low, high))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if tall < height and wide < width:
                noise = draws.generator() if self.value == "random" else None
                top, left = draws.integer(height - tall + 1), draws.integer(width - wide + 1)
                return Erased(Part(top, left, tall, wide), noise)
        return None

    def apply(self, image: Image, parameters: Erased | None, out: Image | None = None) -> Image:
        """The image without its rectangle, of the same shape and dtype, or `image` itself."""
        if parameters is None:
            return image
        image = native(image)
        shape = (parameters.part.height, parameters.part.width, image.shape[2])
        if parameters.noise is None:
            pixels = fill_values(self.value, image.dtype, image.shape[2])
        elif image.dtype.kind == "f":
            pixels = parameters.noise.standard_normal(shape, np.float32).astype(image.dtype)
        else:
            most = np.iinfo(image.dtype).max
            pixels = parameters.noise.integers(0, most, shape, image.dtype, endpoint=True)
        target = target_for(out, image.shape, image.dtype)
        if target is not image:
            np.copyto(target, image)
        target[parameters.part.rows, parameters.part.columns] = pixels
        return target
