"""Masks and depth maps: their values as they lie in a file, without a palette's colours, a profile or a scale."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from beam_jobs.images.decode import check_size, decoding, image_formats, orientation_of, pages_of
from beam_jobs.images.files.rasters.read import is_read_alone, read_raster
from beam_jobs.images.files.tiff import is_misread, is_negative
from beam_jobs.images.files.work import check_image
from beam_jobs.images.geometry import turned
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput, Pixels

__all__ = ["Exact", "exact_values", "nearest"]

_OPAQUE: Final = 255
_TIE: Final = 1e-9  # pixels
_LOSSY: Final = frozenset({"JPEG", "MPO", "AVIF", "HEIF"})


class Exact(NamedTuple):
    """The values of a mask or a depth map, `[height, width, 1]`, of the dtype that is stored.

    `orientation` is that of the file, by which they are turned; None if the file states none. `changes` are kinds of
    `CHANGES`.
    """

    values: NDArray[Any]
    orientation: int | None = None
    changes: tuple[str, ...] = ()


def exact_values(data: bytes | Pixels, role: str, options: ImageOptions) -> Exact:
    """The values of a mask or a depth map.

    Args:
        data: the bytes of an image file, or an array `[height, width]` or `[height, width, 1]`.
        role: "mask" or "depth".
        options: the dtypes of both, and the bounds of images.

    Raises:
        BadInput: the file is no image of one channel, is damaged or too large, or a value does not fit the dtype.
    """
    found = Exact(_checked(data, options)) if isinstance(data, np.ndarray) else _read(data, options)
    dtype = options.mask_dtype if role == "mask" else options.depth_dtype
    return found._replace(values=_fitting(np.ascontiguousarray(found.values), role, dtype))


def nearest(values: NDArray[Any], box: tuple[float, float, float, float], size: tuple[int, int]) -> NDArray[Any]:
    """The part `box` (left, top, width, height) of values, at `size` (width, height): those at the new pixels' centres.

    Args:
        values: `[height, width, channels]`, of any dtype.
    """
    rows = _centres(box[1], box[3], size[1], values.shape[0])
    columns = _centres(box[0], box[2], size[0], values.shape[1])
    return values[np.ix_(rows, columns)]


def _centres(start: float, length: float, count: int, most: int) -> NDArray[np.intp]:
    # Of two pixels that are as near, the second: by a little more than the rounding of the sum.
    places = np.floor(start + (np.arange(count) + 0.5) * length / count + _TIE)
    return places.clip(0, most - 1).astype(np.intp)


def _checked(values: NDArray[Any], options: ImageOptions) -> NDArray[Any]:
    """An array of a source, after a check of its shape."""
    if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind not in "buif":
        raise BadInput("bad-array", f"expected numbers [height, width], got {values.dtype} {list(values.shape)}")
    check_size(values.shape[1], values.shape[0], options)
    return _one_channel(values)


def _read(data: bytes, options: ImageOptions) -> Exact:
    """The values in a file, turned by its orientation."""
    with decoding(data, options):
        found = None if is_read_alone(data) else _by_pillow(data, options)
        if found is None:
            # Of floats and of wide integers; no option of photos counts.
            floats = replace(options, dtype="float32", encoding="raw", normalize="none", channels="keep")
            raster = read_raster(data, floats)
            orientation = raster.orientation if raster.orientation != 1 else None  # it says 1 where the file says none
            found = Exact(turned(_one_channel(raster.pixels), raster.orientation), orientation)
        check_size(found.values.shape[1], found.values.shape[0], options)
        return found


def _by_pillow(data: bytes, options: ImageOptions) -> Exact | None:
    """The values in a file, turned by its orientation; None if Pillow cannot read it, or would misread it."""
    try:
        image = Image.open(io.BytesIO(data), formats=image_formats())
    except UnidentifiedImageError:
        return None
    with image:
        check_size(*image.size, options)
        check_image(image, options.max_work)
        is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and is_misread(image, keep=True):
            return None
        # Before the Exif is read, for which Pillow may load the image.
        if image.tile and image.mode.startswith(("LA", "RGB")) and ";16" in str(image.tile[0][3]):
            raise BadInput("mask-colours", "has 16-bit colours, and a mask or a depth map has one number a pixel")
        orientation, broken = orientation_of(image)
        image.load()
        values = np.asarray(image)
        if is_negative(image):
            values = 65_535 - values
        # Pillow turns a TIFF when it loads it.
        upright = turned(_one_channel(values), 1 if is_tiff else orientation or 1)
        lossy = ("lossy",) if image.format in _LOSSY or (image.format == "WEBP" and b"VP8L" not in data[:32]) else ()
        return Exact(upright, orientation, (*broken, *lossy, *pages_of(image)))


def _one_channel(values: NDArray[Any]) -> NDArray[Any]:
    """`[height, width, 1]` of `[height, width]`, or of channels that are alike.

    Raises:
        BadInput: the channels differ.
    """
    if values.ndim == 2:
        return values[..., None]
    first, channels = values[..., :1], values.shape[2]
    # Grey files are often saved with three equal colours. An opacity that is not full would be lost, and can be a mask.
    if channels in (2, 4) and not (values[..., -1] == _OPAQUE).all():
        raise BadInput(
            "mask-colours", "has transparency, and a mask or a depth map has one number a pixel; save it as one channel"
        )
    colours = values[..., :-1] if channels in (2, 4) else values
    if channels > 4 or not (colours == first).all():
        raise BadInput(
            "mask-colours",
            f"has {channels} channels, and a mask or a depth map has one number a pixel; save it as grey or with a"
            " palette",
        )
    return first


def _fitting(values: NDArray[Any], role: str, dtype: str) -> NDArray[Any]:
    """Values of a dtype that holds them.

    Raises:
        BadInput: a value is beyond the dtype.
    """
    target = np.dtype(dtype)
    if values.dtype == target:
        return values.astype(target, copy=False)  # in this machine's byte order
    if target.kind == "f":
        return values.astype(target)
    if values.dtype.kind == "f" and (not np.isfinite(values).all() or (values != np.floor(values)).any()):
        remedy = "; --depth-dtype float32 --encoding raw keeps them" if role == "depth" else ""
        raise BadInput("mask-values", f"has values that are no whole numbers{remedy}")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if low < 0 or high > np.iinfo(target).max:
        wrong = low if low < 0 else high
        wider = f"; --{role}-dtype uint16 holds up to 65535" if 0 <= wrong <= 65_535 else ""
        raise BadInput("mask-values", f"has the value {wrong:g}, which {dtype} cannot hold{wider}")
    return values.astype(target)
