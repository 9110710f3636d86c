"""The schema of a Parquet or Arrow file with images, and of its further files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from beam_jobs.sources.files.annotations.payloads import PayloadColumns, role_of_name
from beam_jobs.sources.files.interface import LeftOut
from beam_jobs.sources.files.tables.arrow import fixed_field
from beam_jobs.sources.files.tables.arrow_ipc import IpcImages
from beam_jobs.sources.files.tables.image_columns import (
    Column,
    ImageColumn,
    binary_columns,
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
        self.binaries = binary_columns(schema) if schema else {}
        self.further: dict[str, ImageColumn] = {}
        """The columns of further images and of bytes, by their fields."""

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

    def choose(self, key: str | None, file: ParquetImages | IpcImages, option: str = "--image-key") -> ImageColumn:
        """Choose the column of images. `option` names the key."""
        there = listed([image.name for image in self.images]) or "none"
        if key is not None:
            found = [image for image in self.images if image.name == key]
            if not found:
                raise file.refused(f"{option} {key}: is no column of images; those are: {there}")
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

    def add_further(
        self, payloads: PayloadColumns, file: ParquetImages | IpcImages, with_masks: bool
    ) -> PayloadColumns:
        """The columns of further images and of bytes: those of the options, and if asked, those with names of masks.

        Photos are taken only if an option names them: their proportions may be other ones.
        """
        for option, name in payloads.options:
            if name not in self.binaries:
                there = listed(list(self.binaries))
                raise file.refused(f"{option} {name}: is no column of images or bytes; those are: {there}")
        named = {*payloads.columns.values(), self.image.name}
        if payloads.image is None and with_masks:
            masks = [one.name for one in self.images if one.name not in named and role_of_name(one.name) != "photo"]
            payloads = payloads.with_columns({name: name for name in masks})
        self.further = {field: self.binaries[column] for field, column in payloads.columns.items()}
        return payloads

    @property
    def paths(self) -> set[str]:
        """The columns with the paths of images that have no bytes."""
        return {f"{one.name}.path" for one in (*self.images, *self.further.values())}

    def left_out(self, asks: Callable[[str], bool]) -> Iterator[LeftOut]:
        """The columns that are no values and are not read, with the reason. `asks` tells names in the options."""
        taken = (self.image, *self.further.values())
        for one in taken:
            if one.is_list:
                yield LeftOut(what=f'all but the first image of each list in "{one.name}"', why="a field has one image")
            if (path := f"{one.name}.path") in self.columns and not asks(path):
                yield LeftOut(what=path, why="names of files; --fields or --id-column keeps them")
        binaries = [name for name in self.binaries if name not in {one.name for one in taken}]
        images = [one.name for one in self.images if one.name in binaries]
        # The names of the option are all that is read: those that came by their names are among them.
        read = [one.name for one in taken]
        if images:
            why = f"--image-columns {','.join([*read, *images])} stores them, or NAME:bytes as bytes"
            yield LeftOut(what=f"columns {listed(images)}", why=why)
        if others := [name for name in binaries if name not in images]:
            why = f"--image-columns {','.join([*read, others[0]])}:bytes stores them as they are"
            yield LeftOut(what=f"columns {listed(others)}", why=why)
        unread = {name: kind for name, kind in self.others.items() if name.partition(".")[0] not in self.binaries}
        if unread:
            kinds = ", ".join(f"{name} ({kind})" for name, kind in list(unread.items())[:4])
            yield LeftOut(what=f"columns {kinds}", why="fields hold numbers, texts, and lists of either")

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
        odd = [own] if own != self.image else []
        odd += [one for one in self.further.values() if other.binaries.get(one.name) != one]
        return f'has images of another type in "{odd[0].name}" than {first}; write it again' if odd else ""

    def fixed(self, names: Sequence[str]) -> dict[str, Field]:
        """The types of columns of lists of one length."""
        found = {name: fixed_field(self.columns[name].kind) for name in names if self.columns[name].child is None}
        return {name: field for name, field in found.items() if field is not None}
