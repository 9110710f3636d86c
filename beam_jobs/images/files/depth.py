"""Bits of a colour in files of which Pillow keeps 8, without a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from PIL import Image

__all__ = ["has_more_bits"]

_SIZ = b"\xff\x4f\xff\x51"  # of a JPEG 2000 codestream: its start, and the marker of sizes (ITU-T T.800, A.5.1)
_SIZ_DEPTH = 42  # from there to the first component's number of bits, less one
_AV1C_HIGH = 0x40  # more than 8 bits, in the third byte of the box (AV1 in ISOBMFF 1.2, section 2.3)


def has_more_bits(image: Image.Image, data: bytes) -> bool:
    """Whether the colours in a file have more than 8 bits, for the formats that Pillow reads as 8-bit colours."""
    find = _FORMATS.get(image.format or "")
    return find is not None and find(image, data)


def _jpeg2000(image: Image.Image, data: bytes) -> bool:
    start = data.find(_SIZ)
    return start >= 0 and data[start + _SIZ_DEPTH : start + _SIZ_DEPTH + 1] > b"\x07"


def _avif(image: Image.Image, data: bytes) -> bool:
    box = data.find(b"av1C")
    return box >= 0 and bool(data[box + 6 : box + 7] and data[box + 6] & _AV1C_HIGH)


def _heif(image: Image.Image, data: bytes) -> bool:
    return int(image.info.get("bit_depth", 8)) > 8


def _sgi(image: Image.Image, data: bytes) -> bool:
    return data[3:4] == b"\x02"  # bytes of a channel


def _ppm(image: Image.Image, data: bytes) -> bool:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    return isinstance(arguments, tuple) and len(arguments) > 1 and arguments[1] > 255


_FORMATS: Final[Mapping[str, Callable[[Image.Image, bytes], bool]]] = {
    "JPEG2000": _jpeg2000,
    "AVIF": _avif,
    "HEIF": _heif,
    "SGI": _sgi,
    "PPM": _ppm,
}
