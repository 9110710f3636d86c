"""WebP (RFC 9649), with loss."""

from __future__ import annotations

from shard_reader.format.image_codecs.pillow import PillowCodec

__all__ = ["WebP"]


class WebP(PillowCodec):
    """Colours, with opacity or without; it has no grey images."""

    name, label, media_type = "webp", "WebP", "image/webp"
    suffix = ".webp"
    channels = (3, 4)
    max_side = 16_383  # 14 bits
    quality = 90

    def matches(self, start: bytes) -> bool:
        return start.startswith(b"RIFF") and start.endswith(b"WEBP")
