"""The values of labels and fields of all inputs: their kinds, the types that hold them, and their conversion."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import Label
from shard_reader.format.fields import Field

__all__ = ["INTEGER", "Column", "Labels", "converted", "is_text", "type_text"]

_MOST_NAMES = 1_000_000  # of classes: with more names, the column is not a label, and memory would run out
_MOST_COUNTED = 65_536  # distinct numbers as labels, up to which the manifest counts each of them
INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,40})")
"""A text that is a whole number. 007 is a code, whose zeros would be lost."""
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|NaN|Inf)")
_EXACT_IN_FLOAT = 1 << 24
_INT64 = 1 << 63
_LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # of float32


class Labels:
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
            if not is_text(label):
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


class Column:
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
        if INTEGER.fullmatch(text):
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


def converted(value: Any, field: Field) -> Any:
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
        if not is_text(text):
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


def type_text(field: Field) -> str:
    name = {"int64": "whole number", "float32": "number", "string": "text"}[field.dtype]
    return f"list of shape {list(field.shape)} of {name}s" if field.shape else name


def is_text(text: str) -> bool:
    """Whether both formats can hold a text: HDF5 texts have no NUL, and UTF-8 has no half of a surrogate pair."""
    if text.isascii():
        return "\0" not in text
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
