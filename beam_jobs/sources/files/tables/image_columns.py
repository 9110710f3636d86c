"""Columns of images in a schema of Arrow, and the features of Hugging Face in its metadata.

An image is `struct<bytes: binary, path: string>`, as `datasets.Image` is stored, or plain binary, or the first of a
list of either. Structs of other columns are taken apart: `objects.bbox` is the child `bbox` of the struct `objects`, or
of a list of structs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from beam_jobs.sources.files.tables.arrow import bounded_values, is_string, is_taken, python_values
from beam_jobs.sources.files.tables.page_bodies import Damaged

__all__ = [
    "Column",
    "Group",
    "ImageColumn",
    "binary_columns",
    "checked",
    "class_names",
    "columns_of",
    "features_of",
    "image_columns",
    "text_tops",
    "values_of",
]

_NAMES = ("image", "images", "img", "imgs", "picture", "photo", "image_bytes", "image_data", "bytes")
_FEATURES = ("Image", "Value", None)  # types of Hugging Face that a column of images may have
_RANKS = {name: rank for rank, name in enumerate(_NAMES)}  # of usual names


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """A column of images: in structs, and in lists, or not. `sure` is False for binary values of an unusual name."""

    name: str
    is_struct: bool
    is_list: bool
    sure: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column of values: a column of the schema, or a child of a column of structs, or of lists of structs."""

    name: str
    top: str
    child: str | None
    is_list: bool
    kind: Any


class Group(NamedTuple):
    """A row group or a record batch: the values of its rows, and for each column of images their places.

    All of them end by `Damaged` if the group cannot be read further.
    """

    number: int
    rows: Iterator[Sequence[Any]]
    places: Sequence[Iterator[list[Any] | None]]


def image_columns(schema: Any) -> list[ImageColumn]:
    """The columns of images, the likeliest first."""
    features = features_of(schema)
    found: list[tuple[Any, ...]] = []
    for field in schema:
        image = _image_column(field.name, field.type)
        if image is None:
            continue
        feature = _inner(features.get(field.name))
        kind = feature.get("_type") if isinstance(feature, dict) else None
        if kind not in _FEATURES:
            continue  # a sound or a film, in the same structs
        is_feature = kind == _FEATURES[0]
        usual = _RANKS.get(field.name.lower(), len(_RANKS))
        sure = is_feature or image.is_struct or usual < len(_RANKS)
        found.append((not is_feature, not sure, image.is_list, usual, len(found), image.name, sure, image))
    return [ImageColumn(one[-1].name, one[-1].is_struct, one[-1].is_list, one[-2]) for one in sorted(found)]


def binary_columns(schema: Any) -> dict[str, ImageColumn]:
    """The columns of binary values, of images and of anything else."""
    found = [_image_column(field.name, field.type) for field in schema]
    return {one.name: one for one in found if one is not None}


def _image_column(name: str, kind: Any) -> ImageColumn | None:
    from pyarrow import types

    is_list = bool(types.is_list(kind) or types.is_large_list(kind))
    kind = kind.value_type if is_list else kind
    is_struct = bool(types.is_struct(kind)) and any(c.name == "bytes" and _is_binary(c.type) for c in kind)
    return ImageColumn(name, is_struct, is_list, False) if is_struct or _is_binary(kind) else None


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def checked(schema: Any) -> Any:
    """A schema in which each name is a text, and is there once.

    Raises:
        Damaged: two columns, or two children of one, have the same name.
        UnicodeDecodeError: a name is no text.
    """
    from pyarrow import types

    waiting: list[tuple[str, Any]] = [("columns", schema)]
    while waiting:
        what, fields = waiting.pop()
        names = [field.name for field in fields]
        if len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise Damaged(f'two {what} are named "{twice}"; rename one')
        for field in fields:
            kind = field.type
            while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
                kind = kind.value_type
            if types.is_struct(kind):
                waiting.append((f'children of "{field.name}"', kind))
    return schema


def columns_of(schema: Any) -> tuple[dict[str, Column], dict[str, Any]]:
    """The columns of values by their names, and the types of columns that are not values, but the images."""
    from pyarrow import types

    found: dict[str, Column] = {}
    others: dict[str, Any] = {}
    images = {image.name for image in image_columns(schema)}
    for field in schema:
        is_list = bool(types.is_list(field.type) or types.is_large_list(field.type))
        kind = field.type.value_type if is_list else field.type
        if is_taken(field.type):
            found[field.name] = Column(field.name, field.name, None, False, field.type)
        elif types.is_struct(kind):
            for child in kind:
                name = f"{field.name}.{child.name}"
                if is_taken(child.type) and not (is_list and types.is_dictionary(child.type)) and "." not in child.name:
                    found[name] = Column(name, field.name, child.name, is_list, child.type)
                elif field.name not in images:
                    others[name] = child.type
        elif field.name not in images:
            others[field.name] = field.type
    return found, others


def values_of(batch: Any, column: Column) -> Iterable[Any]:
    """The values of a column in a record batch.

    Raises:
        Damaged: a text is too long.
    """
    from pyarrow import compute

    array = batch.column(column.top)
    if column.child is None:
        return bounded_values(array, column.name)
    if not column.is_list:
        return python_values(compute.struct_field(array, [column.child]))
    values = iter(python_values(compute.struct_field(array.flatten(), [column.child])))
    lengths = compute.list_value_length(array).to_pylist()
    return [None if length is None else [next(values) for _ in range(length)] for length in lengths]


def text_tops(columns: Sequence[Column]) -> list[str]:
    """The columns of texts that are no children."""
    return [column.name for column in columns if column.child is None and is_string(column.kind)]


def features_of(schema: Any) -> Mapping[str, Any]:
    """The features of Hugging Face in the metadata of a schema, by the names of columns; empty without them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(features: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """The names of the classes of a column, or of those in its lists; None if it has no such feature.

    Raises:
        Damaged: two classes have one name.
    """
    feature: Any = features.get(name)
    if feature is None and "." in name:
        top, _, child = name.partition(".")
        feature = _inner(features.get(top))
        feature = feature.get(child) if isinstance(feature, dict) else None
    feature = _inner(feature)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        return None
    if len(set(names)) < len(names):
        twice = next(one for number, one in enumerate(names) if one in names[:number])
        raise Damaged(f'two classes of "{name}" are named {twice!r}')
    return tuple(names)


def _inner(feature: Any) -> Any:
    """The feature of the values in lists."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    is_list = isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList")
    return feature.get("feature") if is_list else feature
