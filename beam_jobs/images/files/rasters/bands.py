"""TIFF files that Pillow does not read, or would misread: bands, floats, planes and signed numbers, by tifffile.

The header is parsed by tifffile, of the first page alone. Sizes, types and compressions are checked before imagecodecs
decodes a strip or a tile, into memory of its size.

Source: TIFF Revision 6.0; the tag of GDAL is that of its driver GTiff.
"""

from __future__ import annotations

import io
import logging
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.files.packages import required
from beam_jobs.images.files.rasters.raster import Raster, check_bytes, check_shape, needs_floats
from beam_jobs.images.files.tiff import described
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput, Pixels

__all__ = ["read_bands"]

_GREY, _RGB = (0, 1), 2
_WHITE_IS_ZERO = 0
_ASSOCIATED, _UNASSOCIATED = 1, 2
_GDAL_NODATA, _ORIENTATION = 42113, 274
# Those that imagecodecs decodes into memory of a given size: none, LZW, deflate, PackBits, LZMA and Zstandard.
_COMPRESSIONS: Final = (1, 5, 8, 32946, 32773, 34925, 50000)
_INTEGERS: Final = ("uint8", "uint16")
_FLOATS: Final = ("int8", "int16", "int32", "uint32", "float16", "float32", "float64")
_LONGEST_NUMBER: Final = 64  # characters


def read_bands(data: bytes, options: ImageOptions) -> Raster:
    """The values of the first page of a TIFF file.

    Numbers that are neither uint8 nor uint16 become float32. In these, the value without data of GDAL becomes NaN.

    Raises:
        BadInput: the file is of a kind that is not read, is too large, or a package is missing.
        Exception: of many kinds, for a damaged file.
    """
    what = described(data) or "a TIFF"
    tifffile = required("tifffile", "tiff", f"{what}: such images")
    required("imagecodecs", "tiff", f"{what}: such images")
    logging.getLogger("tifffile").disabled = True  # it complains of damage there, beside its errors
    # Formats of microscopes, which tifffile knows, are read as the TIFFs that they are.
    plain = {f"is_{name}": False for name in ("lsm", "ndpi", "scanimage")}
    with tifffile.TiffFile(io.BytesIO(data), name="image.tif", _multifile=False, **plain) as file:
        page = file.pages.first
        height, width, bands, dtype = _checked(page, what, options)
        if dtype in _FLOATS:
            problem = needs_floats(what, options)
            if problem is not None:
                raise problem
        values = page.asarray(maxworkers=1)
        if page.planarconfig == 2 and bands > 1:
            values = np.moveaxis(values.reshape(bands, height, width), 0, 2)
        values = values.reshape(height, width, bands)
        pages = ("pages",) if _has_next(file) else ()
        return _raster(page, values, what, pages)


def _checked(page: Any, what: str, options: ImageOptions) -> tuple[int, int, int, str]:
    """Height, width, bands and dtype of a page, of which nothing is decoded.

    Raises:
        BadInput: it is too large, or of a kind that is not read.
    """
    height, width, bands = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    dtype = "" if page.dtype is None else page.dtype.name
    remedy = "convert it, or give --channels rgb" if options.channels == "keep" else "convert it"
    refused = BadInput("unsupported-mode", f"{what}, which is not read; {remedy}")
    if dtype not in (*_INTEGERS, *_FLOATS) or page.bitspersample != 8 * page.dtype.itemsize or page.is_volumetric:
        raise refused
    if page.photometric not in (*_GREY, _RGB) or page.compression not in _COMPRESSIONS:
        raise refused
    check_shape(height, width, bands, max(4, page.dtype.itemsize) if dtype in _FLOATS else page.dtype.itemsize, options)
    # A tile may be larger than the image, and there may be many of them.
    chunk = math.prod(int(side) for side in page.chunks)
    check_bytes(f"strips or tiles of {chunk:,} values", chunk * page.dtype.itemsize, options)
    work = chunk * max(1, len(page.dataoffsets))
    if work > options.max_work:
        raise BadInput(
            "too-much-work",
            f"{len(page.dataoffsets):,} strips or tiles of {chunk:,} values: decoding goes over {work:,}, more than"
            f" --max-work {options.max_work:,}; save it again, or allow more",
        )
    return height, width, bands, dtype


def _raster(page: Any, values: NDArray[Any], what: str, changes: tuple[str, ...]) -> Raster:
    bands = values.shape[2]
    is_rgb = page.photometric == _RGB and bands >= 3
    extra = [int(one) for one in page.extrasamples]
    has_opacity = extra[-1:] in ([_ASSOCIATED], [_UNASSOCIATED]) and is_rgb and bands == 4
    nodata = _nodata(page)
    if values.dtype.name in _INTEGERS:
        pixels: Pixels = np.ascontiguousarray(values)
        if page.photometric == _WHITE_IS_ZERO and bands == 1:
            pixels = np.iinfo(pixels.dtype).max - pixels
        if has_opacity and extra[-1] == _ASSOCIATED:
            pixels = _unmultiplied(pixels)
        missing = nodata is not None and bool((values == nodata).any())
    else:
        pixels, missing = _as_floats(values, nodata)
    orientation = page.tags.valueof(_ORIENTATION, default=1)
    return Raster(
        pixels,
        what,
        is_rgb=is_rgb,
        has_opacity=has_opacity and pixels.dtype != np.float32,
        orientation=orientation if orientation in range(1, 9) else 1,
        profile=page.iccprofile if is_rgb and pixels.dtype != np.float32 else None,
        changes=(*changes, *(("nodata",) if missing else ())),
    )


def _as_floats(values: NDArray[Any], nodata: float | None) -> tuple[NDArray[np.float32], bool]:
    """Values as float32, with NaN for those without data, and whether there are any.

    Raises:
        BadInput: a value is beyond float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        floats = np.array(values, np.float32, order="C")
        if nodata is not None and not math.isnan(nodata):
            # A float32 holds the number that is nearest to the text.
            floats[(values == nodata) | (floats == np.float32(nodata))] = np.nan
    if bool(np.isinf(floats).any()):
        raise BadInput("unsupported-mode", "values are infinite, or beyond float32; scale them")
    return floats, bool(np.isnan(floats).any())


def _nodata(page: Any) -> float | None:
    """The value for pixels without data, by the tag of GDAL; None without it."""
    text = page.tags.valueof(_GDAL_NODATA)
    try:
        return float(text) if isinstance(text, str) and len(text) <= _LONGEST_NUMBER else None
    except ValueError:
        return None


def _has_next(file: Any) -> bool:
    """Whether there is a further page, which may be damaged."""
    try:
        return file.pages.get(1) is not None
    except IndexError:
        return False
    except Exception:  # the headers of further pages can be damaged: there are such pages
        return True


def _unmultiplied(pixels: Pixels) -> Pixels:
    """Colours divided by the opacity that they were multiplied by, `[height, width, 4]`."""
    peak = int(np.iinfo(pixels.dtype).max)
    colours, opacity = pixels[..., :3].astype(np.uint64), pixels[..., 3:].astype(np.uint64)
    colours = (colours * np.uint64(peak) + opacity // np.uint64(2)) // np.maximum(opacity, np.uint64(1))
    return np.concatenate([colours.clip(0, peak).astype(pixels.dtype), pixels[..., 3:]], 2)
