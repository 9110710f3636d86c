"""The table of image codecs: the encoding of an image, and its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import MAX_PIXELS, Field
from shard_reader.format.image_codecs.avif import Avif
from shard_reader.format.image_codecs.codec import ImageCodec, ImageHeader, Scratch
from shard_reader.format.image_codecs.jpeg import Jpeg
from shard_reader.format.image_codecs.png import Png
from shard_reader.format.image_codecs.raw import Raw
from shard_reader.format.image_codecs.webp import WebP
from shard_reader.transforms.part import Part

__all__ = [
    "IMAGE_CODECS",
    "codec_for",
    "codec_of",
    "decode_image",
    "encoded_labels",
    "encoding_of",
    "is_pixel_array",
    "read_header",
    "read_size",
]

IMAGE_CODECS: Final[Mapping[str, ImageCodec]] = {codec.name: codec for codec in (Jpeg(), Png(), WebP(), Avif(), Raw())}
"""Every encoding of stored images, by its name. The first whose usual dtype it is, is the default for a dtype."""


def codec_of(field: Field) -> ImageCodec:
    """The codec of a stored image field.

    Raises:
        ValueError: the field is not an image of one encoding.
    """
    codec = IMAGE_CODECS.get(field.encoding or "")
    if codec is None:
        raise ValueError(f"encoding {field.encoding!r}: expected one of {', '.join(IMAGE_CODECS)}")
    return codec


def codec_for(dtype: str) -> ImageCodec:
    """The default codec for pixels of a dtype."""
    fits = (codec for codec in IMAGE_CODECS.values() if dtype in codec.dtypes)
    return next(codec for codec in fits if codec.dtypes[0] == dtype or codec.is_raw)


def is_pixel_array(field: Field) -> bool:
    """Whether images are stored as their pixels, all of one shape."""
    return field.is_fixed and field.encoding in IMAGE_CODECS and codec_of(field).is_raw


def encoding_of(payload: NDArray[np.uint8]) -> str | None:
    """The encoding of an image by its first bytes; None if they are those of no known header."""
    start = payload[:12].tobytes()
    return next((codec.name for codec in IMAGE_CODECS.values() if codec.matches(start)), None)


def encoded_labels() -> str:
    """The encodings that have a header, for messages: `JPEG, PNG, WebP or AVIF`."""
    labels = [codec.label for codec in IMAGE_CODECS.values() if not codec.is_raw]
    return f"{', '.join(labels[:-1])} or {labels[-1]}"


def read_header(payload: NDArray[np.uint8]) -> ImageHeader:
    """The header of an image.

    Raises:
        ValueError: the payload is damaged, not an image, or its pixels are of a kind that is not decoded.
        ModuleNotFoundError: a package is missing: simplejpeg for JPEG, Pillow for the others.
    """
    encoding = encoding_of(payload)
    if encoding is None:
        raise ValueError(f"is no {encoded_labels()}: it begins with {payload[:8].tobytes()!r}")
    return IMAGE_CODECS[encoding].header(payload)


def read_size(payload: NDArray[np.uint8], field: Field) -> tuple[int, int]:
    """The height and the width in the header of an image; those of the field where pixels are raw.

    Raises:
        ValueError: it is not an image of the field's encoding.
        ModuleNotFoundError: a package is missing.
    """
    codec = codec_of(field)
    try:
        header = codec.header(payload, field) if codec.is_raw else read_header(payload)
    except ValueError as error:
        raise ValueError(f"the image {error}") from error
    if header.encoding != codec.name:
        raise ValueError(f"the image is encoded as {header.encoding}, not as {codec.name}")
    return header.height, header.width


def decode_image(
    payload: NDArray[np.uint8],
    field: Field,
    height: int,
    width: int,
    *,
    fast: bool = False,
    scratch: Scratch | None = None,
    max_pixels: int = MAX_PIXELS,
    part: Part | None = None,
) -> NDArray[Any]:
    """The pixels of one payload, `[height, width, channels]` of the field's dtype.

    Raw pixels are a view of `payload`.

    Args:
        fast: decode JPEGs with libjpeg-turbo's fast integer DCT and chroma upsampling, which are less exact.
        scratch: memory to decode JPEGs into; the pixels are valid until it is used again.
        max_pixels: the most pixels of an encoded image.
        part: give this part alone; a JPEG's at 1/scale of its size in each direction, rounded up.

    Raises:
        ValueError: the payload is not an image of this size, or the size is above the bound.
        ModuleNotFoundError: a package is missing; the message names the extra.
    """
    codec = codec_of(field)
    # Index and header may agree on any size. Pixels that are stored raw take their bytes, others a few hundred.
    if height * width > max_pixels and not codec.is_raw:
        raise ValueError(
            f"has {width}x{height} pixels, more than max_pixels={max_pixels}: pass a larger number to open_dataset if"
            " you trust the dataset"
        )
    if part is not None:
        pixels = codec.decode_part(payload, field, height, width, fast, scratch, part)
        if pixels is not None:
            return pixels
    image = codec.decode(payload, field, height, width, fast, scratch)
    # A sound payload of another image, as in a mixed-up file, must not reach a batch: shapes are checked for all
    # codecs.
    channels = field.shape[2]
    expected = (height, width, image.shape[2] if channels is None else channels)
    if image.shape != expected:
        raise ValueError(f"decodes to {image.shape}, not to {expected}")
    return image if part is None else image[part.rows, part.columns]
