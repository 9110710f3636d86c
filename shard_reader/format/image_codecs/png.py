"""PNG (ISO/IEC 15948): without loss."""

from __future__ import annotations

from shard_reader.format.image_codecs.pillow import PillowCodec

__all__ = ["Png"]


class Png(PillowCodec):
    """Grey, colours, or colours with opacity."""

    name, label, media_type = "png", "PNG", "image/png"
    suffix = ".png"
    channels = (1, 3, 4)
    max_side = 65_500  # the format allows more; the job's sums over pixels need this bound
    in_tfds = True

    def matches(self, start: bytes) -> bool:
        return start.startswith(b"\x89PNG\r\n\x1a\n")
