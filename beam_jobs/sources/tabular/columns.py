"""The columns of rows by their meaning, and the values of a row: labels, ids, splits, boxes, points and fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.objects import ObjectColumns
from beam_jobs.sources.files.annotations.payloads import PayloadColumns
from beam_jobs.sources.files.class_names import one_hot
from beam_jobs.sources.files.interface import BadInput, Label, LeftOut, SourceOptions
from shard_reader.format.fields import Field
from shard_reader.printable import printable

__all__ = ["LABEL_COLUMNS", "PATH_COLUMNS", "ROW_NUMBERS", "RowColumns", "column", "listed", "no_value", "recognise"]

PATH_COLUMNS = (
    "path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path", "image_file", "image_name",
    "img", "img_path", "tile_name", "url", "image_url", "image_id",
)  # fmt: skip
"""The usual names of a column of paths, in lower case."""

LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "y", "target")
"""The usual names of a column of labels, in lower case."""
ROW_NUMBERS = re.compile(r"|__index_level_[0-9]+__")
"""The names of pandas for its row numbers."""
_SHOWN = 20  # columns of a long table


@dataclass(frozen=True, slots=True, kw_only=True)
class RowColumns:
    """The columns by their meaning. `image` has the paths of images, or images; `payloads` those of further ones."""

    options: SourceOptions
    image: str
    id: str | None
    label: str | None
    split: str | None
    objects: ObjectColumns
    fields: tuple[str, ...]
    left_out: tuple[str, ...]
    payloads: PayloadColumns

    @property
    def wanted(self) -> list[str]:
        """The columns to read, each once."""
        special = (self.image, self.id, self.label, self.split)
        named = (*special, *self.objects.names, *self.payloads.columns.values(), *self.fields)
        return [name for name in dict.fromkeys(named) if name is not None]

    @property
    def texts(self) -> list[str]:
        """The columns but that of images, in words."""
        found = []
        for what, name in (("ids", self.id), ("labels", self.label), ("split", self.split)):
            if name is not None:
                found.append(f'{what} in "{name}"')
        for what, several in (("boxes", self.objects.boxes), ("points", self.objects.points)):
            if several:
                found.append(f"{what} in " + ", ".join(f'"{name}"' for name in several))
        found += self.payloads.texts
        return [*found, f"fields {listed(self.fields)}"] if self.fields else found

    def id_of(self, row: Mapping[str, Any], default: str) -> str:
        """The id of a row; `default` without a column of ids.

        Raises:
            BadInput: the value is no id.
        """
        return default if self.id is None else _name(row, self.id, "no-id", "an id")

    def split_of(self, row: Mapping[str, Any]) -> str | None:
        """The split of a row.

        Raises:
            BadInput: the value is no split.
        """
        return None if self.split is None else _name(row, self.split, "no-split", "a split")

    def label_of(self, row: Mapping[str, Any], where: str) -> Label | None:
        """The label of a row; None without a column of labels.

        Raises:
            BadInput: the value is missing, or no label.
            UsageError: the value has a fraction; `where` names the row.
        """
        if self.label is None:
            return None
        value, separator = row[self.label], self.options.label_separator
        # With a separator, an empty cell is an image without labels, and not a missing label.
        if separator is not None and isinstance(value, str):
            return [part.strip() for part in value.split(separator) if part.strip()]
        if value is None or (isinstance(value, str) and not value.strip()) or value != value:
            raise BadInput("no-label", f'column "{self.label}" is empty; it is to have a label')
        if isinstance(value, list):
            hot = one_hot(value)
            return hot if hot is not None else [_class(one, self.label, where) for one in value]  # type: ignore[return-value]
        return _class(value, self.label, where)

    def fields_of(self, row: Mapping[str, Any], own: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The fields of a row, with its boxes and points. `own` are the names of fields by those of columns.

        Raises:
            BadInput: a value is no box or point, or lists of objects differ in length.
        """
        return self.objects.filled({own[name] if own else name: row[name] for name in self.fields}, row)

    def paths_of(self, row: Mapping[str, Any], resolve: Callable[[str], str]) -> dict[str, str]:
        """The paths of further images and of bytes. An empty value is a missing one.

        Args:
            row: the values of the row.
            resolve: gives the place of a path, or raises `BadInput`.

        Raises:
            BadInput: a value is no path, or one that may not be read.
        """
        found = {}
        for name, own in self.payloads.columns.items():
            value = row[own]
            if value is None or value == "" or value != value:
                continue
            if not isinstance(value, str):
                raise BadInput("no-path", f'column "{own}" {no_value(value)}; it is to have the path of a file')
            try:
                found[name] = resolve(value)
            except BadInput as bad:
                raise BadInput(bad.reason, f'column "{own}": {bad}') from bad
        return found

    def types(self, known: Mapping[str, Field]) -> dict[str, Field]:
        """The types of fields: the known ones, and those of boxes and points."""
        return {**known, **self.objects.types()}

    @property
    def box_formats(self) -> dict[str, str]:
        """The field with boxes, and their form."""
        return self.objects.box_formats

    @property
    def point_formats(self) -> dict[str, str]:
        """The field with points, and their form."""
        return self.objects.point_formats

    def not_read(self) -> tuple[LeftOut, ...]:
        """The columns that are not read, with the reason."""
        indexes = [name for name in self.left_out if ROW_NUMBERS.fullmatch(name)]
        others = [name for name in self.left_out if name not in indexes]
        index = LeftOut(what="the column without a name", why="row numbers of pandas; rename it to read it")
        other = LeftOut(what=f"columns {listed(others)}", why="--fields does not name them")
        return (*([index] if indexes else []), *([other] if others else []))


def recognise(
    names: Sequence[str],
    options: SourceOptions,
    image: str,
    refused: Callable[[str], UsageError],
    *,
    label: str | None = None,
    splits: Sequence[str] = ("split",),
    payloads: PayloadColumns | None = None,
) -> RowColumns:
    """The columns by their meaning.

    Args:
        names: all columns.
        options: the names that the user gave.
        image: the column of images.
        refused: makes an error that names INPUT.
        label: the column of labels if the user gave none, and none has a usual name.
        splits: the usual names of a column of splits.
        payloads: the columns of further images and of bytes; by default those of the options.

    Raises:
        UsageError: a column of the options is missing, or clashes with a field that boxes or points get.
    """
    objects, payloads = ObjectColumns.of(options), payloads or PayloadColumns.of(options)
    further = payloads.columns.values()
    elsewhere = {image, options.id_column, *(options.fields or ()), *objects.names, *further}
    others = [name for name in names if name not in elsewhere]
    found = column("--label-column", options.label_column, LABEL_COLUMNS, names, options, others)
    label = found if found is not None or label not in others else label
    split = column("--split-column", options.split_column, splits, names, options, others)
    if options.label_separator is not None and label is None:
        raise refused(f"--label-separator: no column has labels; give --label-column; it has {listed(names)}")
    for option, given, counts in (("--boxes", options.boxes, (1, 4)), ("--points", options.points, (1, 2))):
        if given is not None and len(given) not in counts:
            raise UsageError(f"{option} {','.join(given)}: give one column of lists, or {counts[1]} columns")
    for option, several in (("--fields", options.fields), ("--boxes", options.boxes), ("--points", options.points)):
        for one in several or ():
            column(option, one, (), names, options)
    for option, name in payloads.options:
        column(option, name, (), names, options)
    id_column = column("--id-column", options.id_column, (), names, options)
    taken = {image, id_column, label, split, *objects.names, *further}
    rest = tuple(name for name in names if name not in taken and not ROW_NUMBERS.fullmatch(name))
    fields = rest if options.fields is None else options.fields
    for made, source in objects.made.items():
        if made in fields:
            raise refused(f'the column "{made}" has the name that {source} gets; rename it')
    return RowColumns(
        options=options,
        image=image,
        id=id_column,
        label=label,
        split=split,
        objects=objects,
        fields=fields,
        left_out=tuple(name for name in names if name not in taken.union(fields)),
        payloads=payloads,
    )


def column(
    option: str,
    given: str | None,
    usual: Sequence[str],
    names: Sequence[str],
    options: SourceOptions,
    free: Sequence[str] | None = None,
) -> str | None:
    """The column of an option, or else the first free column with a usual name, in any case.

    Raises:
        UsageError: there is no such column.
    """
    if given is not None:
        if given not in names or not given:
            raise UsageError(f"{option} {given}: INPUT {options.input} has no such column; it has {listed(names)}")
        return given
    lower = {name.lower(): name for name in reversed(names if free is None else free)}
    return next((lower[name] for name in usual if name in lower), None)


def listed(names: Sequence[str]) -> str:
    """Names of columns, of many only the first ones."""
    shown = ", ".join(printable(name) or '""' for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def no_value(value: Any) -> str:
    """A value that cannot be used, as the end of a sentence."""
    return "is empty" if value is None or value == "" else f"is {value!r:.80}"


def _name(row: Mapping[str, Any], column: str, reason: str, what: str) -> str:
    """The value of a column as a text: a text, or a whole number."""
    value = row[column]
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
        return str(value)
    raise BadInput(reason, f'column "{column}" {no_value(value)}; it is to have {what}')


def _class(value: Any, column: str, where: str) -> str | int:
    """A class: a name or a number."""
    # Pandas writes whole numbers as floats where some are missing.
    if (isinstance(value, float) and value.is_integer()) or isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value == value:
        raise UsageError(
            f'{where}: column "{column}" is {value}, which is no class; if it is a value to predict, make it a field:'
            f" --fields {column}"
        )
    if isinstance(value, str):
        value = value.strip()
    if isinstance(value, (str, int)) and value != "":
        return value
    raise BadInput("bad-label", f'column "{column}" has {value!r:.80}, which is no class')
