"""Resizing and mirroring, by OpenCV without its limits; the nearest pixels by arithmetic."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Filter", "flip", "opencv", "resize", "run_opencv", "target_for"]

Image = NDArray[Any]
Filter = Literal["area", "bilinear", "bicubic", "nearest"]

_INTERPOLATION = {
    "area": "INTER_AREA",
    "bilinear": "INTER_LINEAR",
    "bicubic": "INTER_CUBIC",
}
# The dtypes that OpenCV 4.10 and later scales, in the byte order of this machine, and that it mirrors.
_SCALED_DTYPES = frozenset(np.dtype(name) for name in ("uint8", "uint16", "int16", "float32", "float64"))
_AREA_CHANNELS = 4  # the most that OpenCV scales by area
_FLIPPED_DTYPES = _SCALED_DTYPES | {np.dtype("float16")}


def resize(image: Image, shape: tuple[int, int], filter: Filter, out: Image | None) -> Image:
    """`image` scaled, in `out` if that fits."""
    if image.ndim != 3 or not image.size:
        raise ValueError(
            f"has the shape {image.shape} and cannot be resized: give (height, width, channels), none of 0"
        )
    target = target_for(out, (*shape, image.shape[2]), image.dtype)
    if filter == "nearest":
        rows, columns = (_nearest(*sides) for sides in zip(image.shape[:2], shape, strict=True))
        return np.take(np.take(image, rows, 0), columns, 1, out=target, mode="clip")
    if image.dtype in _SCALED_DTYPES:
        _scale(image, target, filter)
        return target
    # OpenCV has no half-precision floats to scale, and takes pixels in this machine's byte order alone.
    working = image.dtype.newbyteorder("=")
    if working == np.float16:
        working = np.dtype(np.float32)
    if working not in _SCALED_DTYPES:
        raise ValueError(f"has pixels of {image.dtype}, which cannot be resized: make them uint8 or float32 before")
    scaled = np.empty(target.shape, working)
    _scale(image.astype(working), scaled, filter)
    np.copyto(target, scaled, casting="same_kind")
    return target


def flip(image: Image, out: Image | None) -> Image:
    """`image` mirrored, left to right, in `out` if that fits; `out` may be `image`."""
    target = target_for(out, image.shape, image.dtype)
    if image.dtype in _FLIPPED_DTYPES and image.ndim == 3:
        run_opencv("flip", image, target, 1)
    else:
        np.copyto(target, image[:, ::-1])
    return target


def _nearest(size: int, count: int) -> NDArray[np.intp]:
    """The pixels whose centres are nearest to those of `count` pixels on the same length, `[count]`.

    In the arithmetic of torchvision's NEAREST_EXACT, in float32: a centre on the border of two pixels takes the second
    one, unless rounding puts it below. (For some sizes, as 2 to 159, PyTorch's own rounding depends on the CPU.
    OpenCV's INTER_NEAREST_EXACT, in fixed point, takes the first one more often.)
    """
    centres = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * (np.float32(size) / np.float32(count))
    return np.minimum(centres.astype(np.intp), size - 1)


def _scale(image: Image, target: Image, filter: Filter) -> None:
    (height, width), (tall, wide) = image.shape[:2], target.shape[:2]
    # INTER_AREA weighs areas only where both directions shrink. (It then takes 290 to 900 microseconds for 224 x 224 x
    # 3 bytes, 36 by whole factors, where bilinear takes 50 to 70.) Where one direction grows, it silently becomes a
    # bilinear filter that repeats pixels and leaves pixels out: so that direction is scaled after the other one.
    if filter == "area" and image.shape[2] > _AREA_CHANNELS:
        for first in range(0, image.shape[2], _AREA_CHANNELS):
            some = np.ascontiguousarray(image[..., first : first + _AREA_CHANNELS])
            part = np.empty((*target.shape[:2], some.shape[2]), target.dtype)
            _scale(some, part, "area")
            target[..., first : first + _AREA_CHANNELS] = part
        return
    if filter == "area" and (height < tall or width < wide):
        if height > tall or width > wide:
            smaller = np.empty((min(height, tall), min(width, wide), image.shape[2]), image.dtype)
            _scale(image, smaller, "area")
            image = smaller
        filter = "bilinear"
    run_opencv("resize", image, target, (wide, tall), interpolation=getattr(opencv(), _INTERPOLATION[filter]))


def run_opencv(name: str, image: Image, target: Image, *arguments: Any, **options: Any) -> None:
    """Have a function of OpenCV write to `target`, of the shape and dtype of its result.

    Raises:
        ValueError: it cannot take the image. The message continues "the image".
    """
    cv2 = opencv()
    try:
        result = getattr(cv2, name)(image, *arguments, dst=target, **options)
    except cv2.error as error:
        raise ValueError(f"of {image.shape} {image.dtype}: OpenCV cannot {name} it: {str(error).strip()}") from error
    # OpenCV silently makes an array of its own where it cannot write to `target`.
    if result is not target:
        if result.size != target.size:  # OpenCV 4, where there are more channels than it supports
            raise ValueError(f"of {image.shape} {image.dtype}: OpenCV cannot {name} it: gives {result.shape}")
        np.copyto(target, result.reshape(target.shape))


def target_for(out: Image | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
    """`out`, if it is there and fits, or a new array."""
    if out is not None and out.shape == shape and out.dtype == dtype:
        return out
    return np.empty(shape, dtype)


@functools.cache
def opencv() -> ModuleType:
    """OpenCV, imported when the first image needs it: the reader loads nothing but NumPy."""
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"transforms of images need {error.name}: pip install 'image-shards[decode]'", name=error.name
        ) from error
