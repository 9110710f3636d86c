"""Checks of arguments. Errors name the argument and its value."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.printable import printable

__all__ = ["as_bytes", "as_integer", "at_least_one", "one_of", "parse_bytes", "record_numbers", "require"]

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def as_bytes(name: str, value: Any) -> int:
    """A number of bytes, from an integer or from text: `50GB`, `64MiB`.

    Raises:
        TypeError: the value is neither.
        ValueError: the text is not a size, or the value is less than a byte.
    """
    if not isinstance(value, str):
        return at_least_one(name, value)
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def as_integer(name: str, value: Any) -> int:
    """A Python integer, also from one of NumPy's.

    Raises:
        TypeError: the value is not an integer.
    """
    # NumPy's integers would otherwise reach a stream's state, which JSON could not hold then.
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be an integer") from None


def at_least_one(name: str, value: Any) -> int:
    """An integer from 1 on.

    Raises:
        TypeError: the value is not an integer.
        ValueError: the value is less than 1.
    """
    number = as_integer(name, value)
    require(number >= 1, name, number, "must be at least 1")
    return number


def parse_bytes(text: str) -> int:
    """The number of bytes in a text, as `50GB` or `64MiB`.

    Raises:
        ValueError: the text is not a size, or the size is less than a byte.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"expected a size as 128MB or 64MiB, got {text!r}")
    # Decimal, since as a float 1.001 GB is a byte less than it says.
    size = int(Decimal(found[1]) * _UNITS[found[2].upper()])
    if size < 1:
        raise ValueError(f"must be at least 1 byte, got {text!r}")
    return size


def record_numbers(records: Any) -> NDArray[np.int64]:
    """Numbers of records as an array, int64 `[n]`.

    Raises:
        TypeError: the numbers are not integers.
    """
    numbers = np.asarray(records)
    # An empty list is of floats in NumPy. Masks of bools are rejected: as numbers they would be records 0 and 1.
    if numbers.ndim != 1 or (len(numbers) and not np.issubdtype(numbers.dtype, np.integer)):
        raise TypeError(f"records has the type {numbers.dtype} and {numbers.ndim} dimensions: pass numbers")
    return numbers.astype(np.int64)


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that a value is one of some words.

    Raises:
        ValueError: the value is another one.
    """
    require(value in choices, name, value, f"must be one of {printable(', '.join(choices))}")


def require(holds: bool, name: str, value: Any, message: str) -> None:
    """Check a condition on a value.

    Raises:
        ValueError: the condition does not hold.
    """
    if not holds:
        raise ValueError(f"{name}={value!r}: {message}")
