"""JPEG (ITU-T T.81), by libjpeg-turbo through simplejpeg."""

from __future__ import annotations

import numpy as np

from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.codec import Bytes, ImageCodec, ImageHeader, Pixels, Scratch, optional_module

__all__ = ["Jpeg"]


class Jpeg(ImageCodec):
    """Grey, or colours with half the resolution in both directions (4:2:0)."""

    name, label, media_type = "jpeg", "JPEG", "image/jpeg"
    channels = (1, 3)
    dtypes = ("uint8",)
    max_side = 65_500  # of libjpeg
    quality = 90
    keeps_files = decodes_faster = in_tfds = True
    packages = ("simplejpeg",)

    def matches(self, start: bytes) -> bool:
        return start.startswith(b"\xff\xd8\xff")

    def header(self, payload: Bytes, field: Field | None = None) -> ImageHeader:
        height, width, colorspace = _header(payload)
        return ImageHeader(self.name, height, width, 1 if colorspace == "Gray" else 3, "uint8")

    def decode(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None
    ) -> Pixels:
        """`fast` takes the fast integer DCT and chroma upsampling of libjpeg-turbo."""
        simplejpeg, channels = optional_module("simplejpeg"), field.shape[2]
        # Where images differ in channels, only the header says which this one has; a second call, so only then.
        if channels is None:
            channels = 1 if _header(payload)[2] == "Gray" else 3
        # A buffer of just this size: the decoder compares it with the header's size before it begins, which costs
        # nothing. By itself it would take the memory that the header asks for.
        size = height * width * channels
        memory = np.empty(size, np.uint8) if scratch is None else scratch.memory(size)[:size]
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                payload, "GRAY" if channels == 1 else "RGB", fastdct=fast, fastupsample=fast, buffer=memory
            )
        except ValueError:
            self._check_size(payload, height, width)  # its words are about the buffer
            raise
        return pixels

    def _check_size(self, payload: Bytes, height: int, width: int) -> None:
        header = self.header(payload)
        if (header.height, header.width) != (height, width):
            raise ValueError(f"has a header that says {header.width}x{header.height} pixels, not {width}x{height}")

    def encode(self, pixels: Pixels, quality: int | None) -> bytes:
        kind = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "420")
        encoded: bytes = optional_module("simplejpeg").encode_jpeg(pixels, quality or self.quality, *kind)
        return encoded


def _header(payload: Bytes) -> tuple[int, int, str]:
    """Height, width and colour space of a JPEG.

    Raises:
        ValueError: it is damaged, or of a kind that simplejpeg does not know.
    """
    try:
        height, width, colorspace, _ = optional_module("simplejpeg").decode_jpeg_header(payload)
    except KeyError as error:  # simplejpeg has no name for it, as for 4:4:1
        raise ValueError(f"has a colour space or a subsampling of colours, {error}, that is not known") from None
    return height, width, colorspace
