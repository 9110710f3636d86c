"""The pixels of an image after an affine map."""

from __future__ import annotations

import functools
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader.transforms.moves.affine import AffineMap
from shard_reader.transforms.resize import opencv, run_opencv, target_for

__all__ = ["Fill", "Interpolation", "fill_values", "native", "warp"]

Image = NDArray[Any]
Fill = float | tuple[float, ...]
Interpolation = Literal["nearest", "bilinear"]

_REMAPPED_CHANNELS = 4
# The dtypes whose values OpenCV mixes. Nearest pixels of any dtype are moved as integers of its size.
_MIXED_DTYPES = frozenset(np.dtype(name) for name in ("uint8", "uint16", "int16", "float32"))
_MOVED_AS: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.int32)}


def warp(
    image: Image,
    found: AffineMap,
    shape: tuple[int, int],
    interpolation: Interpolation,
    fill: Fill,
    out: Image | None,
) -> Image:
    """What the map shows of an image, `[*shape, channels]`, in `out` if that fits.

    Args:
        image: `[height, width, channels]`.
        found: the map.
        shape: height and width of the result.
        interpolation: "nearest" takes the pixel whose centre is nearest, as for masks; for "bilinear", places outside
            of the image have the value of `fill`.
        fill: the value of pixels outside of the image, or one for each channel.
        out: may be `image`.

    Returns:
        `image` itself, where nothing moves.

    Raises:
        ValueError: the dtype does not have the value of `fill`, or there is another number of channels than values;
            "bilinear" cannot mix the dtype; the image is too large for OpenCV, above 32,767 pixels. The message
            continues "the image".
    """
    shift = found.shift
    if shift == (0, 0) and shape == image.shape[:2]:
        return image
    image = native(image)
    values = fill_values(fill, image.dtype, image.shape[2])
    target = target_for(out, (*shape, image.shape[2]), image.dtype)
    if np.may_share_memory(image, target):
        image = image.copy()
    if shift is not None:
        _shift(image, target, shift, values)
    elif interpolation == "nearest":
        _nearest(image, target, found, values)
    else:
        _bilinear(image, target, found, values)
    return target


def native(image: Image) -> Image:
    """An image in this machine's byte order, which OpenCV takes for granted."""
    return image if image.dtype.isnative else image.astype(image.dtype.newbyteorder("="))


@functools.lru_cache(64)
def fill_values(fill: Fill, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """The values of a pixel, `[channels]` of the dtype.

    Raises:
        ValueError: as in `warp`.
    """
    given = np.array(fill, np.float64).reshape(-1)
    if len(given) not in (1, channels):
        raise ValueError(f"has {channels} channels, and {fill!r}, its fill, has {len(given)}: give one, or {channels}")
    if dtype.kind in "iu":
        bounds, given = np.iinfo(dtype), np.rint(given)
        if not (given.min() >= bounds.min and given.max() <= bounds.max):
            raise ValueError(f"has pixels of {dtype}, from {bounds.min} to {bounds.max}, and not of {fill!r}, its fill")
    values = np.resize(given, channels).astype(dtype)
    values.flags.writeable = False  # each call has the same array
    return values


def _shift(image: Image, target: Image, shift: tuple[int, int], values: NDArray[Any]) -> None:
    """Move by whole pixels, in rows and columns."""
    # Rows are copied as a whole; pixel by pixel, that takes twenty times as long.
    target[...] = np.broadcast_to(values, (1, *target.shape[1:])).copy()
    sides: list[tuple[slice, slice]] = []
    for size, length, offset in zip(image.shape, target.shape, shift, strict=False):
        first, last = max(0, -offset), min(length, size - offset)
        if first >= last:
            return
        sides.append((slice(first, last), slice(first + offset, last + offset)))
    (to_rows, rows), (to_columns, columns) = sides
    target[to_rows, to_columns] = image[rows, columns]


def _nearest(image: Image, target: Image, found: AffineMap, values: NDArray[Any]) -> None:
    """The nearest pixels: the same ones for any dtype, and on any version of OpenCV."""
    xs, ys = _places(found, target.shape[:2])
    moved_as = _MOVED_AS.get(image.dtype.itemsize)
    if moved_as is None or image.shape[2] > _REMAPPED_CHANNELS:
        _gather(image, target, xs, ys, values)
        return
    cv2 = opencv()
    image = image if image.flags.c_contiguous else np.ascontiguousarray(image)
    run_opencv(
        "remap",
        image.view(moved_as),
        target.view(moved_as),
        xs,
        ys,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_scalar(values.view(moved_as)),
    )


def _gather(image: Image, target: Image, xs: NDArray[Any], ys: NDArray[Any], values: NDArray[Any]) -> None:
    columns, rows = np.rint(xs).astype(np.intp), np.rint(ys).astype(np.intp)
    inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
    target[...] = values
    target[inside] = image[rows[inside], columns[inside]]


def _bilinear(image: Image, target: Image, found: AffineMap, values: NDArray[Any]) -> None:
    if image.shape[2] > _REMAPPED_CHANNELS:
        raise ValueError(
            f"has {image.shape[2]} channels: interpolation='bilinear' takes up to {_REMAPPED_CHANNELS}, and"
            " interpolation='nearest' any number"
        )
    if image.dtype == np.float16:
        mixed = np.empty(target.shape, np.float32)
        _bilinear(image.astype(np.float32), mixed, found, values)
        np.copyto(target, mixed, casting="same_kind")
        return
    if image.dtype not in _MIXED_DTYPES:
        raise ValueError(
            f"has pixels of {image.dtype}, whose values are not mixed: ask for interpolation='nearest', or make them"
            " uint8 or float32 before"
        )
    cv2 = opencv()
    a, b, c, d, e, f = found
    # OpenCV counts places from the centre of the first pixel.
    matrix = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
    run_opencv(
        "warpAffine",
        image,
        target,
        matrix,
        target.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_scalar(values),
    )


def _scalar(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


class _Memory(threading.local):
    """Memory of each thread for the places of pixels: fresh memory takes as long as what is written to it."""

    def __init__(self) -> None:
        self.places = np.empty(0, np.float32)

    def of(self, count: int) -> NDArray[np.float32]:
        if len(self.places) < count:
            self.places = np.empty(count, np.float32)
        return self.places[:count]


_memory = _Memory()


def _places(found: AffineMap, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The columns and rows, counted from the centre of the first pixel, that the centres of pixels show."""
    rows, columns = (np.arange(count) + 0.5 for count in shape)
    xs, ys = _memory.of(2 * shape[0] * shape[1]).reshape(2, *shape)
    for places, by_row, by_column in (
        (xs, found.b * rows + (found.c - 0.5), found.a * columns),
        (ys, found.e * rows + (found.f - 0.5), found.d * columns),
    ):
        np.add.outer(by_row.astype(np.float32), by_column.astype(np.float32), out=places)
    return xs, ys
