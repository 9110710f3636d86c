"""PNG (ISO/IEC 15948): without loss, in 8 or 16 bits a value."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.codec import (
    Bytes,
    ImageHeader,
    Pixels,
    RestartMarkers,
    Scratch,
    optional_module,
)
from shard_reader.format.image_codecs.pillow import PillowCodec

__all__ = ["Png"]

_DEPTH, _COLOURS = 24, 25  # places in the file: those of IHDR's fields (section 11.2.2)
_DEEP_CHANNELS = {
    2: 3,
    4: 4,
    6: 4,
}  # of the types of colours that Pillow reads in 8 bits: RGB, grey and RGB with opacity


class Png(PillowCodec):
    """Grey, colours, or colours with opacity.

    16-bit grey is Pillow's. 16-bit colours, of which Pillow keeps 8 bits, are OpenCV's.
    """

    name, label, media_type = "png", "PNG", "image/png"
    suffix = ".png"
    channels = (1, 3, 4)
    dtypes = ("uint8", "uint16")
    max_side = 65_500  # the format allows more; the job's sums over pixels need this bound
    in_tfds = True
    deep_packages = ("cv2",)

    def matches(self, start: bytes) -> bool:
        return start.startswith(b"\x89PNG\r\n\x1a\n")

    def header(self, payload: Bytes, field: Field | None = None) -> ImageHeader:
        found = super().header(payload, field)
        channels = _deep_channels(payload)
        return found if channels is None else found._replace(channels=channels, dtype="uint16")

    def decode(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None
    ) -> Pixels:
        channels = _deep_channels(payload)
        # An index of an earlier version has 8 bits for such files.
        if channels is None or field.dtype != "uint16":
            return super().decode(payload, field, height, width, fast, scratch)
        self._check_deep(payload, field, height, width, channels)
        cv2 = optional_module("cv2")
        try:
            pixels = cv2.imdecode(payload, cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ValueError(f"cannot be decoded: {str(error).strip()}") from error
        if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint16:
            raise ValueError("cannot be decoded: OpenCV finds no 16-bit colours in it")
        code = cv2.COLOR_BGRA2RGBA if channels == 4 else cv2.COLOR_BGR2RGB
        # A colour that stands for transparency, which 8-bit images do not tell either, is a fourth channel to OpenCV.
        colours: Pixels = cv2.cvtColor(np.ascontiguousarray(pixels[..., :channels]), code)
        return colours

    def encode(self, pixels: Pixels, quality: int | None, restart_markers: RestartMarkers = "auto") -> bytes:
        if pixels.dtype == np.uint8 or pixels.shape[2] == 1:
            return super().encode(pixels, quality, restart_markers)
        cv2 = optional_module("cv2")
        code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
        # All that decides the bytes is named. Photos are within 3 % of level 6, in half of its time.
        settings = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
        done, data = cv2.imencode(".png", cv2.cvtColor(pixels, code), settings)
        if not done:
            raise MemoryError("OpenCV cannot encode a PNG")
        return bytes(data)

    def _check_deep(self, payload: Bytes, field: Field, height: int, width: int, channels: int) -> None:
        """Check header and checksums: OpenCV would write to the standard error of the process.

        Raises:
            ValueError: they are not those of an image of this size and type.
        """
        pillow = optional_module("PIL.Image")
        try:
            with pillow.open(io.BytesIO(payload.data), formats=(self.name,)) as image:
                size, is_animated = image.size, getattr(image, "is_animated", False)
                image.verify()
        except MemoryError:
            raise
        except Exception as error:  # Pillow's parsers raise errors of many kinds
            raise ValueError(f"cannot be decoded: {error}") from error
        if size != (width, height):
            raise ValueError(f"has a header that says {size[0]}x{size[1]} pixels, not {width}x{height}")
        if field.shape[2] not in (None, channels):
            raise ValueError(f"has a header that says {channels} channels, not {field.shape[2]}")
        if is_animated:
            raise ValueError("is an animation of 16-bit colours, which is not decoded")


def _deep_channels(payload: Any) -> int | None:
    """The channels of a PNG of 16-bit colours; None for all others."""
    if len(payload) <= _COLOURS or payload[_DEPTH] != 16:
        return None
    return _DEEP_CHANNELS.get(int(payload[_COLOURS]))
