"""Filters over neighbouring pixels: blur and sharpness, as torchvision defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.augmentations.arguments import integer, ordered
from shard_reader.transforms.augmentations.augmentation import Augmentation
from shard_reader.transforms.augmentations.levels import as_floats, stored, white
from shard_reader.transforms.base import Image
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.moves.warp import native
from shard_reader.transforms.resize import opencv, run_opencv, target_for

__all__ = ["GaussianBlur", "adjust_sharpness"]

_BLURRED_DTYPES = frozenset(np.dtype(name) for name in ("uint8", "uint16", "int16", "float32"))
_MOST_SIDE = 4095  # of a kernel: beyond, a typing error is likelier than a blur
_CUT = 0.4995  # as in `colours`

_SMOOTH = np.full((3, 3), 1 / 13, np.float32)
_SMOOTH[1, 1] = 5 / 13


@dataclass(frozen=True, slots=True)
class GaussianBlur(Augmentation):
    """Blurs an image with a Gaussian kernel, whose standard deviation is uniform in a range.

    As torchvision's: the kernel has a fixed size, and pixels outside of the image are those inside, mirrored about the
    pixels at the edge. With uint8, a result differs by at most one level, since OpenCV rounds in another place.

    Args:
        kernel_size: odd number of pixels, or (width, height) of the kernel.
        sigma: the least and the greatest standard deviation, in pixels, or one for all images.

    Raises:
        TypeError: an argument is not a number, or not two.
        ValueError: a size is even or below 1, or a standard deviation is 0 or below; on a call, the pixels are of
            another dtype than uint8, uint16, int16, float16 and float32.

    Examples:
        >>> GaussianBlur(5)
        GaussianBlur(kernel_size=(5, 5), sigma=(0.1, 2.0))
    """

    kernel_size: int | tuple[int, int]
    sigma: float | tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        given = self.kernel_size
        sides = given if isinstance(given, list | tuple) else (given, given)
        if len(sides) != 2:
            raise TypeError(f"kernel_size={given!r}: must be an odd integer, or (width, height)")
        found = tuple(integer("kernel_size", side, 1, _MOST_SIDE) for side in sides)
        if any(side % 2 == 0 for side in found):
            raise ValueError(f"kernel_size={given!r}: must be odd")
        object.__setattr__(self, "kernel_size", found)
        sigma = self.sigma if isinstance(self.sigma, list | tuple) else (self.sigma, self.sigma)
        # The least float above 0 leaves a kernel of one pixel.
        object.__setattr__(self, "sigma", ordered("sigma", sigma, np.nextafter(0, 1), np.inf, "above 0"))

    def parameters(self, height: int, width: int, draws: Draws) -> float:
        """The next standard deviation."""
        low, high = self.sigma  # type: ignore[misc]  # two numbers, since the construction
        return draws.uniform(low, high)

    def apply(self, image: Image, parameters: float, out: Image | None = None) -> Image:
        """The blurred image, of the same shape and dtype."""
        image = native(image)
        wide, tall = self.kernel_size  # type: ignore[misc]  # two numbers, since the construction
        kernels = _gaussian(wide, parameters), _gaussian(tall, parameters)
        if image.dtype in _BLURRED_DTYPES:
            target = target_for(out, image.shape, image.dtype)
            run_opencv("sepFilter2D", image, target, -1, *kernels, borderType=opencv().BORDER_REFLECT_101)
            return target
        if image.dtype != np.float16:
            raise ValueError(
                f"has pixels of {image.dtype}: GaussianBlur takes uint8, uint16, int16, float16 and float32"
            )
        return stored(self.apply(as_floats(image), parameters), image.dtype, out)


def _gaussian(size: int, sigma: float) -> NDArray[np.float32]:
    places = np.arange(size) - size // 2
    weights = np.exp(-((places / sigma) ** 2) / 2)
    kernel: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return kernel


def adjust_sharpness(image: Image, factor: float, out: Image | None) -> Image:
    """`factor` of the pixels, and for the rest a smoothed image. Pixels at the edges stay.

    Args:
        image: `[height, width, channels]`, as `of_colours` gives it.
        factor: 0 smooths, above 1 sharpens.
        out: for the result; may be `image`.
    """
    if min(image.shape[:2]) <= 2:
        return image
    if image.dtype == np.uint8:
        smooth = np.empty_like(image)
        run_opencv("filter2D", image, smooth, -1, _SMOOTH)
        _take_edges(smooth, image)
        target = target_for(out, image.shape, image.dtype)
        _weigh(image, factor, smooth, target)
        return target
    values = as_floats(image)
    smooth = np.empty_like(values)
    run_opencv("filter2D", values, smooth, -1, _SMOOTH)
    if image.dtype.kind == "u":
        np.rint(smooth, out=smooth)
    _take_edges(smooth, values)
    smooth -= values
    smooth *= np.float32(1 - factor)
    values += smooth
    return stored(values.clip(0, white(image.dtype), out=values), image.dtype, out)


def _take_edges(image: NDArray[Any], other: NDArray[Any]) -> None:
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        image[edge] = other[edge]


def _weigh(image: Image, factor: float, smooth: Image, target: Image) -> None:
    # Rounding half a level less cuts off the fraction.
    run_opencv("addWeighted", image, target, factor, smooth, 1 - factor, -_CUT)
