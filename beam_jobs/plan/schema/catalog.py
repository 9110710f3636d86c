"""The classes, splits and types of fields of all inputs, known after the last entry.

Memory holds the names of classes and splits and the kinds of values, and no entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.plan.schema.columns import INTEGER, Column, Labels, converted, is_text, type_text
from beam_jobs.sources.files.file_names import SPLIT_NAMES
from beam_jobs.sources.files.interface import (
    INSTANCES,
    TEXT_SEGMENTS,
    Entry,
    Label,
    Layout,
    Problem,
    Reference,
)
from shard_reader.format.fields import ANY_ENCODING, OUTLINES, RESERVED_NAMES, Field, index_dtype

__all__ = ["Catalog", "Schema", "check_names"]

_MOST_SPLITS = 100
_INT64 = 1 << 63
_UNLABELLED = -1  # as TensorFlow Datasets and Hugging Face's `ClassLabel` have it
_OBJECT_LABEL = "objects/label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The type of a record: its classes, its splits, and its fields but the image and the numbers about it.

    `count_classes` is True if there are few enough labels to count the records of each. Inputs of the splits in
    `unlabelled` may have no label. `payloads` has the roles of further images and of bytes, and `segments` the form of
    outlines, as in `Layout`. `own_numbers` has the number of each class that INPUT gives by a number of its own; None
    where these are the same. `named_objects` is True if the classes of objects are names, or indexes into the
    file of `--classes`.
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
    unlabelled: frozenset[str] = frozenset()
    named_objects: bool = False
    payloads: Mapping[str, str] = field(default_factory=dict)
    segments: str | None = None
    own_numbers: tuple[int, ...] | None = None

    def reference(self, entry: Entry) -> tuple[Reference, str | None] | Problem:
        """The reference of an entry, with every value converted to the type of its field, and its split."""
        if not is_text(entry.id):
            return Problem("bad-id", "the id is no text: it has a NUL, or is not Unicode")
        if self.splits and entry.split is None:
            return Problem("no-split", "has no split, as others have")
        values: dict[str, Any] = {}
        if "label" in self.fields:
            label = self._label(entry.label, entry.split)
            if isinstance(label, Problem):
                return label
            values["label"] = label
        for name, own in self.renamed.items():
            value = entry.fields.get(name)
            if self.named_objects and name == _OBJECT_LABEL:
                numbers = [self._object_class(one) for one in value or ()]
                if None in numbers:
                    wrong = (value or ())[numbers.index(None)]
                    return Problem("unknown-class", f"the class {wrong!r} of an object is not in --classes")
                value = numbers
            try:
                values[own] = converted(value, self.fields[own])
            except (ValueError, TypeError, OverflowError):
                return Problem("bad-field", f"{name} is {value!r:.80}, no {type_text(self.fields[own])}")
            if name == _OBJECT_LABEL and self.own_numbers is not None and not self.named_objects:
                known = range(len(self.own_numbers))
                wrong = next((one for one in values[own] if one not in known), None)
                if wrong is not None:
                    return Problem("unknown-class", f"the class {wrong} of an object has no name")
                values[own] = [self.own_numbers[one] for one in values[own]]
        return Reference(entry.id, entry.size, entry.place, values, entry.frame, entry.payloads), entry.split

    def _object_class(self, label: str | int) -> int | None:
        """The number of the class of an object; None for an unknown class."""
        if isinstance(label, str):
            return self.labels.get(label)
        return self._own_number(label)

    def _own_number(self, number: int) -> int | None:
        """The number of the class that has a number in INPUT; None for an unknown class."""
        if self.own_numbers is None:
            return number if 0 <= number < len(self.labels) else None
        return self.own_numbers[number] if 0 <= number < len(self.own_numbers) else None

    def _label(self, label: Label | None, split: str | None) -> int | list[int] | Problem:
        if label is None and split in self.unlabelled:
            return [] if self.fields["label"].shape else _UNLABELLED
        if label is None or label == "":
            return Problem("no-label", "has no label, as others have")
        if isinstance(label, list) or self.fields["label"].shape:
            numbers = [self._number(one) for one in (label if isinstance(label, list) else [label])]
            problems = [number for number in numbers if isinstance(number, Problem)]
            return problems[0] if problems else sorted({n for n in numbers if not isinstance(n, Problem)})
        return self._number(label)

    def _number(self, label: str | int) -> int | Problem:
        if self.numbers:
            number = int(label) if isinstance(label, int) or INTEGER.fullmatch(label) else int(float(label))
            if -_INT64 <= number < _INT64:
                return number
            return Problem("bad-label", f"the label {label} is beyond 64 bits")
        found = self.labels.get(str(label))
        if found is not None:
            return found
        if isinstance(label, int) or (self.untyped and INTEGER.fullmatch(label)):
            own = self._own_number(int(label))  # an index into --classes FILE
            if own is not None:
                return own
        if isinstance(label, str) and not is_text(label):
            return Problem("bad-label", f"the label {label!r} is no text")
        return Problem("unknown-class", f"the class {label!r} is not in --classes")


class Catalog:
    """Infers the schema of a dataset from its entries.

    Args:
        classes: the names of the classes, in the order of their numbers; None if the user gave no names.
    """

    def __init__(self, classes: tuple[str, ...] | None = None) -> None:
        self._classes = classes
        self._labels, self._object_labels = Labels(), Labels()
        self._splits: set[str] = set()
        self._columns: dict[str, Column] = {}

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
                column = self._columns[name] = Column(name)
            column.add(value)
        objects = entry.fields.get(_OBJECT_LABEL)
        if isinstance(objects, list) and objects and isinstance(objects[0], str):
            self._object_labels.add([one for one in objects if isinstance(one, str)])

    def close(self, layout: Layout, group_by: str | None = None) -> Schema:
        """The schema of all entries.

        Raises:
            UsageError: a field has values of several types, or an impossible name.
        """
        fields: dict[str, Field] = {}
        names, numbers = self._class_names(layout)
        of_objects = _OBJECT_LABEL in layout.fields
        if not of_objects and (names is not None or numbers):
            fields["label"] = Field(dtype="int64", shape=(None,) if self._labels.several else ())
        renamed = {name: _own_name(name) for name in self._columns}
        renamed = {name: name for name in layout.fields if name not in renamed} | renamed
        for name, own in renamed.items():
            fields[own] = layout.fields.get(name) or self._columns[name].field(layout.untyped)
        for role, names_of_role in (("boxes", layout.boxes), ("points", layout.points)):
            for name in names_of_role:
                if name in fields and fields[name].role is None:
                    fields[name] = replace(fields[name], role=role)
        if layout.segments in TEXT_SEGMENTS:
            fields[OUTLINES] = Field(dtype="string", shape=(None,))
        payloads = dict(layout.payloads)
        if layout.segments is not None and layout.segments not in TEXT_SEGMENTS:
            if layout.segments in payloads:
                raise UsageError(f"--segments {layout.segments}: INPUT has a field of this name; give another form")
            payloads[layout.segments] = "mask"
            if layout.segments == "instances":
                fields[INSTANCES] = Field(dtype="int64", shape=(None,))
        check_names(fields, payloads)
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
            unlabelled=layout.unlabelled,
            payloads=payloads,
            segments=layout.segments,
            named_objects=names is not None and _has_numbers(layout) and layout.class_names is None,
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
        if found is None and _has_numbers(layout) and self._object_labels.any:
            found = tuple(sorted(self._object_labels.names))
        if self._classes is not None:
            if _OBJECT_LABEL in layout.fields and layout.class_names is not None:
                raise UsageError("--classes: INPUT has names for the classes of its objects; leave it out")
            if found is None and not numbers and _OBJECT_LABEL not in layout.fields:
                raise UsageError("--classes: the inputs have no classes; leave it out")
            return self._classes, False
        for name in found or ():
            if len(name.splitlines()) != 1:
                raise UsageError(f"the class {name!r} has a line break in its name; rename it")
        return found, numbers


def _has_numbers(layout: Layout) -> bool:
    """Whether objects are declared to have classes, which are stored as numbers."""
    declared = layout.fields.get(_OBJECT_LABEL)
    return declared is not None and declared.dtype == "int64"


def _own_name(name: str) -> str:
    """The name of a field, with "source/" in front of a name that would clash with a field of every record."""
    return f"source/{name}" if name.partition("/")[0] in RESERVED_NAMES else name


def _split_key(name: str) -> tuple[int, str]:
    lower = name.lower()
    return (SPLIT_NAMES.index(lower) if lower in SPLIT_NAMES else len(SPLIT_NAMES), name)


def check_names(fields: Mapping[str, Field], payloads: Mapping[str, str]) -> None:
    """Check that TFRecord features, HDF5 datasets and columns of an index can have these names."""
    for name in payloads:
        if name in fields or name in RESERVED_NAMES:
            raise UsageError(f"the field {name!r} of an image is there twice; leave one out with --fields")
    images = {name: Field(dtype="uint8", shape=(None, None, 1), encoding=ANY_ENCODING) for name in payloads}
    fields = {**fields, **images}
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
