"""AVIF (Alliance for Open Media, AV1 Image File Format 1.2), with loss, by libaom and dav1d through Pillow."""

from __future__ import annotations

from shard_reader.format.image_codecs.pillow import PillowCodec

__all__ = ["Avif"]


class Avif(PillowCodec):
    """Grey, colours, or colours with opacity, with half the resolution of colours in both directions (4:2:0).

    An image that is opaque everywhere is stored, and read, without its opacity.
    """

    name, label, media_type = "avif", "AVIF", "image/avif"
    suffix = ".avif"
    channels = (1, 3, 4)
    max_side = 32_768  # the limit of libavif's decoder
    quality = 75  # photos are as near to the original as with JPEG at 90, in two thirds of the bytes
    # The bytes depend on the number of threads, and Pillow's default is one for each CPU.
    settings = {"max_threads": 1, "autotiling": False, "codec": "aom", "speed": 6}  # noqa: RUF012

    def matches(self, start: bytes) -> bool:
        return start[4:12] in (b"ftypavif", b"ftypavis")
