"""What arguments may be; what they are not is an error that names them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

__all__ = ["as_integer", "at_least_one", "one_of", "require"]


def as_integer(name: str, value: Any) -> int:
    """A Python integer, which NumPy's become: JSON can hold it.

    Raises:
        TypeError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be an integer") from None


def at_least_one(name: str, value: Any) -> int:
    """An integer from 1 on.

    Raises:
        TypeError: it is none.
        ValueError: it is less.
    """
    number = as_integer(name, value)
    require(number >= 1, name, number, "must be at least 1")
    return number


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that a value is one of some words.

    Raises:
        ValueError: it is not.
    """
    require(value in choices, name, value, f"must be one of {', '.join(choices)}")


def require(holds: bool, name: str, value: Any, message: str) -> None:
    """Check that something holds of a value.

    Raises:
        ValueError: it does not.
    """
    if not holds:
        raise ValueError(f"{name}={value!r}: {message}")
