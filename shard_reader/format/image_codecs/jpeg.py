"""JPEG (ITU-T T.81), by libjpeg-turbo: decoded through simplejpeg, encoded through Pillow, for its restart markers."""

from __future__ import annotations

import io

import numpy as np

from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.codec import (
    Bytes,
    ImageCodec,
    ImageHeader,
    Pixels,
    RestartMarkers,
    Scratch,
    optional_module,
)
from shard_reader.format.image_codecs.jpeg_cut import Cut, cut
from shard_reader.transforms.part import Part

__all__ = ["Jpeg"]

# Units of a row between two restart markers: a marker costs some five bytes, and the fewer units, the less of an image
# that a crop does not need is decoded.
_INTERVALS = (4, 3, 5, 2, 6, 7)


class Jpeg(ImageCodec):
    """Grey, or colours with half the resolution in both directions (4:2:0)."""

    name, label, media_type = "jpeg", "JPEG", "image/jpeg"
    suffix = ".jpg"
    channels = (1, 3)
    dtypes = ("uint8",)
    max_side = 65_500  # of libjpeg
    quality = 90
    keeps_files = decodes_faster = has_restart_markers = in_tfds = True
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
        channels = field.shape[2]
        # Where images differ in channels, only the header says which this one has; a second call, so only then.
        if channels is None:
            channels = 1 if _header(payload)[2] == "Gray" else 3
        try:
            return _decoded(payload, (height, width, channels), 1, fast, scratch)
        except ValueError:
            self._check_size(payload, height, width)  # its words are about the buffer
            raise

    def decode_part(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None, part: Part
    ) -> Pixels | None:
        """Cuts the part out of a payload with restart markers, and decodes at the part's scale."""
        smaller, scale, channels = cut(payload, height, width, part), part.scale, field.shape[2]
        if smaller is None:
            if scale == 1 or channels is None:
                return None
            # Two sizes may be the same when they are scaled: so they are compared before.
            self._check_size(payload, height, width)
            smaller = Cut(payload, 0, 0, height, width, channels)
        shape = (-(-smaller.height // scale), -(-smaller.width // scale), channels or smaller.channels)
        try:
            pixels = _decoded(smaller.data, shape, scale, fast, scratch)
        except ValueError:
            return None
        top, left = (part.top - smaller.top) // scale, (part.left - smaller.left) // scale
        return pixels[top : top + -(-part.height // scale), left : left + -(-part.width // scale)]

    def _check_size(self, payload: Bytes, height: int, width: int) -> None:
        header = self.header(payload)
        if (header.height, header.width) != (height, width):
            raise ValueError(f"has a header that says {header.width}x{header.height} pixels, not {width}x{height}")

    def encode(self, pixels: Pixels, quality: int | None, restart_markers: RestartMarkers = "auto") -> bytes:
        pillow, grey = optional_module("PIL.Image"), pixels.shape[2] == 1
        image = pillow.frombytes("L" if grey else "RGB", pixels.shape[1::-1], pixels.data)
        buffer = io.BytesIO()
        interval = _interval(pixels.shape[1], 8 if grey else 16, restart_markers)
        sampling = "4:4:4" if grey else "4:2:0"
        image.save(
            buffer,
            "JPEG",
            quality=quality or self.quality,
            subsampling=sampling,
            restart_marker_blocks=interval,
        )
        return buffer.getvalue()


def _interval(width: int, unit: int, restart_markers: RestartMarkers) -> int:
    """The number of units (MCUs, of so many pixels) between two restart markers; 0 for none."""
    units = -(-width // unit)
    if restart_markers == "none":
        return 0
    parts = [interval for interval in _INTERVALS if interval < units and units % interval == 0]
    return parts[0] if parts and restart_markers == "auto" else units


def _decoded(
    data: Bytes | bytearray, shape: tuple[int, int, int], scale: int, fast: bool, scratch: Scratch | None
) -> Pixels:
    """The pixels of a JPEG, which has this shape at 1/scale of its size."""
    height, width, channels = shape
    # A buffer of just this size: the decoder compares it with the header's size before it begins, which costs nothing.
    # By itself it would take the memory that the header asks for.
    size = height * width * channels
    memory = np.empty(size, np.uint8) if scratch is None else scratch.memory(size)[:size]
    pixels: Pixels = optional_module("simplejpeg").decode_jpeg(
        data,
        "GRAY" if channels == 1 else "RGB",
        fastdct=fast,
        fastupsample=fast,
        # Otherwise the decoder would scale a JPEG of another size than the index says to that size.
        min_height=height if scale > 1 else 0,
        min_width=width if scale > 1 else 0,
        buffer=memory,
    )
    return pixels


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
