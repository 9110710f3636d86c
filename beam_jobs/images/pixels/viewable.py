"""Bands and floats as pixels to look at: for thumbnails and perceptual hashes."""

from __future__ import annotations

import numpy as np

from beam_jobs.sources.files.interface import Pixels

__all__ = ["viewable"]


def viewable(pixels: Pixels, *, bands: bool) -> Pixels:
    """Pixels as grey, RGB or RGB with opacity, uint8 or uint16 `[height, width, 1, 3 or 4]`.

    Of bands, those are the first three, or the first one. Floats are scaled from their least to their greatest value.
    """
    if bands:
        pixels = np.ascontiguousarray(pixels[..., : 3 if pixels.shape[2] >= 3 else 1])
    if pixels.dtype != np.float32:
        return pixels
    finite = pixels[np.isfinite(pixels)]
    if not finite.size or finite.min() == finite.max():
        return np.zeros(pixels.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())  # as float64, in which their difference is finite
    shown = np.nan_to_num((pixels.astype(np.float64) - low) * (255 / (high - low)), nan=0.0)
    levels: Pixels = np.rint(shown).astype(np.uint8)
    return levels
