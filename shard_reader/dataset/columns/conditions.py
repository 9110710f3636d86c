"""The conditions of `where`: tests of the values of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field
from shard_reader.printable import excerpt, printable

__all__ = ["as_text", "tests_of"]

Test = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""From the values of a field, `[n]`, to a mask of them."""

_LONGEST = 60  # of a value in the text of a subset


def tests_of(
    conditions: Mapping[str, Any], fields: Mapping[str, Field], class_names: Sequence[str] | None, shown: str
) -> dict[str, Test]:
    """A test for each field with a condition.

    Args:
        conditions: for each field a value, several values, or a function.
        fields: the fields of the records.
        class_names: the names of labels, if they have names.
        shown: the name of the dataset, for messages.

    Raises:
        ValueError: there is no such field or class, or the field is not a single value.
    """
    return {name: _test(name, condition, fields, class_names, shown) for name, condition in conditions.items()}


def as_text(conditions: Mapping[str, Any]) -> str:
    """The conditions of `where`, for people: `where label='cat', width=<lambda>`."""
    values = (
        (name, getattr(value, "__name__", None) or excerpt(value, _LONGEST)) for name, value in conditions.items()
    )
    return printable(f"where {', '.join(f'{name}={value}' for name, value in values)}")


def _mask(name: str, found: Any, size: int) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.asarray(found)
    if mask.shape != (size,) or mask.dtype != bool:
        raise ValueError(f"where: {name}: the function gave {mask.dtype} {mask.shape}, not a mask of {size} bools")
    return mask


def _test(
    name: str, condition: Any, fields: Mapping[str, Field], class_names: Sequence[str] | None, shown: str
) -> Test:
    field = fields.get(name)
    if field is None or field.shape:
        names = printable(", ".join(name for name, field in fields.items() if not field.shape))
        raise ValueError(f"where: {name!r} is no field with one value for each record: {names}")
    if callable(condition):
        return lambda values: _mask(name, condition(values), len(values))
    several = isinstance(condition, Iterable) and not isinstance(condition, str | bytes)
    wanted = [_value(name, field, value, class_names, shown) for value in (condition if several else [condition])]
    if field.dtype == "string":
        return lambda values: np.array([value in wanted for value in values], bool)
    # A float32 field has no 0.1, only the number that is nearest to it.
    asked = np.array(wanted, np.float32) if field.dtype == "float32" else np.array(wanted)
    return lambda values: np.isin(values, asked)


def _value(name: str, field: Field, value: Any, class_names: Sequence[str] | None, shown: str) -> Any:
    """The value of a condition as it is stored in a column."""
    if name == "label" and isinstance(value, str):
        names = class_names or ()
        if value not in names:
            raise ValueError(f"where: label={value!r}: is no class of {shown}")
        return names.index(value)
    fits = str if field.dtype == "string" else (int, float, np.integer, np.floating)
    if not isinstance(value, fits):
        raise ValueError(f"where: {name}={value!r}: the field is of type {field.dtype}")
    return value.encode() if isinstance(value, str) else value
