"""RGB in four bytes a pixel, "RGBX": decoders, Pillow and the resizer share such pixels without a copy.

To all other code these are pixels `[height, width, 3]`: a view that leaves the fourth byte out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sources.files.interface import Pixels

__all__ = ["colours_of", "packed", "rgbx_below", "rgbx_of"]


def colours_of(rgbx: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The view `[height, width, 3]` of pixels in four bytes."""
    return rgbx[..., :3]


def rgbx_below(pixels: Pixels) -> NDArray[np.uint8] | None:
    """The pixels in four bytes, `[height, width, 4]`, of which `pixels` are a view; None if they are another array."""
    whole = pixels.base
    if not isinstance(whole, np.ndarray) or whole.dtype != np.uint8 or not whole.flags.c_contiguous:
        return None
    if pixels.shape[2] != 3 or whole.shape != (*pixels.shape[:2], 4) or pixels.strides != whole.strides:
        return None
    # A view of the last three bytes would have these strides, too.
    return whole if pixels.__array_interface__["data"][0] == whole.__array_interface__["data"][0] else None


def rgbx_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB pixels `[height, width, 3]` in four bytes, of which the last is any: without a copy where they are a view."""
    whole = rgbx_below(pixels)
    if whole is None:
        whole = np.empty((*pixels.shape[:2], 4), np.uint8)
        _copy(pixels, whole)
    return whole


def packed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB pixels `[height, width, 3]`, C-contiguous."""
    if pixels.flags.c_contiguous:
        return pixels
    dense = np.empty(pixels.shape, np.uint8)
    _copy(pixels, dense)
    return dense


def _copy(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    # Channel by channel: NumPy takes six times as long for groups of three bytes.
    for channel in range(3):
        target[..., channel] = source[..., channel]
