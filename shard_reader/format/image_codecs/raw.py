"""Pixels as they are: little-endian, in the order height, width, channel."""

from __future__ import annotations

import numpy as np

from shard_reader.format.fields import IMAGE_DTYPES, Field
from shard_reader.format.image_codecs.codec import Bytes, ImageCodec, ImageHeader, Pixels, RestartMarkers, Scratch

__all__ = ["Raw"]


class Raw(ImageCodec):
    """Pixels of any dtype. There is no header: the field or the record gives the shape."""

    name, label, media_type = "raw", "raw", "application/octet-stream"
    channels = tuple(range(1, 17))
    dtypes = IMAGE_DTYPES
    max_side = 65_500
    is_raw = True

    def header(self, payload: Bytes, field: Field | None = None) -> ImageHeader:
        if field is None or not field.is_fixed:
            raise ValueError("is raw, and its field has no shape that is the same for every record")
        height, width, channels = (size or 0 for size in field.shape)
        if payload.size != height * width * channels * np.dtype(field.dtype).itemsize:
            raise ValueError(f"has {payload.size} bytes, not the pixels of {field.shape}")
        return ImageHeader(self.name, height, width, channels, field.dtype)

    def decode(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None
    ) -> Pixels:
        """A view of `payload`."""
        pixels, channels = payload.view(np.dtype(field.dtype).newbyteorder("<")), field.shape[2]
        if channels is None:
            channels = pixels.size // max(1, height * width)
        if pixels.size != height * width * channels:
            raise ValueError(f"has {payload.size} bytes, not the pixels of {width}x{height}")
        return pixels.reshape(height, width, channels)

    def encode(self, pixels: Pixels, quality: int | None, restart_markers: RestartMarkers = "auto") -> bytes:
        return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
