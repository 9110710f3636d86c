"""The schema of a Parquet or Arrow file with images, and of its further files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.sources.files.tables.arrow import fixed_field
from beam_jobs.sources.files.tables.arrow_ipc import IpcImages
from beam_jobs.sources.files.tables.image_columns import (
    Column,
    ImageColumn,
    class_names,
    columns_of,
    features_of,
    image_columns,
)
from beam_jobs.sources.files.tables.parquet import ParquetImages
from beam_jobs.sources.tabular.columns import PATH_COLUMNS, listed
from shard_reader.format.fields import Field
from shard_reader.storage.directory import Directory

__all__ = ["ArrowFile", "FileSchema", "arrow_file", "column_of_images", "is_arrow"]

ArrowFile = ParquetImages | IpcImages
"""A file with images."""

_KINDS: Mapping[str, type[ParquetImages] | type[IpcImages]] = {".parquet": ParquetImages, ".arrow": IpcImages}


def is_arrow(name: str) -> bool:
    """Whether a file is one of Parquet or Arrow by its name."""
    return name.lower().endswith(tuple(_KINDS))


def arrow_file(place: Directory, name: str) -> ArrowFile:
    """A file of Parquet or Arrow, by its name in a directory; "" for the directory's own."""
    whole = (name or place.uri("")).lower()
    return next(kind for suffix, kind in _KINDS.items() if whole.endswith(suffix))(place, name)


def column_of_images(place: Directory, name: str) -> str | None:
    """The column of images of a file; None if its images are rather elsewhere, at paths in another column.

    Raises:
        UsageError: the file cannot be read.
    """
    schema = FileSchema(arrow_file(place, name).schema)
    paths = {name.lower() for name in schema.columns} & set(PATH_COLUMNS)
    found = [image.name for image in schema.images if image.sure or not paths]
    return found[0] if found else None


class FileSchema:
    """The columns of one file: of images, of values, and others; and the names of classes."""

    def __init__(self, schema: Any = ()) -> None:
        self.images = image_columns(schema) if schema else []
        self.columns: dict[str, Column]
        self.columns, self.others = columns_of(schema) if schema else ({}, {})
        features = features_of(schema) if schema else {}
        found = {name: class_names(features, name) for name in self.columns}
        self.classes = {name: names for name, names in found.items() if names is not None}
        self.image = ImageColumn("", False, False, False)

    def field(self, name: str, boxes: str | None = None) -> str:
        """The name of the field of a column: "objects/area" for the child of the struct with the boxes."""
        column = self.columns[name]
        if column.child is None:
            return name
        return f"{'objects' if column.top == self.objects_top(boxes) else column.top}/{column.child}"

    def objects_top(self, boxes: str | None) -> str:
        """The struct of objects: the one with the column of boxes, or else "objects"."""
        column = self.columns.get(boxes or "")
        return column.top if column is not None and column.child is not None else "objects"

    def object_classes(self, boxes: str | None) -> str | None:
        """The column of the classes of objects, where there is one."""
        top = self.objects_top(boxes)
        found = [name for name in self.classes if self.columns[name].child is not None]
        found = [name for name in found if self.columns[name].top == top]
        return found[0] if len(found) == 1 else None

    @property
    def only_label(self) -> str | None:
        """The only column of classes."""
        names = [name for name in self.classes if self.columns[name].child is None]
        return names[0] if len(names) == 1 else None

    def choose(self, key: str | None, file: ParquetImages | IpcImages) -> ImageColumn:
        """Choose the column of images."""
        there = listed([image.name for image in self.images]) or "none"
        if key is not None:
            found = [image for image in self.images if image.name == key]
            if not found:
                raise file.refused(f"--image-key {key}: is no column of images; those are: {there}")
        else:
            found = self.images[:1]
        if not found:
            columns = listed([*self.columns, *self.others]) or "none"
            raise file.refused(
                f"has no column of images, which are struct<bytes, path> or binary; it has {columns}; if one has paths,"
                " give --source table"
            )
        self.image = found[0]
        return self.image

    def difference(self, other: FileSchema, first: str) -> str:
        """A sentence about another file with other columns; "" if it has the same."""
        mine, its = {*self.columns, *self.others}, {*other.columns, *other.others}
        if mine != its or self.image.name not in [image.name for image in other.images]:
            its |= {image.name for image in other.images}
            mine |= {image.name for image in self.images}
            return (
                f"has the columns {listed(sorted(its))}; {first} has {listed(sorted(mine))}: the files of a folder have"
                " the same columns; give a folder inside, or one file"
            )
        if self.classes != other.classes:
            return f"names other classes than {first}; give a folder inside, or one file"
        own = next(image for image in other.images if image.name == self.image.name)
        return "" if own == self.image else f'has images of another type in "{own.name}" than {first}; write it again'

    def fixed(self, names: Sequence[str]) -> dict[str, Field]:
        """The types of columns of lists of one length."""
        found = {name: fixed_field(self.columns[name].kind) for name in names if self.columns[name].child is None}
        return {name: field for name, field in found.items() if field is not None}
