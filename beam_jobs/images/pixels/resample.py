"""Resampling, by cykooz-resizer: a part of an image to an image of another size."""

from __future__ import annotations

import threading
from typing import Any, Final

import cykooz_resizer as cykooz
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.images.pixels.rgbx import colours_of, packed, rgbx_of
from beam_jobs.sources.files.interface import Pixels

__all__ = ["resampled"]

_FILTERS: Final = {
    "lanczos": cykooz.ResizeAlg.convolution(cykooz.FilterType.lanczos3),
    "bicubic": cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom),
    "bilinear": cykooz.ResizeAlg.convolution(cykooz.FilterType.bilinear),
    "area": cykooz.ResizeAlg.convolution(cykooz.FilterType.box),
    "nearest": cykooz.ResizeAlg.nearest(),
}

# Four plain channels are "CMYK" to the resizer: it multiplies those of "RGBA" by their opacity, and has no "RGBX".
_MODES: Final = {1: "L", 3: "CMYK", 4: "RGBA"}
_DEEP_TYPES: Final = {1: cykooz.PixelType.U16, 3: cykooz.PixelType.U16x3, 4: cykooz.PixelType.U16x4}
_BAND_TYPES: Final = {"uint8": cykooz.PixelType.U8, "uint16": cykooz.PixelType.U16, "float32": cykooz.PixelType.F32}

_NUDGE: Final = 2**-20  # pixels

_thread = threading.local()


def resampled(
    pixels: Pixels,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    filter: str,
    bands: bool = False,
) -> Pixels:
    """The part `box` (left, top, width, height) of pixels, at `size` (width, height).

    Args:
        pixels: uint8 or uint16 `[height, width, channels]`: grey, RGB, or RGB with opacity, by which colours count; or
            float32 of any number of channels.
        filter: a name of `FILTERS`.
        bands: whether the channels are bands, in any number, of which none counts by another.

    Returns:
        The same dtype and channels, C-contiguous.
    """
    if not hasattr(_thread, "resizer"):
        _thread.resizer = cykooz.Resizer()  # one for each thread, since it has buffers
    options = cykooz.ResizeOptions(_FILTERS[filter], crop_box=cykooz.CropBox(*_safe_box(box, filter)))
    channels = pixels.shape[2]
    if bands or pixels.dtype == np.float32:
        return _each_band(pixels, size, options)
    if pixels.dtype == np.uint16:  # Pillow has no 16-bit colours: these are copied
        kind = _DEEP_TYPES[channels]
        source = cykooz.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
        target = cykooz.ImageData(*size, kind)
        _thread.resizer.resize(source, target, options)
        deep: NDArray[Any] = np.frombuffer(target.get_buffer(), np.uint16)
        return deep.reshape(*size[::-1], channels)
    eight = pixels.astype(np.uint8, copy=False)
    whole = rgbx_of(eight) if channels == 3 else np.ascontiguousarray(eight)
    result = np.empty((*size[::-1], whole.shape[2]), np.uint8)
    _thread.resizer.resize_pil(_image_on(whole, channels), _image_on(result, channels), options)
    return packed(colours_of(result)) if channels == 3 else result


def _each_band(pixels: Pixels, size: tuple[int, int], options: cykooz.ResizeOptions) -> Pixels:
    """Bands, one after the other. A float is made of the floats around it: it is NaN if one of them is."""
    if not hasattr(_thread, "plain"):
        _thread.plain = cykooz.Resizer()
        # Sums of floats depend on their order, and so on the vectors of a CPU; sums of integers do not.
        _thread.plain.cpu_extensions = cykooz.CpuExtensions.none
    result = np.empty((*size[::-1], pixels.shape[2]), pixels.dtype)
    for band in range(pixels.shape[2]):
        kind = _BAND_TYPES[pixels.dtype.name]
        source = cykooz.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels[..., band].tobytes())
        target = cykooz.ImageData(*size, kind)
        _thread.plain.resize(source, target, options)
        result[..., band] = np.frombuffer(target.get_buffer(), pixels.dtype).reshape(size[::-1])
    return result


def _safe_box(box: tuple[float, float, float, float], filter: str) -> tuple[float, float, float, float]:
    """The box, or one that is smaller by a millionth of a pixel."""
    # Version 4.0.1 reads foreign memory, and ends the process, where a weight of the bicubic filter is exactly 0: at
    # whole distances, as of a box that begins at a quarter of a pixel. Other filters have no such weights inside.
    if filter != "bicubic":
        return box
    left, top, width, height = box
    return left + _NUDGE, top + _NUDGE, width - 2 * _NUDGE, height - 2 * _NUDGE


def _image_on(pixels: NDArray[np.uint8], channels: int) -> Image.Image:
    """An image of Pillow whose memory is that of the pixels."""
    height, width = pixels.shape[:2]
    mode = _MODES[channels]
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
