"""Parsing and checking of boxes and points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.sources.files.interface import BadInput, SourceOptions
from shard_reader.format.fields import Field

__all__ = ["ObjectColumns", "boxes", "check_box", "is_number", "points"]


_BOXES, _POINTS = "objects/bbox", "objects/point"


@dataclass(frozen=True, slots=True)
class ObjectColumns:
    """The columns with boxes and points, and the fields that become of them."""

    boxes: tuple[str, ...]
    points: tuple[str, ...]
    format: str

    @classmethod
    def of(cls, options: SourceOptions) -> ObjectColumns:
        """The columns of the options."""
        return cls(options.boxes or (), options.points or (), options.box_format)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of them."""
        return (*self.boxes, *self.points)

    @property
    def made(self) -> dict[str, str]:
        """The fields that they become, each with its first column."""
        return {field: names[0] for field, names in ((_BOXES, self.boxes), (_POINTS, self.points)) if names}

    def filled(self, fields: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a record with its boxes and points. A column that is not in the row has none.

        Raises:
            BadInput: a value is no box or point, or lists of objects differ in length.
        """
        found = dict(fields)
        if self.boxes:
            found[_BOXES] = boxes([row.get(name) for name in self.boxes], self.format)
        if self.points:
            found[_POINTS] = points([row.get(name) for name in self.points])
        if self.names:
            of_objects = {name: v for name, v in found.items() if name.startswith("objects/")}
            counts = {n: 0 if v is None else len(v) for n, v in of_objects.items() if v is None or isinstance(v, list)}
            if len(set(counts.values())) > 1:
                counted = ", ".join(f"{count} in {name}" for name, count in counts.items())
                raise BadInput("bad-box", f"as many elements as objects are to be in each of them, here are {counted}")
        return found

    def types(self) -> dict[str, Field]:
        """The types of the fields."""
        sides = {_BOXES: 4, _POINTS: 2}
        return {name: Field(dtype="float32", shape=(None, sides[name])) for name in self.made}

    @property
    def box_formats(self) -> dict[str, str]:
        """The field with boxes, and their form."""
        return {_BOXES: self.format} if self.boxes else {}

    @property
    def point_formats(self) -> dict[str, str]:
        """The field with points, and their form."""
        return {_POINTS: "rel-xy" if self.format.startswith("rel-") else "xy"} if self.points else {}


def boxes(values: Sequence[Any], format: str) -> list[list[float]]:
    """The boxes of one row.

    Args:
        values: the four numbers of one box; or one value, which is a list of boxes, or a flat list of the numbers of
            all boxes. A text is parsed as JSON.
        format: one of BOX_FORMATS.

    Raises:
        BadInput: the values have another form, or a box has a negative width or height.
    """
    found = _groups(values, 4, "box")
    for box in found:
        check_box(box, format)
    return found


def points(values: Sequence[Any]) -> list[list[float]]:
    """The points of one row, in the forms of `boxes`, of two numbers each.

    Raises:
        BadInput: the values have another form.
    """
    return _groups(values, 2, "point")


def check_box(box: Sequence[float], format: str) -> None:
    """Check the sides of a box.

    Raises:
        BadInput: the box has a negative width or height.
    """
    one, other = (box[2], box[3]) if format.endswith("xywh") else (box[2] - box[0], box[3] - box[1])
    if one < 0 or other < 0:
        raise BadInput("bad-box", f"the box {list(box)} ({format}) has a negative width or height")


def _groups(values: Sequence[Any], size: int, what: str) -> list[list[float]]:
    value = _parsed(values[0], what) if len(values) == 1 else [_parsed(one, what) for one in values]
    if value is None or value == [] or (len(values) > 1 and all(one is None for one in value)):
        return []
    if not isinstance(value, list):
        raise BadInput(f"bad-{what}", f"{value!r:.80} is no list of {_several(what)}")
    # Lists of lists and flat lists are both common; a list of one box has the same numbers in either form.
    if any(isinstance(one, list) for one in value):
        groups = value
    elif len(value) % size:
        raise BadInput(
            f"bad-{what}", f"the {_several(what)} {value!r:.80} have {len(value)} numbers, no multiple of {size}"
        )
    else:
        groups = [value[start : start + size] for start in range(0, len(value), size)]
    return [_numbers(group, size, what) for group in groups]


def _numbers(group: Any, size: int, what: str) -> list[float]:
    if isinstance(group, list) and len(group) == size and all(map(is_number, group)):
        return [float(number) for number in group]
    raise BadInput(f"bad-{what}", f"the {what} {group!r:.80} is not {'four' if size == 4 else 'two'} numbers")


def _several(what: str) -> str:
    return "boxes" if what == "box" else f"{what}s"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number in the range of floats."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _parsed(value: Any, what: str) -> Any:
    """A text parsed as JSON, None if it is blank; other values unchanged."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadInput(f"bad-{what}", f"{value!r:.80} is no JSON, as a number or a list of numbers is") from None
