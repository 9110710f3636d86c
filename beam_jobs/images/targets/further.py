"""Further images of a record, and bytes: from what a source reads to the payload that is stored.

All images of a record go through the same orientation, crop, resize and border. Their sizes may differ by a factor.
"""

from __future__ import annotations

from beam_jobs.options import ImageOptions
from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["payload_field"]


def payload_field(role: str, options: ImageOptions, size: tuple[int | None, int | None], channels: int | None) -> Field:
    """The field of a further image, or of bytes.

    Args:
        role: one of `ROLES`.
        size: height and width of all images, None where they differ.
        channels: those of photos; None where they differ.
    """
    if role == "bytes":
        return Field(dtype="bytes")
    if role == "photo":
        return Field(dtype=options.dtype, shape=(*size, channels), encoding=options.encoding, role=role)
    dtype = options.mask_dtype if role == "mask" else options.depth_dtype
    return Field(dtype=dtype, shape=(*size, 1), encoding=exact_encoding(options.encoding, dtype), role=role)


def exact_encoding(encoding: str, dtype: str) -> str:
    """The encoding of pixels that keep their values: raw where photos are raw, otherwise the first without loss."""
    if IMAGE_CODECS[encoding].is_raw:
        return encoding
    return next(n for n, codec in IMAGE_CODECS.items() if codec.quality is None and dtype in codec.dtypes)
