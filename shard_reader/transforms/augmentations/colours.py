"""Changes of the colours of pixels, as torchvision defines them.

They are those of `torchvision.transforms.v2.functional`, of the same names, on images `[height, width, channels]` that
`of_colours` has checked. They write to `out`, if that is given and fits, which may be the image. With uint8, a result
differs from torchvision's by at most one level, since some roundings are one rounding here.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.augmentations.levels import as_floats, blend, stored, white
from shard_reader.transforms.base import Image
from shard_reader.transforms.resize import opencv, run_opencv, target_for

__all__ = ["adjust_contrast", "adjust_hue", "adjust_saturation", "grey"]

_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)
# OpenCV rounds where torchvision cuts off: half a level less, with a little for the rounding of whole numbers.
_CUT = 0.499
_STEPS = np.float32(1 - 1e-3)  # torchvision makes integers of 0..1 by 256 - 1e-3 steps of equal width


def grey(image: Image, channels: int, out: Image | None) -> Image:
    """The luminance of RGB, `[height, width, channels]`; grey images have it already."""
    shape = (*image.shape[:2], channels)
    if image.shape[2] == 1:
        if channels == 1:
            return image
        return _repeated(image, target_for(out, shape, image.dtype))
    if channels == 1:
        return _luminance(image, out)
    return _repeated(_luminance(image, None), target_for(out, shape, image.dtype))


def _repeated(image: Image, target: Image) -> Image:
    """One channel, in all of the target's."""
    if image.dtype == np.float16 or not image.size:
        target[...] = image
    else:
        run_opencv("cvtColor", image, target, opencv().COLOR_GRAY2RGB)
    return target


def adjust_contrast(image: Image, factor: float, out: Image | None) -> Image:
    """`factor` of the pixels, and for the rest the mean luminance of the image."""
    if not image.size:
        return image
    if image.dtype == np.uint8:
        levels = image
        if image.shape[2] == 3:
            # OpenCV is three times as fast to three equal channels as to one, and near enough for a mean.
            levels = np.empty_like(image, order="C")
            run_opencv("transform", image, levels, np.array([[*_WEIGHTS, -_CUT]] * 3, np.float32))
        mean = opencv().mean(levels)[0]
    else:
        mean = (_luminance(image, None) if image.shape[2] == 3 else image).mean(dtype=np.float64)
    return blend(image, float(mean), factor, out)


def adjust_saturation(image: Image, factor: float, out: Image | None) -> Image:
    """`factor` of the pixels, and for the rest their luminance."""
    if image.shape[2] == 1:
        return image
    if factor == 0:  # where torchvision has whole numbers, and cuts nothing off
        return grey(image, 3, out)
    if image.dtype == np.uint8:
        matrix = np.full((3, 4), -_CUT - 0.5 * (1 - factor), np.float32)
        matrix[:, :3] = factor * np.eye(3) + (1 - factor) * _WEIGHTS
        target = target_for(out, image.shape, image.dtype)
        run_opencv("transform", image, target, matrix)
        return target
    values = as_floats(image)
    rest = _luminance(image, None).astype(np.float32) * np.float32(1 - factor)
    values *= np.float32(factor)
    values += rest
    return stored(values.clip(0, white(image.dtype), out=values), image.dtype, out)


def adjust_hue(image: Image, turn: float, out: Image | None) -> Image:
    """The hues turned, in HSV: by a share of the circle, -0.5 to 0.5."""
    if image.shape[2] == 1 or not image.size:
        return image
    pixels = _memory.of(image.shape)
    np.copyto(pixels, image)  # float16, too
    run_opencv("cvtColor", pixels, pixels, opencv().COLOR_RGB2HSV)
    hues = pixels[..., 0]
    hues += np.float32(360 * (turn % 1))  # OpenCV takes degrees above 360, and not those below 0
    run_opencv("cvtColor", pixels, pixels, opencv().COLOR_HSV2RGB)
    if image.dtype == np.uint8:
        target = target_for(out, image.shape, image.dtype)
        cv2 = opencv()
        cv2.convertScaleAbs(pixels, target, (255 + _STEPS) / 255, -_CUT)
        return target
    if image.dtype.kind == "u":
        most = np.float32(white(image.dtype))
        pixels *= (most + _STEPS) / most
        pixels.clip(0, most, out=pixels)
    return stored(pixels, image.dtype, out)


def _luminance(image: Image, out: Image | None) -> Image:
    """Of RGB, `[height, width, 1]` of the same dtype. Integers lose their fractions."""
    if image.dtype == np.uint8:
        target = target_for(out, (*image.shape[:2], 1), image.dtype)
        run_opencv("transform", image, target, np.array([[*_WEIGHTS, -_CUT]], np.float32))
        return target
    return stored((as_floats(image) @ _WEIGHTS)[..., np.newaxis], image.dtype, out)


class _Memory(threading.local):
    """Memory of each thread for an image of floats: fresh memory takes as long as the arithmetic."""

    def __init__(self) -> None:
        self.pixels = np.empty(0, np.float32)

    def of(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        if len(self.pixels) < count:
            self.pixels = np.empty(count, np.float32)
        return self.pixels[:count].reshape(shape)


_memory = _Memory()
