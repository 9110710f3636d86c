"""Pixels of any stored dtype as 8-bit pixels to look at."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["shown_mask", "shown_pixels"]

_DARK: Final = 1 << 12  # 16-bit pixels that are all below it, as of a 12-bit camera, would be black
_GOLDEN = (5**0.5 - 1) / 2
_OPACITY = 128  # of 255


def shown_pixels(image: NDArray[Any]) -> tuple[NDArray[np.uint8], str]:
    """An image as 8-bit grey, RGB or RGBA, `[height, width, 1, 3 or 4]`, and how its values were changed, or "".

    Args:
        image: `[height, width, channels]`, of any dtype of a stored image.
    """
    if image.shape[2] not in (1, 3, 4):  # bands: the first three, or the first
        image = image[..., : 3 if image.shape[2] > 4 else 1]
    if image.dtype == np.uint8:
        return image, ""
    if image.dtype == np.uint16 and image.max(initial=0) >= _DARK:
        return (image >> 8).astype(np.uint8), "16 bits shown as 8"
    values = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return (values * 255 + 0.5).astype(np.uint8), "0 to 1 shown as 0 to 255"
    if not high > low:
        return np.zeros(values.shape, np.uint8), "one value, shown as black"
    # To -1..1 first: the difference of two float32 may be none.
    largest = max(abs(low), abs(high))
    shown = (values / np.float32(largest) - np.float32(low / largest)) * np.float32(255 * largest / (high - low))
    return np.rint(shown).clip(0, 255).astype(np.uint8), f"{low:.2f} to {high:.2f} shown as 0 to 255"


def shown_mask(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask as colours to lay over its image, RGBA `[height, width, 4]`: the background, 0, is transparent.

    Args:
        mask: `[height, width, channels]`; of several channels, the first is shown.
    """
    values = np.nan_to_num(mask[..., 0].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64)
    # Angles of the golden ratio: neighbouring numbers get hues that are far apart, for any number of classes.
    hues = values * _GOLDEN % 1
    colours = 127.5 + 127.5 * np.cos(2 * np.pi * (hues[..., np.newaxis] - np.array([0, 1 / 3, 2 / 3])))
    alpha = np.where(values == 0, 0, _OPACITY)[..., np.newaxis]
    return np.concatenate([colours, alpha], axis=2).round().astype(np.uint8)
