"""Checks of the fields in a manifest: their types, and the sizes that follow from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from shard_reader.format.fields import (
    FIELD_DTYPES,
    IMAGE_DTYPES,
    IMAGE_ROLES,
    INDEX_DTYPES,
    INPUT_FIELDS,
    MAX_VALUES,
    POINT_ROLES,
    Field,
    index_dtype,
)
from shard_reader.format.image_codecs.table import codec_of, is_pixel_array
from shard_reader.printable import excerpt, printable

__all__ = ["MOST_CHANNELS", "field_problems", "least_bytes"]

_MOST_SIZES = 8  # of a shape
_MOST_FIELDS = 4096
_MOST_SIDE = 1 << 31
MOST_CHANNELS = 16
_FRAME = 16  # bytes of a record's frame in a TFRecord, and of a reference in HDF5


def field_problems(fields: Mapping[str, Field]) -> list[str]:
    """The problems of fields, each as `path: problem`."""
    if len(fields) > _MOST_FIELDS:
        return [f"$.fields: {len(fields)} are more than {_MOST_FIELDS}"]
    problems = [*_missing(fields), *(problem for name, field in fields.items() for problem in _of_field(name, field))]
    # Columns are counted only of fields that are as they should be.
    return problems or list(_of_columns(fields))


def least_bytes(fields: Mapping[str, Field]) -> int:
    """The fewest bytes that a record takes in a shard."""
    arrays = [field for field in fields.values() if field.is_image and is_pixel_array(field)]
    sizes = (math.prod(size or 0 for size in field.shape) * np.dtype(field.dtype).itemsize for field in arrays)
    return _FRAME + sum(sizes)


def _missing(fields: Mapping[str, Field]) -> Iterator[str]:
    is_foreign = "image" in fields and fields["image"].feature is not None
    for name in ("image", "id", "height", "width"):
        if name not in fields and not (name == "id" and is_foreign):
            yield f"$.fields.{name}: is missing"


def _of_field(name: str, field: Field) -> Iterator[str]:
    path, is_image = f"$.fields.{printable(name)}", field.is_image or name == "image"
    expected = FIELD_DTYPES.get(name, IMAGE_DTYPES if is_image else (*INDEX_DTYPES, "string", "bytes"))
    if not name or "\0" in name:
        yield f"$.fields: {excerpt(name)} is no name"
    if field.dtype not in expected:
        yield f"{path}.dtype: is {field.dtype}, expected {' or '.join(expected)}"
    if field.is_image and name != "image" and name in FIELD_DTYPES:
        yield f"{path}.encoding: this field is no image"
    if len(field.shape) > _MOST_SIZES:
        yield f"{path}.shape: {len(field.shape)} sizes are more than {_MOST_SIZES}"
    elif not is_image and None in field.shape[1:]:
        yield f"{path}.shape: only the first size may be null"
    elif not is_image and math.prod(size or 1 for size in field.shape) > MAX_VALUES:
        yield f"{path}.shape: more than {MAX_VALUES} values"
    if field.dtype == "string" and len(field.shape) > 1:
        yield f"{path}.shape: strings come alone or in a list"
    if field.shape and (field.dtype == "bytes" or name in ("id", "height", "width", *INPUT_FIELDS)):
        yield f"{path}.shape: must be empty"
    if is_image:
        yield from _of_image(path, field)
    yield from _of_role(path, field)


def _of_image(path: str, image: Field) -> Iterator[str]:
    if image.encoding is None or len(image.shape) != 3:
        yield f"{path}: needs an encoding and a shape of height, width, channels"
        return
    sides, channels = image.shape[:2], image.shape[2]
    most = max(codec_of(image).channels)
    if any(side is not None and not 0 < side < _MOST_SIDE for side in sides) or not (
        channels is None or 0 < channels <= most
    ):
        shown = ", ".join("null" if size is None else str(size) for size in image.shape)
        yield f"{path}.shape: [{shown}] is that of no image: sides of 1 and more, and 1 to {most} channels"


def _of_role(path: str, field: Field) -> Iterator[str]:
    """The role of a field, and the names and pairs of its keypoints."""
    # Roles that a later version adds are refused: values that stay while the pixels move are wrong labels.
    role, count = field.role, len(field.names)
    known = IMAGE_ROLES if field.is_image else tuple(POINT_ROLES)
    if role is not None and role not in known:
        yield f"{path}.role: is {excerpt(role)}, expected {' or '.join(known)}"
        return
    if not field.is_image and role is not None:
        size = POINT_ROLES[role]
        # Each box or point is one of the list; the keypoints of an object are several.
        sizes = 3 if role == "keypoints" else 2
        if (field.dtype, field.shape[:1], field.shape[-1:]) != ("float32", (None,), (size,)) or len(
            field.shape
        ) != sizes:
            shape = f"[null, k, {size}]" if role == "keypoints" else f"[null, {size}]"
            yield f"{path}.shape: {role} are a list {shape} of float32"
            return
    if role != "keypoints":
        if field.names or field.flip_pairs:
            yield f"{path}: only keypoints have names and flip_pairs"
        return
    most = field.shape[1] or 0
    if count not in (0, most):
        yield f"{path}.names: are {count}, there are {most} keypoints"
    numbers = [number for pair in field.flip_pairs for number in pair]
    if len(set(numbers)) != len(numbers) or not all(0 <= number < most for number in numbers):
        yield f"{path}.flip_pairs: must be pairs of different numbers from 0 to {most - 1}"


def _of_columns(fields: Mapping[str, Field]) -> Iterator[str]:
    columns = Counter(name for name, *_ in index_dtype(fields))
    yield from (f"$.fields: two of them need an index column {printable(c)}" for c, n in columns.items() if n > 1)
    values = sum(math.prod(size or 1 for size in field.shape) for field in fields.values() if field.in_index)
    if values > 2 * MAX_VALUES:
        yield f"$.fields: {values} values in a row of an index are more than {2 * MAX_VALUES}"
