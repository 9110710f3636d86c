"""From pixels to the bytes that are stored: normalization and encodings."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from beam_jobs.images.decode import image_of, to_8_bits
from beam_jobs.images.statistics import ChannelSums
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import Pixels

__all__ = []


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_QUALITY = 90


def _deep(pixels: Pixels) -> NDArray[np.uint16]:
    """8 bits as 16; others as they are."""
    scale = 257 if pixels.dtype == np.uint8 else 1
    return pixels.astype(np.uint16) * np.uint16(scale)


def _encode(pixels: Pixels, options: ImageOptions, statistics: ChannelSums | None) -> bytes:
    quality = options.quality or _QUALITY
    if options.encoding == "jpeg":
        kind = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "420")
        encoded: bytes = simplejpeg.encode_jpeg(pixels, quality, *kind)
        return encoded
    if options.encoding in ("png", "webp"):
        buffer = io.BytesIO()
        quality_of = {"quality": quality} if options.encoding == "webp" else {}
        image_of(to_8_bits(pixels)).save(buffer, options.encoding.upper(), **quality_of)
        return buffer.getvalue()
    if options.dtype == "uint8":
        return pixels.tobytes()
    if options.dtype == "uint16":
        return _deep(pixels).astype("<u2", copy=False).tobytes()
    values = _normalized(pixels, options.normalize, statistics)
    return values.astype(np.dtype(options.dtype).newbyteorder("<")).tobytes()


def _normalized(pixels: Pixels, how: str, statistics: ChannelSums | None) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    if how == "none":  # 0 to 255, whatever the depth
        if pixels.dtype == np.uint16:
            values /= 257
        return values
    values /= np.iinfo(pixels.dtype).max
    if how == "unit":
        return values
    mean, std = _center_and_scale(pixels, how, statistics)
    values -= np.asarray(mean, np.float32)
    values /= np.asarray(std, np.float32)
    return values


def _center_and_scale(
    pixels: Pixels, how: str, statistics: ChannelSums | None
) -> tuple[Sequence[float], Sequence[float]]:
    if how == "symmetric":
        return (0.5,), (0.5,)
    if how == "imagenet":
        return _IMAGENET_MEAN, _IMAGENET_STD
    if how == "dataset" and statistics is None:
        raise ValueError('normalize="dataset" needs the statistics of the dataset')
    mean, std = (statistics if how == "dataset" and statistics else ChannelSums.of(pixels)).mean_std()
    return mean, [value or 1.0 for value in std]  # one colour everywhere: nothing to scale
