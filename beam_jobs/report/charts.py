"""Charts as numbers: the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bar", "Histogram", "histogram", "parts", "plain"]

WIDTH: Final = 320
HEIGHT: Final = 88  # of a histogram, in units of its SVG
_BINS = 28
_GAP = 1.5


class Bar(NamedTuple):
    """A rectangle, and its meaning in words."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """The distribution of some values.

    Attributes:
        title: the name of the values.
        text: the smallest, the median and the largest value, in words.
        bars: a bar for each bin with a value; none if all values are the same.
        ticks: positions and texts of the axis.
    """

    title: str
    text: str
    bars: tuple[Bar, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()


def plain(value: float) -> str:
    """A number as short text: `12,345`, `0.25`, `1.5`."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2g}"


def histogram(
    title: str, values: NDArray[Any], show: Callable[[float], str] = plain, *, log: bool = False
) -> Histogram | None:
    """The histogram of finite values `[n]`, None without a value.

    Args:
        title: the name of the values.
        values: the values.
        show: a value as text.
        log: whether bins are equal parts of the logarithms of values, of those down to a millionth of the largest.
    """
    if not len(values):
        return None
    low, high, median = float(values.min()), float(values.max()), float(np.median(values))
    # Values that differ in their last bits have no bins between them.
    if math.isclose(low, high, rel_tol=1e-9):
        return Histogram(title, f"all {show(low)}")
    log = log and high > 0
    scaled = np.log2(np.maximum(values, high / 1e6)) if log else values.astype(np.float64)
    counts, edges = np.histogram(scaled, _BINS)
    shown = [show(float(value)) for value in (np.exp2(edges) if log else edges)]
    width, top = WIDTH / _BINS, int(counts.max())
    bars = tuple(
        Bar(round(n * width, 2), round(HEIGHT * (1 - count / top), 2), round(width - _GAP, 2),
            round(HEIGHT * count / top, 2), f"{shown[n]} to {shown[n + 1]}: {count:,}")
        for n, count in enumerate(counts.tolist()) if count
    )  # fmt: skip
    middle = (edges[0] + edges[-1]) / 2
    ticks = ((0, show(low)), (WIDTH / 2, show(float(np.exp2(middle) if log else middle))), (WIDTH, show(high)))
    return Histogram(title, f"{show(low)} to {show(high)}, median {show(median)}", bars, ticks)


def parts(counts: Sequence[int], largest: int) -> tuple[tuple[float, float], ...]:
    """Begin and length of each part of a stacked bar, in percent of the `largest` sum."""
    ends = np.cumsum([0, *counts]) * 100 / max(1, largest)
    return tuple((round(float(a), 3), round(float(b - a), 3)) for a, b in pairwise(ends))
