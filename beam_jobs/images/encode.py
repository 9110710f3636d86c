"""From pixels to the bytes that are stored: normalization and encodings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.decode import to_8_bits
from beam_jobs.images.measures.statistics import ChannelSums, MeanStd
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import Pixels
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["encode", "to_16_bits"]


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encode(pixels: Pixels, options: ImageOptions, statistics: MeanStd | None) -> bytes:
    """The payload of pixels, `[height, width, channels]`, C-contiguous, uint8, uint16 or float32.

    Floats have no known range: they are stored as they are, or by their own mean and deviation.

    Args:
        options: the encoding, its quality and restart markers, the dtype, and the normalization.
        statistics: the sums of the dataset, needed for `normalize="dataset"`.
    """
    stored = _as_stored(pixels, options, statistics)
    return IMAGE_CODECS[options.encoding].encode(stored, options.quality, options.restart_markers)


def _as_stored(pixels: Pixels, options: ImageOptions, statistics: MeanStd | None) -> NDArray[Any]:
    """Normalized pixels of the stored dtype."""
    if options.dtype == "uint8":
        return to_8_bits(pixels)
    if options.dtype == "uint16":
        return to_16_bits(pixels)
    return _normalized(pixels, options.normalize, statistics).astype(options.dtype)


def to_16_bits(pixels: Pixels) -> NDArray[np.uint16]:
    """8-bit pixels scaled to 16 bits; 16-bit pixels unchanged."""
    scale = 257 if pixels.dtype == np.uint8 else 1  # 255 times 257 is 65,535
    return pixels.astype(np.uint16) * np.uint16(scale)


def _normalized(pixels: Pixels, how: str, statistics: MeanStd | None) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    has_range = pixels.dtype != np.float32
    if how == "none":  # 0 to 255 for both depths, so that a dataset of both has one range
        if pixels.dtype == np.uint16:
            values /= 257
        return values
    if has_range:
        values /= np.iinfo(pixels.dtype).max
    if how == "unit":
        return values
    mean, std = _center_and_scale(pixels, how, statistics)
    values -= np.asarray(mean, np.float32)
    values /= np.asarray(std, np.float32)
    return values


def _center_and_scale(pixels: Pixels, how: str, statistics: MeanStd | None) -> tuple[Sequence[float], Sequence[float]]:
    if how == "symmetric":
        return (0.5,), (0.5,)
    if how == "imagenet":
        return _IMAGENET_MEAN, _IMAGENET_STD
    if how == "dataset" and statistics is None:
        raise ValueError('normalize="dataset" needs the statistics of the dataset')
    mean, std = (statistics if how == "dataset" and statistics else ChannelSums.of(pixels)).mean_std()
    return mean, [value or 1.0 for value in std]  # an image of one colour has a deviation of 0
