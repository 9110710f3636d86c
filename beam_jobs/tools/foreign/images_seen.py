"""The images of one feature of TFRecords, by their headers: encodings, dtypes, channels and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field
from shard_reader.format.image_codecs.codec import ImageHeader
from shard_reader.format.image_codecs.png import Png
from shard_reader.format.image_codecs.table import IMAGE_CODECS, encoding_of, read_header

__all__ = ["FurtherImages", "ImagesSeen"]

_PNG_BITS = 24  # the place of the bits of a value in the file: a field of IHDR (ISO/IEC 15948, section 11.2.2)


@dataclass(slots=True)
class ImagesSeen:
    """The images of one feature.

    `types` maps encodings and dtypes to the first place of each.
    """

    types: dict[tuple[str, str], str] = field(default_factory=dict)
    channels: set[int] = field(default_factory=set)
    heights: set[int] = field(default_factory=set)
    widths: set[int] = field(default_factory=set)

    def see(self, header: ImageHeader, place: str) -> None:
        """Add one image."""
        # Two different sizes are enough to know that sizes differ; all of them could fill memory.
        self.types.setdefault((header.encoding, header.dtype), place)
        self.channels.add(header.channels)
        for sizes, size in ((self.heights, header.height), (self.widths, header.width)):
            if len(sizes) < 2:
                sizes.add(size)

    def merge(self, other: ImagesSeen) -> None:
        """Add the images of another file."""
        for kind, place in other.types.items():
            self.types.setdefault(kind, place)
        self.channels |= other.channels
        self.heights |= set(list(other.heights)[:2])
        self.widths |= set(list(other.widths)[:2])

    @property
    def has_grey_and_rgb(self) -> bool:
        """Whether some encoded images are grey and others colour, as in ImageNet. A reader decodes all as colour."""
        return self.channels == {1, 3} and not any(IMAGE_CODECS[encoding].is_raw for encoding, _ in self.types)

    def field(self, feature: str, role: str | None = None) -> Field:
        """The field of images of one type. Those of a photo that are grey among others in colour become coloured."""
        ((encoding, dtype),) = self.types
        shape = tuple(sizes.copy().pop() if len(sizes) == 1 else None for sizes in (self.heights, self.widths))
        as_rgb = role in (None, "photo") and self.has_grey_and_rgb
        channels = self.channels.copy().pop() if len(self.channels) == 1 else 3 if as_rgb else None
        return Field(dtype=dtype, shape=(*shape, channels), encoding=encoding, feature=feature, role=role)


@dataclass(slots=True)
class FurtherImages:
    """The values of a feature beside the image, as far as they are images.

    Attributes:
        images: those that were seen.
        is_every: whether all values that were seen are images.
        unread: the reason why one of them cannot be decoded by a reader, or "".
        is_narrow: whether one is a PNG of less than 8 bits a value, which decoders scale up.
    """

    images: ImagesSeen = field(default_factory=ImagesSeen)
    is_every: bool = True
    unread: str = ""
    is_narrow: bool = False

    def see(self, payload: NDArray[np.uint8], place: str) -> None:
        """Add one value."""
        if not self.is_every:
            return
        encoding = encoding_of(payload)
        if encoding is None:
            self.is_every = False
            return
        self.is_narrow |= encoding == Png.name and len(payload) > _PNG_BITS and bool(payload[_PNG_BITS] < 8)
        try:
            self.images.see(read_header(payload), place)
        except ValueError as error:
            self.unread = self.unread or f"{place}: the image {error}"

    def merge(self, other: FurtherImages) -> None:
        """Add the values of another file."""
        self.images.merge(other.images)
        self.is_every &= other.is_every
        self.unread = self.unread or other.unread
        self.is_narrow |= other.is_narrow
