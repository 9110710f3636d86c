"""What an encoded image says of itself, without decoding it."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageHeader", "encoding_of", "read_header"]

_JPEG, _PNG, _RIFF, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
_MODES = {"L": (1, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8"), "I;16": (1, "uint16")}
"""Channels and dtype of Pillow's modes whose pixels need no conversion."""


class ImageHeader(NamedTuple):
    """The type of an image: what it decodes to is `[height, width, channels]`."""

    encoding: str
    height: int
    width: int
    channels: int
    dtype: str


def encoding_of(payload: NDArray[np.uint8]) -> str | None:
    """`jpeg`, `png` or `webp` by the first bytes of an image; None if it is none of them."""
    start = payload[:12].tobytes()
    if start.startswith(_JPEG):
        return "jpeg"
    if start.startswith(_PNG):
        return "png"
    return "webp" if start.startswith(_RIFF) and start.endswith(_WEBP) else None


def read_header(payload: NDArray[np.uint8]) -> ImageHeader:
    """The header of an image.

    Raises:
        ValueError: it is damaged, no image, or one of a kind that the reader does not decode.
        ModuleNotFoundError: a codec is missing: simplejpeg for JPEG, Pillow for the others.
    """
    encoding = encoding_of(payload)
    if encoding is None:
        raise ValueError(f"is no JPEG, PNG or WebP: it begins with {payload[:8].tobytes()!r}")
    return _jpeg_header(payload) if encoding == "jpeg" else _other_header(payload, encoding)


def _jpeg_header(payload: NDArray[np.uint8]) -> ImageHeader:
    import simplejpeg

    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(payload)
    return ImageHeader("jpeg", height, width, 1 if colorspace == "Gray" else 3, "uint8")


def _other_header(payload: NDArray[np.uint8], encoding: str) -> ImageHeader:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload.data), formats=(encoding,)) as image:
            mode, (width, height) = image.mode, image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"has no {encoding} header that can be read ({error})") from error
    if mode not in _MODES:
        raise ValueError(f"has pixels of Pillow's mode {mode}; the reader takes {', '.join(_MODES)}")
    return ImageHeader(encoding, height, width, *_MODES[mode])
