"""Changes of the levels of pixels, each by itself: by tables for uint8, by arithmetic for the other dtypes.

They are those of `torchvision.transforms.v2.functional`, of the same names, on images `[height, width, channels]`. They
write to `out`, if that is given and fits, which may be the image. Floats are from 0 to 1, as in torchvision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.base import Image
from shard_reader.transforms.moves.warp import native
from shard_reader.transforms.resize import opencv, run_opencv, target_for

__all__ = [
    "adjust_brightness",
    "as_floats",
    "autocontrast",
    "blend",
    "by_table",
    "equalize",
    "of_colours",
    "posterize",
    "solarize",
    "stored",
    "white",
]

_DTYPES = frozenset(np.dtype(name) for name in ("uint8", "uint16", "float16", "float32"))
_LEVELS = np.arange(256, dtype=np.float32)
_FAR = (-1.0, 2.0)  # Floats beyond are not from 0 to 1, rounded; nor are they after a filter that overshoots.


def of_colours(image: Image, name: str) -> Image:
    """An image whose colours can change, in this machine's byte order.

    Args:
        image: `[height, width, channels]`.
        name: the transform, for the message.

    Raises:
        ValueError: it has neither 1 nor 3 channels, pixels of another dtype than uint8, uint16, float16 and float32, or
            floats that are not from 0 to 1. The message continues "the image".
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        channels = f"{image.shape[2]} channels" if image.ndim == 3 else f"the shape {image.shape}"
        raise ValueError(f"has {channels}: {name} takes 1 or 3 channels, as in torchvision")
    image = native(image)
    if image.dtype not in _DTYPES:
        raise ValueError(f"has pixels of {image.dtype}: {name} takes uint8, uint16, float16 and float32")
    if image.dtype.kind == "f" and image.size:
        least, most = float(image.min()), float(image.max())
        if not (_FAR[0] <= least and most <= _FAR[1]):
            raise ValueError(
                f"has floats from {least:.4g} to {most:.4g}: {name} takes floats from 0 to 1, as torchvision does:"
                " prepare uint8, or --normalize unit"
            )
    return image


def white(dtype: np.dtype[Any]) -> float:
    """The greatest value of a pixel."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def as_floats(image: Image) -> NDArray[np.float32]:
    """Pixels as new float32."""
    return image.astype(np.float32)


def stored(values: NDArray[Any], dtype: np.dtype[Any], out: Image | None) -> Image:
    """Values within the range of a dtype as its pixels. Integers lose their fractions, as in torchvision."""
    target = target_for(out, values.shape, dtype)
    np.copyto(target, values, casting="unsafe")
    return target


def by_table(image: Image, table: NDArray[np.uint8], out: Image | None) -> Image:
    """The entries of a table, `[256]` or `[256, channels]`, for uint8."""
    target = target_for(out, image.shape, image.dtype)
    run_opencv("LUT", image, target, table.reshape(1, 256, -1))
    return target


def adjust_brightness(image: Image, factor: float, out: Image | None) -> Image:
    """`factor` times the pixels."""
    return blend(image, 0.0, factor, out)


def blend(image: Image, level: float, factor: float, out: Image | None) -> Image:
    """`factor` times the pixels, and for the rest of `1 - factor` a level. It stays within the dtype's range."""
    ratio, rest = np.float32(factor), np.float32(1 - factor) * np.float32(level)
    if image.dtype == np.uint8:
        return by_table(image, (_LEVELS * ratio + rest).clip(0, 255).astype(np.uint8), out)
    values = as_floats(image)
    values *= ratio
    values += rest
    return stored(values.clip(0, white(image.dtype), out=values), image.dtype, out)


def posterize(image: Image, bits: int, out: Image | None) -> Image:
    """The first `bits` bits of each pixel, from 0 to 8. Floats have that many bits in all."""
    if image.dtype.kind == "f":
        values, levels = as_floats(image), 1 << bits
        np.floor(values * levels, out=values)
        return stored(values.clip(0, levels - 1) / np.float32(levels), image.dtype, out)
    unused = 8 * image.dtype.itemsize - bits
    if unused <= 0:
        return image
    mask = image.dtype.type(((1 << bits) - 1) << unused)
    target = target_for(out, image.shape, image.dtype)
    np.bitwise_and(image, mask, out=target)
    return target


def solarize(image: Image, share: float, out: Image | None) -> Image:
    """The inverse of pixels from `share` of the greatest value."""
    most = white(image.dtype)
    if image.dtype == np.uint8:
        table = np.where(most * share <= _LEVELS, 255 - _LEVELS, _LEVELS)
        return by_table(image, table.astype(np.uint8), out)
    values = as_floats(image)
    return stored(np.where(values >= most * share, np.float32(most) - values, values), image.dtype, out)


def autocontrast(image: Image, out: Image | None) -> Image:
    """Each channel from its least and greatest pixel to the whole range; a channel of one value stays."""
    if not image.size:
        return image
    rows = image.reshape(image.shape[0], -1) if image.flags.c_contiguous else image.reshape(-1, image.shape[2])
    least, most = (function.reduce(rows, axis=0).reshape(-1, image.shape[2]) for function in (np.minimum, np.maximum))
    low, high = least.min(0).astype(np.float32), most.max(0).astype(np.float32)
    is_flat, bound = low == high, np.float32(white(image.dtype))
    scale = np.where(is_flat, np.float32(1), (high - low) * np.float32(1 / bound))
    low = np.where(is_flat, np.float32(0), low)
    if image.dtype == np.uint8:
        table = ((_LEVELS[:, np.newaxis] - low) / scale).clip(0, bound)
        return by_table(image, table.astype(np.uint8), out)
    values = as_floats(image)
    values -= low
    values /= scale
    return stored(values.clip(0, bound, out=values), image.dtype, out)


def equalize(image: Image, out: Image | None) -> Image:
    """Each channel with a histogram as even as a table makes it, by the rule of Pillow.

    uint16 and floats are equalized in 256 levels, as in torchvision.
    """
    if not image.size:
        return image
    if image.dtype == np.uint8:
        return by_table(image, _equalizing(image), out)
    if image.dtype.kind == "u":
        levels = (image >> 8).astype(np.uint8)
        found = by_table(levels, _equalizing(levels), None).astype(np.float32) * np.float32(256)
    else:
        levels = (as_floats(image).clip(0, 1) * np.float32(255.999)).astype(np.uint8)
        found = by_table(levels, _equalizing(levels), None).astype(np.float32) / np.float32(255)
    return stored(found, image.dtype, out)


def _equalizing(image: Image) -> NDArray[np.uint8]:
    """The tables of the channels, `[256, channels]`."""
    cv2, tables = opencv(), np.empty((256, image.shape[2]), np.uint8)
    for channel in range(image.shape[2]):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).reshape(256).astype(np.int64)
        last = int(np.flatnonzero(counts)[-1])
        step = int(counts.sum() - counts[last]) // 255
        if step == 0:
            tables[:, channel] = np.arange(256)
            continue
        before = np.cumsum(counts) - counts
        tables[:, channel] = ((before + step // 2) // step).clip(0, 255)
    return tables
