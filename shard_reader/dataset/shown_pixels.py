"""Pixels of any stored dtype as 8-bit pixels to look at."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["shown_pixels"]

_DARK: Final = 1 << 12  # 16-bit pixels that are all below it, as of a 12-bit camera, would be black


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
