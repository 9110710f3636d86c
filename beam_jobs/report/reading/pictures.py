"""The pictures of the report: small images as data URIs, and measures of pixels."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "MEASURES",
    "SIDE",
    "Measures",
    "Picture",
    "measure",
    "picture_of",
    "picture_of_jpeg",
    "picture_without_loss",
]

SIDE: Final = 168
"""The longest side of a picture, in pixels."""
_QUALITY = 68  # of WebP
_TINY = 64  # pixels of a side, up to which a picture is stored without loss
_MOST_JPEG = 1 << 22  # pixels
_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2

MEASURES: Final = ("brightness", "contrast", "sharpness")
"""The names of the measures."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A small image: its data URI, and its size in pixels."""

    uri: str
    width: int
    height: int

    @property
    def is_tiny(self) -> bool:
        """Whether it has so few pixels that they are to be seen when it is enlarged."""
        return max(self.width, self.height) <= _TINY


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of an image's luma.

    Attributes:
        brightness: the mean, 0 to 1.
        contrast: the standard deviation, 0 to 0.5.
        sharpness: the variance of the Laplacian, of luma from 0 to 255.
    """

    brightness: float
    contrast: float
    sharpness: float


def picture_of(pixels: NDArray[np.uint8]) -> Picture:
    """A small picture of `[height, width, 1, 3 or 4]`, uint8."""
    return _picture(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def picture_without_loss(pixels: NDArray[np.uint8]) -> Picture:
    """A picture of `[height, width, 4]`, uint8, that is small already: its colours stay as they are."""
    return _saved(Image.fromarray(pixels), lossless=True)


def picture_of_jpeg(text: str) -> Picture | None:
    """A small picture of a JPEG in base64, which may be anything: it is drawn again. None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["JPEG"]) as image:
            if image.width * image.height > _MOST_JPEG:
                return None
            return _picture(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception:  # Pillow's parsers raise errors of many kinds
        return None


def measure(pixels: NDArray[np.uint8]) -> Measures:
    """The measures of an image, `[height, width, 1, 3 or 4]`, uint8."""
    luma = pixels[..., :3] @ _WEIGHTS if pixels.shape[2] >= 3 else pixels[..., 0].astype(np.float32)
    sharpness = 0.0
    if min(luma.shape) >= 3:
        inner = luma[1:-1, 1:-1]
        around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
        sharpness = float((around - 4 * inner).var(dtype=np.float64))
    mean, deviation = float(luma.mean(dtype=np.float64)), float(luma.std(dtype=np.float64))
    return Measures(brightness=mean / 255, contrast=deviation / 255, sharpness=sharpness)


def _picture(image: Image.Image) -> Picture:
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _saved(image, lossless=max(image.size) <= _TINY)


def _saved(image: Image.Image, *, lossless: bool) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80 if lossless else _QUALITY, method=4, lossless=lossless)
    return Picture(f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", *image.size)
