"""TIFF files: planes, bits and palettes that decoders misread.

Source: TIFF Revision 6.0, sections 3 to 5 and 18 to 19.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from beam_jobs.sources.files.interface import Pixels

__all__ = ["colours_of_palette", "described", "has_more_bands", "is_misread", "is_negative"]

_BITS, _COMPRESSION, _PHOTOMETRIC, _BANDS, _PLANES = 0x0102, 0x0103, 0x0106, 0x0115, 0x011C
_COLOR_MAP, _EXTRA, _SAMPLE_FORMAT = 0x0140, 0x0152, 0x0153
_WHITE_IS_ZERO, _RGB, _PALETTE = 0, 2, 3
_SAMPLE_FORMATS = {2: "signed", 3: "float", 5: "complex", 6: "complex"}
_PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
_COMPRESSIONS = {7: "JPEG", 34712: "JPEG 2000", 34887: "LERC", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_ALPHAS = (1, 2)

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of TIFF and of BigTIFF."""


def is_misread(image: TiffImagePlugin.TiffImageFile, *, keep: bool) -> bool:
    """Whether Pillow would misread a file, or lose a part of it. Call this before the image is loaded.

    Its pixels are signed, floats or 32-bit numbers, or 16-bit ones that Pillow would take for 8-bit ones, or have a
    further band that is not opacity and would be lost, though all channels are to be kept (`keep`).
    """
    tags = image.tag_v2
    bits = tags.get(_BITS, (1,))
    if tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8:
        return True
    if max(bits) > 16 or any(one in _SAMPLE_FORMATS for one in tags.get(_SAMPLE_FORMAT, ())):
        return True
    return keep and has_more_bands(image)


def has_more_bands(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether the image has bands beside colours and opacity."""
    tags = image.tag_v2
    extra = tags.get(_EXTRA, ())
    colours = 3 if tags.get(_PHOTOMETRIC) == _RGB else 1 if tags.get(_PHOTOMETRIC) in (0, 1, _PALETTE) else 4
    return tags.get(_BANDS, 1) > colours + 1 or any(one not in _ALPHAS for one in extra)


def is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in an image of 16-bit grey, which Pillow does not invert."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def colours_of_palette(image: Image.Image) -> Pixels | None:
    """The colours of a loaded image whose palette has 8-bit values, uint8 `[height, width, 3]`; None for other images.

    The format has 16-bit values. Palettes without a value above 255 are of programs that wrote 8-bit ones, as libtiff's
    tools assume.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.tag_v2.get(_PHOTOMETRIC) != _PALETTE:
        return None
    values = np.asarray(image.tag_v2.get(_COLOR_MAP, ()))
    if image.mode != "P" or not values.size or values.max() > 255 or values.size % 3:
        return None
    palette = values.reshape(3, -1).T.astype(np.uint8)
    colours: Pixels = palette[np.minimum(np.asarray(image), len(palette) - 1)]
    return colours


def described(data: bytes) -> str | None:
    """A TIFF file that Pillow cannot read, in words; None for other files."""
    if not data.startswith(MAGIC):
        return None
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if data[2] == 43 or data[3] == 43 else data[:8])
        file.seek(tags.next)
        tags.load(file)
        return _text(tags)
    except Exception:  # the tags of a damaged file can be anything
        return "a TIFF with damaged tags"


def _text(tags: Any) -> str:
    bits = [int(one) for one in tags.get(_BITS, (1,))]  # the tag of a damaged file may hold text
    formats = {_SAMPLE_FORMATS.get(one, "") for one in tags.get(_SAMPLE_FORMAT, ())} - {""}
    kind = " ".join([*sorted(formats), f"{max(bits)}-bit"])
    bands = int(tags.get(_BANDS, 1))
    compression = _COMPRESSIONS.get(tags.get(_COMPRESSION, 1))
    colours = _PHOTOMETRICS.get(tags.get(_PHOTOMETRIC), "unknown colours")
    packed = f", compressed as {compression}" if compression else ""
    white = ", 0 is white" if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else ""
    return f"a TIFF of {kind} {colours}, {bands} {'band' if bands == 1 else 'bands'}{white}{packed}"
