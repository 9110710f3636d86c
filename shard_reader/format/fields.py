"""The fields of a record: their types, and the columns that an index has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as attributes_of
from typing import Any, Final

__all__ = [
    "ANY_ENCODING",
    "BASE_COLUMNS",
    "FIELD_DTYPES",
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "IMAGE",
    "IMAGE_DTYPES",
    "IMAGE_ROLES",
    "INDEX_DTYPES",
    "INPUT_FIELDS",
    "JOINED",
    "MAX_PIXELS",
    "MAX_VALUES",
    "OUTLINES",
    "PAYLOADS",
    "POINT_ROLES",
    "RELABELED",
    "RESERVED_NAMES",
    "WITHDRAWN",
    "Field",
    "extensions",
    "extent_columns",
    "extent_fields",
    "further_images",
    "index_dtype",
    "kept_fields",
    "point_role",
    "size_columns",
]

FORMAT_NAME: Final = "image-shards"
FORMAT_VERSION: Final = 1
IMAGE_DTYPES: Final = ("uint8", "uint16", "float16", "float32")
IMAGE: Final = "image"
"""The name of a record's first image."""
IMAGE_ROLES: Final = ("photo", "mask", "depth")
"""The roles of images: a photo is filtered, the values of a mask and of a depth map stay what they are."""
POINT_ROLES: Final = {"boxes": 4, "points": 2, "keypoints": 3}
"""The roles of lists that move with the pixels, and the numbers of an element."""
OUTLINES: Final = "objects/segmentation"
"""The field with the outline of each object, as texts, which transforms do not move."""
_EARLIER_ROLES: Final = {"objects/bbox": "boxes", "objects/point": "points"}  # of datasets before fields had roles
PAYLOADS: Final = "payloads"
"""The extension of manifests whose records have further images, or bytes."""
WITHDRAWN: Final = "withdrawn"
"""The extension of manifests with records that no longer count."""
RELABELED: Final = "relabeled"
"""The extension of manifests with indexes in place of those beside their shards."""
JOINED: Final = "joined"
"""The extension of manifests with shards of other directories."""
INDEX_DTYPES: Final[Mapping[str, str]] = {"int64": "<i8", "float32": "<f4"}
"""The dtypes whose values an index holds, and their bytes there."""
FIELD_DTYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "image": IMAGE_DTYPES,
    "id": ("string",),
    "height": ("int64",),
    "width": ("int64",),
    "original_height": ("int64",),
    "original_width": ("int64",),
    "content_hash": ("int64",),
    "phash": ("int64",),
    "dhash": ("int64",),
    "values_hash": ("int64",),
    "label": ("int64",),
}
"""The dtypes that fields with a meaning of their own may have."""
INPUT_FIELDS: Final = ("original_height", "original_width", "content_hash", "phash", "dhash", "values_hash")
"""The fields that describe the input of a record rather than its content: those of every record `prepare` writes."""
RESERVED_NAMES: Final = frozenset({*FIELD_DTYPES, "weight"})
"""The names of a record and of a batch, which a field of the inputs cannot have."""
MAX_PIXELS: Final = 178_956_970
"""The most pixels of an image unless somebody asks for more: a few hundred bytes can claim billions.

Above it, which is twice `Image.MAX_IMAGE_PIXELS`, Pillow refuses an image as a decompression bomb.
"""
MAX_VALUES: Final = 1 << 16
"""The most values of one field in a row of an index."""
ANY_ENCODING: Final = "any"
"""The encoding of an image field whose datasets have several. It is in no manifest."""

BASE_COLUMNS: Final[Mapping[str, str]] = {
    "offset": "<u8",
    "length": "<u8",
    "id_offset": "<u8",
    "id_length": "<u4",
    "id_crc32c": "<u4",
    "crc32c": "<u4",
    "height": "<u4",
    "width": "<u4",
}
"""The columns that each index begins with, and their dtypes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The type of one field.

    Attributes:
        dtype: type of its values: `int64`, `float32`, `string`, `bytes`, or that of an image's pixels.
        shape: None stands for a size that differs between records: `(None,)` is a list, `(None, 4)` a list of boxes.
        encoding: encoding of the image, by its name in `image_codecs`; None if the field is not an image.
        feature: name of the feature in TFRecords of other programs; None for the field's own name.
        role: how its values move with the pixels of the record. One of `IMAGE_ROLES` for an image, where None is a
            photo; one of `POINT_ROLES` for a list of them; None for all others.
        names: the names of keypoints, in order; empty where they are not known.
        flip_pairs: the numbers of keypoints that change places in a mirrored image, as the left and the right eye.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()
    encoding: str | None = None
    feature: str | None = None
    role: str | None = None
    names: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __setstate__(self, state: list[Any]) -> None:
        """Set the attributes of a pickled field; those of earlier versions have the first ones."""
        attributes = attributes_of(self)
        values = [*state, *(attribute.default for attribute in attributes[len(state) :])]
        for attribute, value in zip(attributes, values, strict=True):
            object.__setattr__(self, attribute.name, value)

    @property
    def is_image(self) -> bool:
        """Whether its values are images."""
        return self.encoding is not None

    @property
    def is_payload(self) -> bool:
        """Whether its values are images or bytes, which no table holds."""
        return self.is_image or self.dtype == "bytes"

    @property
    def is_filtered(self) -> bool:
        """Whether its pixels are filtered when the image is resized: those of masks and depth maps are not."""
        return self.role in (None, "photo")

    @property
    def is_flat(self) -> bool:
        """Whether the reader gives its images as `[height, width]`, without their single channel."""
        return self.role == "mask" and self.shape[2:] == (1,)

    @property
    def kind(self) -> str:
        """Its kind, for people: scalar, array, string, list, bytes or image."""
        if self.is_image:
            return "image"
        if self.dtype == "bytes":
            return "bytes"
        if not self.is_fixed:
            return "list"
        return "array" if self.shape else "string" if self.dtype == "string" else "scalar"

    @property
    def is_fixed(self) -> bool:
        """Whether every record has the same shape."""
        return None not in self.shape

    @property
    def in_index(self) -> bool:
        """Whether the index holds its values rather than their extents."""
        return not self.is_image and self.is_fixed and self.dtype in INDEX_DTYPES


def kept_fields(fields: Mapping[str, Field]) -> dict[str, Field]:
    """The fields that describe an image or its input, and so stay what they are when records are relabeled."""
    return {name: f for name, f in fields.items() if f.is_payload or (name in FIELD_DTYPES and name != "label")}


def further_images(fields: Mapping[str, Field]) -> list[str]:
    """The names of the images beside `image`."""
    return [name for name, field in fields.items() if field.is_image and name != "image"]


def point_role(name: str, field: Field) -> str | None:
    """The role of a list that moves with the pixels, one of `POINT_ROLES`; None for all other fields."""
    if field.is_image or field.role is not None:
        return field.role if field.role in POINT_ROLES else None
    earlier = _EARLIER_ROLES.get(name)
    is_so = earlier is not None and field.dtype == "float32" and field.shape == (None, POINT_ROLES[earlier])
    return earlier if is_so else None


def extensions(fields: Mapping[str, Field]) -> list[str]:
    """The extensions of the format that some fields need."""
    has_payloads = bool(further_images(fields)) or any(field.dtype == "bytes" for field in fields.values())
    return [PAYLOADS] if has_payloads else []


def index_dtype(fields: Mapping[str, Field]) -> list[tuple[Any, ...]]:
    """The columns of an index: the extents of image and id, then those of every other field."""
    columns: list[tuple[Any, ...]] = list(BASE_COLUMNS.items())
    for name, field in fields.items():
        if name in ("image", "id", "height", "width"):
            continue
        if field.in_index:
            columns.append((name, INDEX_DTYPES[field.dtype], *([field.shape] if field.shape else [])))
            continue
        length = "<u8" if field.is_image or field.dtype == "bytes" else "<u4"
        columns += zip(extent_columns(name), ("<u8", length, "<u4"), strict=True)
        if field.is_image:
            columns += zip(size_columns(name), ("<u4", "<u4"), strict=True)
    return columns


def extent_columns(name: str) -> tuple[str, str, str]:
    """The columns with the offset, the length and the CRC-32C of a field's bytes."""
    prefix = "" if name == "image" else f"{name}_"
    return f"{prefix}offset", f"{prefix}length", f"{prefix}crc32c"


def size_columns(name: str) -> tuple[str, str]:
    """The columns with the height and the width of an image."""
    prefix = "" if name == "image" else f"{name}_"
    return f"{prefix}height", f"{prefix}width"


def extent_fields(fields: Mapping[str, Field]) -> list[str]:
    """The fields that have an extent in an index: images, strings, lists and bytes."""
    return [name for name, field in fields.items() if not field.in_index]
