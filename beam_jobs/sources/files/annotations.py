"""Parsing and checking of boxes and points."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from beam_jobs.sources.files.interface import BadInput

__all__ = ["boxes", "check_box", "points"]


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
    if isinstance(group, list) and len(group) == size and all(map(_is_number, group)):
        return [float(number) for number in group]
    raise BadInput(f"bad-{what}", f"the {what} {group!r:.80} is not {'four' if size == 4 else 'two'} numbers")


def _several(what: str) -> str:
    return "boxes" if what == "box" else f"{what}s"


def _is_number(value: Any) -> bool:
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
