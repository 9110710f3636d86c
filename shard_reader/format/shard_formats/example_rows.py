"""Index rows from the Examples in a TFRecord file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import BASE_COLUMNS, Field, extent_columns, index_dtype, size_columns
from shard_reader.format.image_codecs.table import read_size
from shard_reader.format.shard_formats import example, tfrecord

__all__ = ["example_rows"]

_KIND_DTYPES = {example.INTEGERS: np.int64, example.FLOATS: np.float32}


def example_rows(path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
    """A row for each Example of a TFRecord file, every checksum 0.

    Raises:
        CorruptionError: the file is damaged, or an Example lacks a field.
    """
    rows = [_example_row(path, offset, payload, fields) for offset, payload in tfrecord.read_records(data, str(path))]
    return np.array(rows, np.dtype(index_dtype(fields)))


def _example_row(path: Path, offset: int, payload: NDArray[np.uint8], fields: Mapping[str, Field]) -> tuple[Any, ...]:
    """One row, in the order of the columns."""
    row: dict[str, Any] = dict.fromkeys(BASE_COLUMNS, 0)
    image = fields["image"]
    try:
        features = example.features(payload)
        for name, field in fields.items():
            feature = field.feature or name
            if name in ("height", "width") and feature == image.feature:
                continue
            # Writers leave out the feature of an empty list, since a Feature without a kind says as much.
            if feature not in features and field.shape[:1] == (None,):
                row |= dict.fromkeys(extent_columns(name), 0)
            else:
                row |= _columns(name, field, payload, features[feature], offset)
            if field.is_image and name != "image":
                row |= dict.fromkeys(size_columns(name), 0)
        if fields["height"].feature == image.feature is not None:
            start = row["offset"] - offset
            row["height"], row["width"] = read_size(payload[start : start + row["length"]], image)
    except ValueError as error:
        raise CorruptionError(f"{path}: the record at byte {offset} is no Example of these fields: {error}") from error
    except KeyError as error:
        raise CorruptionError(f"{path}: the record at byte {offset} has no feature {error}") from error
    return tuple(row.values())


def _columns(
    name: str, field: Field, payload: NDArray[np.uint8], feature: example.Feature, offset: int
) -> dict[str, Any]:
    """The columns of one value, its checksum still 0.

    Raises:
        ValueError: the value is not of the field's type.
    """
    kind = example.BYTES if field.is_image else example.KINDS[field.dtype]
    if field.shape[:1] == (None,) and feature.span.start == feature.span.stop:
        kind = feature.kind  # an empty list may be stored without its kind
    if feature.kind != kind:
        expected = "bytes" if field.is_image else field.dtype
        raise ValueError(f"{name!r} is not of type {expected}")
    span = feature.span
    if field.is_image or not field.shape:
        if (held := example.count(payload, feature)) != 1:
            raise ValueError(f"{name!r} has {held} values, not one")
        values = example.values(payload, feature)
        if field.in_index:
            return {name: values[0]}
        assert isinstance(values[0], slice)  # of this kind, all are
        span = values[0]
    elif field.in_index:
        if (held := example.count(payload, feature)) != math.prod(size or 0 for size in field.shape):
            raise ValueError(f"{name!r} has {held} values, not those of {field.shape}")
        array = np.array(example.values(payload, feature), _KIND_DTYPES[kind])
        return {name: array.reshape(field.shape)}
    return dict(zip(extent_columns(name), (offset + span.start, span.stop - span.start, 0), strict=True))
