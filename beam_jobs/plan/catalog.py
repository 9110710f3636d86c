"""The classes, splits and types of fields of all inputs, known after the last entry.

Memory holds the names of classes and splits and the kinds of values, and no entry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.file_names import SPLIT_NAMES
from beam_jobs.sources.files.interface import Entry, Label, Layout, Problem, Reference
from shard_reader.format.fields import RESERVED_NAMES, Field, index_dtype

__all__ = ["Catalog", "Schema"]

_MOST_NAMES = 1_000_000  # of classes: with more names, the column is not a label, and memory would run out
_MOST_COUNTED = 65_536  # distinct numbers as labels, up to which the manifest counts each of them
_MOST_SPLITS = 100
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,40})")  # 007 is a code, whose zeros would be lost
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|NaN|Inf)")
_EXACT_IN_FLOAT = 1 << 24
_INT64 = 1 << 63
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The type of a record: its classes, its splits, and its fields but the image and the numbers about it.

    `count_classes` is True if there are few enough labels to count the records of each.
    """

    class_names: tuple[str, ...] | None
    splits: tuple[str, ...] | None
    fields: Mapping[str, Field]
    boxes: Mapping[str, str]
    points: Mapping[str, str]
    count_classes: bool
    numbers: bool  # labels are the numbers that the inputs give
    untyped: bool
    renamed: Mapping[str, str]
    labels: Mapping[str, int] = field(default_factory=dict)

    def reference(self, entry: Entry) -> tuple[Reference, str | None] | Problem:
        """The reference of an entry, with every value converted to the type of its field, and its split."""
        if not _is_text(entry.id):
            return Problem("bad-id", "the id is no text: it has a NUL, or is not Unicode")
        if self.splits and entry.split is None:
            return Problem("no-split", "has no split, as others have")
        values: dict[str, Any] = {}
        if "label" in self.fields:
            label = self._label(entry.label)
            if isinstance(label, Problem):
                return label
            values["label"] = label
        for name, own in self.renamed.items():
            try:
                values[own] = _converted(entry.fields.get(name), self.fields[own])
            except (ValueError, TypeError, OverflowError):
                return Problem(
                    "bad-field", f"{name} is {entry.fields.get(name)!r:.80}, no {_type_text(self.fields[own])}"
                )
        return Reference(entry.id, entry.size, entry.place, values, entry.frame), entry.split

    def _label(self, label: Label | None) -> int | list[int] | Problem:
        if label is None or label == "":
            return Problem("no-label", "has no label, as others have")
        if isinstance(label, list) or self.fields["label"].shape:
            numbers = [self._number(one) for one in (label if isinstance(label, list) else [label])]
            problems = [number for number in numbers if isinstance(number, Problem)]
            return problems[0] if problems else sorted({n for n in numbers if not isinstance(n, Problem)})
        return self._number(label)

    def _number(self, label: str | int) -> int | Problem:
        if self.numbers:
            number = int(label) if isinstance(label, int) or _INTEGER.fullmatch(label) else int(float(label))
            if -_INT64 <= number < _INT64:
                return number
            return Problem("bad-label", f"the label {label} is beyond 64 bits")
        found = self.labels.get(str(label))
        if found is not None:
            return found
        if isinstance(label, int) or (self.untyped and _INTEGER.fullmatch(label)):
            number = int(label)  # an index into --classes FILE
            if 0 <= number < len(self.labels):
                return number
        if isinstance(label, str) and not _is_text(label):
            return Problem("bad-label", f"the label {label!r} is no text")
        return Problem("unknown-class", f"the class {label!r} is not in --classes")


class Catalog:
    """Infers the schema of a dataset from its entries.

    Args:
        classes: the names of the classes, in the order of their numbers; None if the user gave no names.
    """

    def __init__(self, classes: tuple[str, ...] | None = None) -> None:
        self._classes = classes
        self._labels = _Labels()
        self._splits: set[str] = set()
        self._columns: dict[str, _Column] = {}

    def add(self, entry: Entry) -> None:
        """Take note of one entry that has no problem.

        Raises:
            UsageError: there are too many classes or splits.
        """
        if entry.label is not None:
            self._labels.add(entry.label)
        if entry.split is not None and entry.split not in self._splits:
            self._add_split(entry)
        for name, value in entry.fields.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = _Column(name)
            column.add(value)

    def close(self, layout: Layout, group_by: str | None = None) -> Schema:
        """The schema of all entries.

        Raises:
            UsageError: a field has values of several types, or an impossible name.
        """
        fields: dict[str, Field] = {}
        names, numbers = self._class_names(layout)
        of_objects = "objects/label" in layout.fields
        if not of_objects and (names is not None or numbers):
            fields["label"] = Field(dtype="int64", shape=(None,) if self._labels.several else ())
        renamed = {name: _own_name(name) for name in self._columns}
        renamed = {name: name for name in layout.fields if name not in renamed} | renamed
        for name, own in renamed.items():
            fields[own] = layout.fields.get(name) or self._columns[name].field(layout.untyped)
        _check_names(fields)
        splits = layout.splits or tuple(sorted(self._splits, key=_split_key)) or None
        return Schema(
            class_names=names,
            splits=splits,
            fields=fields,
            boxes=layout.boxes,
            points=layout.points,
            count_classes=names is not None or ("label" in fields and self._labels.countable),
            numbers=numbers,
            untyped=layout.untyped,
            renamed=renamed,
            labels={name: number for number, name in enumerate(names or ())},
        )

    def _add_split(self, entry: Entry) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", str(entry.split)):
            raise UsageError(f"the split {entry.split!r} of {entry.id}: a name has letters, digits and _ only")
        self._splits.add(str(entry.split))
        if len(self._splits) > _MOST_SPLITS:
            some = ", ".join(sorted(self._splits)[:5])
            raise UsageError(f"more than {_MOST_SPLITS} splits ({some}, ...): is that column the split?")

    def _class_names(self, layout: Layout) -> tuple[tuple[str, ...] | None, bool]:
        """The names of the classes, and whether labels are numbers without names instead."""
        found = layout.class_names
        numbers = False
        if found is None and self._labels.any:
            numbers = self._labels.are_numbers(layout.untyped)
            found = None if numbers else tuple(sorted(self._labels.names))
        if self._classes is not None:
            if "objects/label" in layout.fields and layout.class_names is not None:
                raise UsageError("--classes: INPUT has names for the classes of its objects; leave it out")
            if found is None and not numbers and "objects/label" not in layout.fields:
                raise UsageError("--classes: the inputs have no classes; leave it out")
            return self._classes, False
        for name in found or ():
            if len(name.splitlines()) != 1:
                raise UsageError(f"the class {name!r} has a line break in its name; rename it")
        return found, numbers


class _Labels:
    """The labels of all entries."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.several = False
        self._numbers: set[int] = set()
        self._any_number = self.any = False
        self.countable = True

    def add(self, label: Label) -> None:
        self.any = True
        if isinstance(label, list):
            self.several = True
            for one in label:
                self._add(one)
        elif label != "":
            self._add(label)

    def _add(self, label: str | int) -> None:
        if isinstance(label, str):
            if not _is_text(label):
                return
            self.names.add(label)
            if len(self.names) > _MOST_NAMES:
                raise UsageError(f"more than {_MOST_NAMES} classes, as {label!r}: is that column the label?")
        elif isinstance(label, int):
            self._any_number = True
            if self.countable:
                self._numbers.add(label)
                self.countable = len(self._numbers) <= _MOST_COUNTED
        else:
            self._refuse(label)

    def _refuse(self, label: object) -> NoReturn:
        raise UsageError(
            f"the label {label!r} is no class: labels are names or whole numbers; if it is a value to predict, make"
            " it a field with --fields"
        )

    def are_numbers(self, untyped: bool) -> bool:
        # Pandas turns a column of whole numbers with gaps into floats: a CSV then has "3.0" for 3.
        if untyped and all(_NUMBER.fullmatch(name) for name in self.names):
            values = [float(name) for name in self.names]
            if not all(value.is_integer() for value in values):
                self._refuse(next(name for name in sorted(self.names) if not float(name).is_integer()))
            self.countable = len(self.names) <= _MOST_COUNTED
            return True
        if self.names and self._any_number:
            raise UsageError(f"labels are both names and numbers, as {min(self.names)!r}: make them one or the other")
        return not self.names


class _Column:
    """The kinds of values of a field."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._kinds: dict[type, Any] = {}  # types of single values and of elements of lists, each with its first value
        self._text_kind: type = int  # the narrowest type that all texts can be read as
        self._empty = self._list = self._single = self._text = self._fraction = False
        self._largest = 0

    def add(self, value: Any) -> None:
        if value is None or value == "":
            self._empty = True
            if value is None:
                return
        if isinstance(value, list):
            self._list = True
            for element in value:
                self._see(element)
        else:
            self._single = True
            self._see(value)

    def _see(self, value: Any) -> None:
        kind = int if isinstance(value, bool) else type(value)
        if kind not in self._kinds:
            self._kinds[kind] = value
        if kind is str:
            if value:
                self._text = True
                if self._text_kind is not str:
                    self._see_text(value)
        elif kind is int:
            self._largest = max(self._largest, abs(value))
        elif kind is float:
            self._see_float(value)

    def _see_float(self, value: float) -> None:
        if value.is_integer():
            self._largest = max(self._largest, abs(int(value)))
        elif math.isfinite(value):
            self._fraction = True

    def _see_text(self, text: str) -> None:
        if _INTEGER.fullmatch(text):
            self._largest = max(self._largest, abs(int(text)))
            if self._largest >= _INT64:  # a code: no type of numbers holds it
                self._text_kind = str
        elif _NUMBER.fullmatch(text):
            self._text_kind = float
            self._see_float(float(text))
        else:
            self._text_kind = str

    def field(self, untyped: bool) -> Field:
        """The type of the field.

        Raises:
            UsageError: no type holds all values unchanged.
        """
        shape = (None,) if self._list else ()
        kinds = self._kinds.keys() - ({str} if untyped else set())
        if untyped and str in self._kinds:
            kinds = kinds | {self._text_kind}
        unknown = kinds - {int, float, str}
        if unknown or (self._list and self._single) or (str in kinds and len(kinds) > 1):
            first = " and ".join(repr(value)[:40] for value in list(self._kinds.values())[:2])
            what = "both lists and single values" if self._list and self._single else first
            raise UsageError(f"the field {self._name!r} holds {what}, of no one type; leave it out with --fields")
        if str in kinds or not kinds or (untyped and not self._text):
            return Field(dtype="string", shape=shape)
        if float not in kinds and self._largest >= _INT64:
            raise UsageError(f"the field {self._name!r} holds whole numbers beyond 64 bits; leave it out with --fields")
        if float not in kinds and (self._list or not self._empty):
            return Field(dtype="int64", shape=shape)
        # Whole numbers this large are often ids. They became floats for a missing value; float32 would round them.
        if self._largest > _EXACT_IN_FLOAT and not self._fraction:
            raise UsageError(
                f"the field {self._name!r} has large whole numbers, and missing values or a decimal point, for which it"
                " would be of floats, that round them: fill the gaps, make them texts, or leave it out with --fields"
            )
        return Field(dtype="float32", shape=shape)  # a missing value is NaN


def _converted(value: Any, field: Field) -> Any:
    """A value converted to the type of its field. Nested lists become one flat list."""
    if not field.shape:
        return _scalar(value, field.dtype)
    values = [_scalar(one, field.dtype) for one in _flat(value)]
    if field.is_fixed and len(values) != math.prod(size or 1 for size in field.shape):
        raise ValueError("of another length")
    if not field.is_fixed and len(values) % math.prod(size or 1 for size in field.shape):
        raise ValueError("of another length")
    return values


def _scalar(value: Any, dtype: str) -> Any:
    if dtype == "string":
        text = "" if value is None else str(value)
        if not _is_text(text):
            raise ValueError("no text")
        return text
    if dtype == "float32":
        number = math.nan if value is None or value == "" else float(value)
        if math.isfinite(number) and abs(number) > _LARGEST_FLOAT:
            raise ValueError("beyond float32")
        return number
    whole = int(value)
    if not -_INT64 <= whole < _INT64 or (isinstance(value, float) and value != whole):
        raise ValueError("no whole number of 64 bits")
    return whole


def _flat(value: Any) -> Iterator[Any]:
    for one in value or ():
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _type_text(field: Field) -> str:
    name = {"int64": "whole number", "float32": "number", "string": "text"}[field.dtype]
    return f"list of shape {list(field.shape)} of {name}s" if field.shape else name


def _is_text(text: str) -> bool:
    """Whether both formats can hold a text: HDF5 texts have no NUL, and UTF-8 has no half of a surrogate pair."""
    if text.isascii():
        return "\0" not in text
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _own_name(name: str) -> str:
    """The name of a field, with "source/" in front of a name that would clash with a field of every record."""
    return f"source/{name}" if name.partition("/")[0] in RESERVED_NAMES else name


def _split_key(name: str) -> tuple[int, str]:
    lower = name.lower()
    return (SPLIT_NAMES.index(lower) if lower in SPLIT_NAMES else len(SPLIT_NAMES), name)


def _check_names(fields: Mapping[str, Field]) -> None:
    """Check that TFRecord features, HDF5 datasets and columns of an index can have these names."""
    for name in fields:
        parts = name.split("/")
        if not name.isprintable() or any(part in ("", ".", "..") for part in parts):
            raise UsageError(f"{name!r} cannot be the name of a field; rename it, or leave it out with --fields")
        for above in _beginnings(parts):
            if above in fields:
                raise UsageError(
                    f"the fields {above!r} and {name!r}: HDF5 cannot hold both; leave one out with --fields"
                )
    columns = [column for column, *_ in index_dtype(fields)]
    for column in columns:
        if columns.count(column) > 1:
            raise UsageError(f"the field {column!r} has the name of an index column; leave it out with --fields")


def _beginnings(parts: list[str]) -> Iterable[str]:
    return ("/".join(parts[:end]) for end in range(1, len(parts)))
