"""The encodings that Pillow reads and writes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

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

__all__ = ["PillowCodec"]

_MODES = {"L": (1, "uint8"), "RGB": (3, "uint8"), "RGBA": (4, "uint8"), "I;16": (1, "uint16")}
"""Channels and dtype of Pillow's modes whose pixels need no conversion."""


class _OtherImageError(ValueError):
    """A header that does not say what the index says. Its words need no explanation."""


class PillowCodec(ImageCodec):
    """An encoding whose name is that of a format of Pillow."""

    dtypes: ClassVar[tuple[str, ...]] = ("uint8",)
    packages = ("PIL",)
    settings: ClassVar[Mapping[str, Any]] = {}
    """Arguments of Pillow's `save` that decide the bytes, beside the quality."""

    def header(self, payload: Bytes, field: Field | None = None) -> ImageHeader:
        pillow = optional_module("PIL.Image")
        try:
            with pillow.open(io.BytesIO(payload.data), formats=(self.name,)) as image:
                mode, (width, height) = image.mode, image.size
        except MemoryError:
            raise
        except Exception as error:  # Pillow's parsers raise errors of many kinds
            raise ValueError(f"has no {self.name} header that can be read ({error})") from error
        if mode not in _MODES:
            raise ValueError(f"has pixels of Pillow's mode {mode}; the reader takes {', '.join(_MODES)}")
        return ImageHeader(self.name, height, width, *_MODES[mode])

    def decode(
        self, payload: Bytes, field: Field, height: int, width: int, fast: bool, scratch: Scratch | None
    ) -> Pixels:
        pillow = optional_module("PIL.Image")
        try:
            # This format alone: Pillow knows many, and that of EPS runs another program.
            with pillow.open(io.BytesIO(payload.data), formats=(self.name,)) as image:
                _check_header(image, field, height, width)  # before a pixel is made
                # A grey image among coloured ones becomes coloured, as the decoder of JPEG does by itself.
                coloured = field.shape[2] == 3
                pixels = np.asarray(image.convert("RGB") if coloured and image.mode == "L" else image)
                if coloured and image.mode == "I;16":
                    pixels = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
        except (MemoryError, _OtherImageError):
            raise
        except Exception as error:
            # Pillow's decoders do so, too: SyntaxError, struct.error, EOFError, ...
            raise ValueError(f"cannot be decoded: {error}") from error
        return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]

    def encode(self, pixels: Pixels, quality: int | None, restart_markers: RestartMarkers = "auto") -> bytes:
        settings = dict(self.settings)
        if self.quality is not None:
            settings["quality"] = quality or self.quality
        image = optional_module("PIL.Image").fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        buffer = io.BytesIO()
        image.save(buffer, self.name.upper(), **settings)
        return buffer.getvalue()


def _check_header(image: Any, field: Field, height: int, width: int) -> None:
    """Check that an image whose header has been read is of a size and a type.

    Raises:
        _OtherImageError: the image is another one.
    """
    if image.size != (width, height):
        raise _OtherImageError(f"has a header that says {image.width}x{image.height} pixels, not {width}x{height}")
    channels, dtype = _MODES.get(image.mode, (0, ""))
    # A grey image may be among coloured ones.
    if dtype != field.dtype or field.shape[2] not in (None, channels, channels + 2 if channels == 1 else channels):
        raise ValueError(
            f"has a header that says pixels of mode {image.mode}, not {field.shape[2]} channels of {field.dtype}"
        )
