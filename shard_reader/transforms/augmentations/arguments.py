"""Checks of the parameters of augmentations."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, get_args

from shard_reader.transforms.moves.warp import Fill, Interpolation

__all__ = [
    "checked_fill",
    "checked_interpolation",
    "integer",
    "number",
    "numbers",
    "ordered",
    "pair",
    "probability",
    "range_around",
]


def number(name: str, value: Any, shown: Any = None) -> float:
    """A finite number, in Python's floats.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite.
    """
    shown = value if shown is None else shown
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={shown!r}: must be a number") from None
    if not math.isfinite(found):
        raise ValueError(f"{name}={shown!r}: must be finite")
    return found


def numbers(name: str, value: Any, counts: Iterable[int], wanted: str) -> tuple[float, ...]:
    """Finite numbers, as many as one of `counts`.

    Raises:
        TypeError: they are not. The message has `wanted`.
    """
    if not isinstance(value, list | tuple) or len(value) not in counts:
        raise TypeError(f"{name}={value!r}: must be {wanted}")
    return tuple(number(name, one, value) for one in value)


def pair(name: str, value: Any, wanted: str) -> tuple[float, float]:
    """Two finite numbers. Raises as `numbers`."""
    first, second = numbers(name, value, (2,), wanted)
    return first, second


def ordered(name: str, value: Any, low: float, high: float, allowed: str) -> tuple[float, float]:
    """The least and the greatest number of a range within bounds.

    Raises:
        TypeError: it is not two numbers.
        ValueError: it is out of bounds or reversed. The message has `allowed`.
    """
    first, last = pair(name, value, "two numbers, the least and the greatest")
    if not low <= min(first, last) <= max(first, last) <= high:
        raise ValueError(f"{name}={value!r}: must be {allowed}")
    if first > last:
        raise ValueError(f"{name}={value!r}: the least comes first, ({last}, {first})")
    return first, last


def range_around(
    name: str, value: Any, center: float, low: float, high: float, allowed: str
) -> tuple[float, float] | None:
    """The range of a factor: from a number how far it is from `center` at most, or from its ends.

    Returns:
        None where the factor is always `center`, or was not given.

    Raises:
        TypeError, ValueError: as in `ordered`.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple):
        found = ordered(name, value, low, high, f"{allowed}, or a number")
    else:
        strength = number(name, value)
        if strength < 0 or center + strength > high:
            raise ValueError(f"{name}={value!r}: must be {'0 or above' if math.isinf(high) else f'from 0 to {high:g}'}")
        found = max(low, center - strength), center + strength
    return None if found == (center, center) else found


def probability(name: str, value: Any) -> float:
    """A number from 0 to 1.

    Raises:
        TypeError, ValueError: it is not.
    """
    found = number(name, value)
    if not 0 <= found <= 1:
        raise ValueError(f"{name}={value!r}: must be from 0 to 1")
    return found


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """An integer within bounds, in Python's integers.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of bounds.
    """
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be an integer") from None
    if found < least or (most is not None and found > most):
        raise ValueError(f"{name}={value!r}: must be {f'{least} or above' if most is None else f'{least} to {most}'}")
    return found


def checked_interpolation(value: Any) -> Interpolation:
    """The name of a filter, or torchvision's `InterpolationMode` of it.

    Raises:
        ValueError: there is no such filter for maps.
    """
    found = getattr(value, "value", value)
    if found not in get_args(Interpolation):
        raise ValueError(f"interpolation={value!r}: must be one of {', '.join(get_args(Interpolation))}")
    return found  # type: ignore[no-any-return]


def checked_fill(name: str, value: Any) -> Fill:
    """A value of pixels, or one for each channel. None is 0.

    Raises:
        TypeError, ValueError: it is not, or not finite.
    """
    if value is None:
        return 0.0
    if isinstance(value, list | tuple):
        return numbers(name, value, range(1, 5), "a number, or one for each channel")
    return number(name, value)
