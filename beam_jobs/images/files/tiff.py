"""TIFF files: planes, bits and palettes that decoders misread.

Source: TIFF Revision 6.0, sections 3 to 5 and 18 to 19.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from beam_jobs.sources.files.interface import BadInput, Pixels

__all__ = ["check_planes", "colours_of_palette", "described", "has_more_bands", "is_negative"]

_BITS, _COMPRESSION, _PHOTOMETRIC, _BANDS, _PLANES = 0x0102, 0x0103, 0x0106, 0x0115, 0x011C
_COLOR_MAP, _EXTRA, _SAMPLE_FORMAT = 0x0140, 0x0152, 0x0153
_WHITE_IS_ZERO, _RGB, _PALETTE = 0, 2, 3
_SAMPLE_FORMATS = {2: "signed", 3: "float", 5: "complex", 6: "complex"}
_PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
_COMPRESSIONS = {7: "JPEG", 34712: "JPEG 2000", 34887: "LERC", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_ALPHAS = (1, 2)


def check_planes(image: TiffImagePlugin.TiffImageFile, *, keep: bool) -> None:
    """Refuse a file that Pillow would misread. Call this before the image is loaded.

    Args:
        image: the image.
        keep: whether all channels are to be kept.

    Raises:
        BadInput: the pixels are signed, or 16-bit numbers that Pillow would take for 8-bit ones, or have a fourth band
            that is not opacity and would be lost.
    """
    tags = image.tag_v2
    bits = tags.get(_BITS, (1,))
    if tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8:
        raise BadInput("unsupported-mode", "a TIFF of 16-bit colours, one plane for each")
    signs = {_SAMPLE_FORMATS[one] for one in tags.get(_SAMPLE_FORMAT, ()) if one in _SAMPLE_FORMATS}
    if signs:
        raise BadInput(
            "unsupported-mode", f"{_text(tags)}: pixels have no known range; scale them to unsigned integers"
        )
    if keep and has_more_bands(image):
        raise BadInput(
            "unsupported-mode", f"{_text(tags)}: of further bands only opacity can be kept; --channels rgb drops them"
        )


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
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    file = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
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
