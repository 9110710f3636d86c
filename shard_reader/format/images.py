"""Stored images: their headers, and their pixels."""

from __future__ import annotations

import importlib
import io
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.manifest import Field

__all__ = ["ImageHeader", "Scratch", "decode_image", "encoding_of", "read_header"]


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


class Scratch:
    """Memory for the pixels of one image at a time, so that not every image needs memory of its own."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def memory(self, size: int) -> NDArray[np.uint8]:
        """The memory, of at least `size` bytes: what was in it is gone."""
        if len(self._memory) < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


def decode_image(
    payload: NDArray[np.uint8],
    field: Field,
    height: int,
    width: int,
    *,
    fast: bool = False,
    scratch: Scratch | None = None,
) -> NDArray[Any]:
    """The pixels of one payload, `[height, width, channels]` of the field's dtype.

    Raw pixels are a view of `payload`.

    Args:
        fast: decode JPEGs with libjpeg-turbo's fast integer DCT and chroma upsampling, which are less exact.
        scratch: where JPEGs are decoded to; the pixels are valid until it is used again.

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
    if field.encoding == "jpeg":
        image = _decode_jpeg(payload, channels, height * width, fast, scratch)
    else:
        image = _decode_with_pillow(payload, channels)
    expected = (height, width, image.shape[2] if channels is None else channels)
    if image.shape != expected:
        raise ValueError(f"decodes to {image.shape}, not to {expected}")
    return image


def _decode_jpeg(
    payload: NDArray[np.uint8], channels: int | None, size: int, fast: bool, scratch: Scratch | None
) -> NDArray[np.uint8]:
    codec = _module("simplejpeg")
    if channels is None:
        channels = 1 if codec.decode_jpeg_header(payload)[2] == "Gray" else 3
    pixels: NDArray[np.uint8] = codec.decode_jpeg(
        payload,
        "GRAY" if channels == 1 else "RGB",
        fastdct=fast,
        fastupsample=fast,
        buffer=None if scratch is None else scratch.memory(size * channels),
    )
    return pixels


def _decode_with_pillow(payload: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    codec = _module("PIL.Image")
    try:
        with codec.open(io.BytesIO(payload.data)) as image:
            # Grey among colour, which a JPEG's decoder makes colour by itself.
            pixels = np.asarray(image.convert("RGB") if channels == 3 and image.mode == "L" else image)
    except MemoryError:
        raise
    except Exception as error:  # its decoders raise what they like: SyntaxError, struct.error, EOFError, ...
        raise ValueError(f"cannot be decoded: {error}") from error
    return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]


def _module(name: str) -> ModuleType:
    """A codec, imported when the first image needs it, so that raw pixels need none of them."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"decoding images needs {error.name}: pip install 'image-shards[decode]'", name=error.name
        ) from error
