"""From a stored payload to pixels."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from shard_reader.format import Field

__all__ = ["CenterCrop", "decode_image"]


@dataclass(frozen=True, slots=True)
class CenterCrop:
    """Takes the middle of an image, without scaling it.

    Args:
        size: of a square, or (height, width), in pixels.

    Raises:
        TypeError: a size that is neither.
        ValueError: a size below 1; on a call, an image that is smaller than the crop.

    >>> CenterCrop(2)(np.zeros((4, 6, 3), np.uint8)).shape
    (2, 2, 3)
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            raise TypeError(f"size={self.size!r}: must be an integer, or (height, width)")
        if min(sides) < 1:
            raise ValueError(f"size={self.size!r}: must be at least 1 pixel")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every image it gives."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, image: NDArray[np.generic]) -> NDArray[np.generic]:
        """The middle of `image`, a view: `[h, w, channels]` to `[*shape, channels]`."""
        height, width = self.shape
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        if top < 0 or left < 0:
            raise ValueError(
                f"is {image.shape[1]}x{image.shape[0]}, smaller than the crop of {width}x{height}:"
                " ask for a smaller crop, or prepare larger images (--size)"
            )
        return image[top : top + height, left : left + width]


def decode_image(payload: NDArray[np.uint8], field: Field, height: int, width: int) -> NDArray[np.generic]:
    """The pixels of one payload, `[height, width, channels]` of the field's dtype.

    Raw pixels are a view of `payload`.

    Raises:
        ValueError: the payload is not an image of this size.
    """
    channels = field.shape[2]
    if field.encoding == "raw":
        pixels = payload.view(np.dtype(field.dtype).newbyteorder("<"))
        if channels is None:
            channels = pixels.size // max(1, height * width)
        if pixels.size != height * width * channels:
            raise ValueError(f"has {payload.size} bytes, not the pixels of {width}x{height}")
        return pixels.reshape(height, width, channels)
    image = _decode_jpeg(payload, channels) if field.encoding == "jpeg" else _decode_with_pillow(payload)
    expected = (height, width, image.shape[2] if channels is None else channels)
    if image.shape != expected:
        raise ValueError(f"decodes to {image.shape}, not to {expected}")
    return image


def _decode_jpeg(payload: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    codec = _module("simplejpeg")
    if channels is None:
        channels = 1 if codec.decode_jpeg_header(payload)[2] == "Gray" else 3
    pixels: NDArray[np.uint8] = codec.decode_jpeg(payload, "GRAY" if channels == 1 else "RGB")
    return pixels


def _decode_with_pillow(payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with _module("PIL.Image").open(io.BytesIO(payload.data)) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]


def _module(name: str) -> ModuleType:
    """A codec, imported when the first image needs it, so that raw pixels need none of them."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"decoding images needs {error.name}: pip install 'image-shards[decode]'", name=error.name
        ) from error
