"""Further images of a record, and bytes: from what a source reads to the payload that is stored.

All images of a record go through the same orientation, crop, resize and border. Their sizes may differ by a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.geometry import Geometry, followed, turned
from beam_jobs.images.measures.statistics import MeanStd
from beam_jobs.images.pixels.resample import resampled
from beam_jobs.images.process import prepare_image
from beam_jobs.images.targets.masks import exact_values, nearest
from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import Pixels
from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_of

__all__ = ["Further", "empty_payload", "further_payload", "mask_payload", "payload_field"]

Sides = tuple[int | None, int | None]
_BORDER_OF_DEPTH: Final = 0  # the usual value for an unknown distance


class Further(NamedTuple):
    """The payload of a further image, or of bytes.

    `channels` are those of the image, 0 for bytes. `changes` are kinds of `CHANGES`, and `suspect` is the complaint of
    the decoder, or "".
    """

    data: bytes
    channels: int = 0
    changes: tuple[str, ...] = ()
    suspect: str = ""


def payload_field(role: str, options: ImageOptions, size: Sides, channels: int | None) -> Field:
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
    return Field(dtype=dtype, shape=(*size, 1), encoding=_exact_encoding(options.encoding, dtype), role=role)


def _exact_encoding(encoding: str, dtype: str) -> str:
    """The encoding of pixels that keep their values: raw where photos are raw, otherwise the first without loss."""
    if IMAGE_CODECS[encoding].is_raw:
        return encoding
    return next(n for n, codec in IMAGE_CODECS.items() if codec.quality is None and dtype in codec.dtypes)


def further_payload(
    data: bytes | Pixels,
    field: Field,
    first: Geometry,
    options: ImageOptions,
    statistics: MeanStd | None = None,
    *,
    is_upright: bool = False,
) -> Further:
    """The payload of a further image, or of bytes, as a source gives them.

    A photo is turned by the orientation in its own file. A mask or a depth map without one is turned as the first image
    is, unless only the upright image has its proportions.

    Args:
        field: the field, from `payload_field`.
        first: the geometry of the record's first image.
        is_upright: whether masks are of the first image as it is shown, with its orientation applied.

    Raises:
        BadInput: the image is damaged or too large, has other proportions, or a mask has no single channel of numbers.
    """
    if not field.is_image:
        return Further(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
    if field.is_filtered:
        payload = prepare_image(data, options, statistics, first=first)
        return Further(payload.data, payload.channels, payload.changes, payload.suspect)
    found = exact_values(data, field.role or "", options)
    orientations = _orientations(found.orientation, first, is_upright=is_upright)
    return mask_payload(found.values, field, first, options, orientations)._replace(changes=found.changes)


def _orientations(own: int | None, first: Geometry, *, is_upright: bool) -> Sequence[int]:
    """The orientations that a mask may still have: the first that gives the proportions of the first image counts."""
    if is_upright or own not in (None, 1):
        return (1,)
    # A file that states 1 was most likely saved upright, by an editor that turned it.
    return (first.orientation, 1) if own is None else (1, first.orientation)


def mask_payload(
    values: NDArray[Any], field: Field, first: Geometry, options: ImageOptions, orientations: Sequence[int]
) -> Further:
    """The payload of the values of a mask or a depth map, `[height, width, 1]` of the field's dtype.

    Args:
        orientations: those that they may have.

    Raises:
        BadInput: they have other proportions than the first image.
    """
    height, width = values.shape[:2]
    geometry = followed(first, (width, height), orientations)
    upright = turned(values, geometry.orientation)
    if geometry.resizes and field.role == "depth" and options.depth_filter == "bilinear":
        upright = resampled(np.ascontiguousarray(upright), geometry.box, geometry.scaled, "bilinear", True)
    elif geometry.resizes:
        upright = nearest(upright, geometry.box, geometry.scaled)
    return Further(_encoded(_padded(upright, field, geometry, options), field), 1)


def empty_payload(field: Field, first: Geometry, options: ImageOptions, channels: int) -> Further:
    """An image of zeros, of the stored size, or no bytes: in place of one that an input lacks.

    Args:
        channels: those of the record's first image, which a photo gets.
    """
    if not field.is_image:
        return Further(b"")
    # A photo is black, also where others are normalized: an image that is not there has no mean.
    channels = field.shape[2] or channels
    width, height = first.size if field.is_filtered else first.scaled
    empty = np.zeros((height, width, channels), field.dtype)
    return Further(_encoded(empty if field.is_filtered else _padded(empty, field, first, options), field), channels)


def _padded(values: NDArray[Any], field: Field, geometry: Geometry, options: ImageOptions) -> NDArray[Any]:
    if not geometry.pads:
        return values
    border = options.mask_border if field.role == "mask" else _BORDER_OF_DEPTH
    (left, top), (width, height) = geometry.offset, geometry.size
    whole = np.full((height, width, 1), border, values.dtype)
    whole[top : top + values.shape[0], left : left + values.shape[1]] = values
    return whole


def _encoded(values: NDArray[Any], field: Field) -> bytes:
    return codec_of(field).encode(np.ascontiguousarray(values), None)
