"""Exact sums over the pixels of a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sources.files.interface import Pixels
from shard_reader.format.manifest import Statistics, Sums

__all__ = ["ChannelSums", "MeanStd", "statistics_of"]

_ROWS = 256  # of 255 squared: less than 2 to the 24

_UNIT_BITS = 176  # of a float: no part of a float32 is smaller than 2 to the -172
_DIGITS = 24  # bits of a float32
_BLOCK = 1 << 20  # floats, whose sums of halves are below 2 to the 53


PEAKS = (255, 65_535, 1 << _UNIT_BITS)


class MeanStd(Protocol):
    """The statistics of a dataset, as far as a normalization needs them."""

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of pixels scaled to 0..1."""


@dataclass(frozen=True, slots=True)
class ChannelSums:
    """Exact sums over pixels, in integers.

    `total` and `squares` are the sums of values up to `peak` (255 or 65,535) and of their squares, for each channel.
    Floats, which have no peak, are counted in units of 1 / `peak` (2 to the -176), those of pixels without a NaN.
    Images of different numbers of channels have no common sums, nor have floats and integers: they are `mixed`.
    """

    # Shards finish in any order. Sums of floats would depend on it, and with them the bytes of normalized images.

    pixels: int = 0
    total: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()
    peak: int = 255

    @classmethod
    def of(cls, pixels: Pixels) -> ChannelSums:
        """The sums over one image, `[height, width, channels]`, uint8, uint16 or float32."""
        height, width, channels = pixels.shape
        if pixels.dtype == np.float32:
            return cls._of_floats(pixels.reshape(-1, channels))
        # Down the columns first, in the narrowest numbers that hold every sum exactly: they are the fastest. For 8 bits
        # these are floats of 32 bits, which hold the squares of 256 rows.
        exact = np.float32 if pixels.dtype == np.uint8 else np.uint64
        sums = np.zeros((2, width * channels), np.uint64)
        for start in range(0, height, _ROWS):
            values: NDArray[Any] = pixels[start : start + _ROWS].reshape(-1, width * channels).astype(exact)
            sums[0] += np.add.reduce(values, 0).astype(np.uint64)
            values *= values
            sums[1] += np.add.reduce(values, 0).astype(np.uint64)
        total, squares = sums.reshape(2, width, channels).sum(1).tolist()
        return cls(height * width, tuple(total), tuple(squares), int(np.iinfo(pixels.dtype).max))

    @classmethod
    def _of_floats(cls, values: NDArray[np.float32]) -> ChannelSums:
        """The sums over the rows without a NaN or an infinity."""
        pixels, total, squares = 0, [0] * values.shape[1], [0] * values.shape[1]
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            block = block[np.isfinite(block).all(1)]
            pixels += len(block)
            for channel, column in enumerate(block.T if len(block) else ()):
                one, two = _exact_sums(column)
                total[channel] += one
                squares[channel] += two
        return cls(pixels, tuple(total), tuple(squares), 1 << _UNIT_BITS) if pixels else cls()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ChannelSums:
        """The sums from their JSON, a mapping of the fields."""
        return cls(value["pixels"], tuple(value["total"]), tuple(value["squares"]), value["peak"])

    def to_line(self) -> bytes:
        """A line of `pixels.jsonl`."""
        return json.dumps([self.pixels, self.peak, self.total, self.squares]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> ChannelSums:
        """The inverse of `to_line`.

        Raises:
            ValueError: this is no such line.
        """
        match json.loads(line):
            case [int(pixels), int(peak), [*total], [*squares]] if len(total) == len(squares) and peak in PEAKS:
                if all(type(one) is int for one in (*total, *squares)):
                    return cls(pixels, tuple(total), tuple(squares), peak)
        raise ValueError(f"{line[:80]!r} is no line of sums")

    @property
    def mixed(self) -> bool:
        """Whether the images have different numbers of channels, or are floats and integers."""
        return self.pixels > 0 and not self.total

    @property
    def has_range(self) -> bool:
        """Whether the values are integers, whose mean is scaled to 0..1."""
        return self.peak < 1 << _UNIT_BITS

    def __add__(self, other: ChannelSums) -> ChannelSums:
        if not self.pixels or not other.pixels:
            return self if self.pixels else other
        peak, pixels = max(self.peak, other.peak), self.pixels + other.pixels
        if len(self.total) != len(other.total) or self.has_range != other.has_range:
            return ChannelSums(pixels, peak=peak)
        one, two = self._up_to(peak), other._up_to(peak)
        total = tuple(a + b for a, b in zip(one.total, two.total, strict=True))
        squares = tuple(a + b for a, b in zip(one.squares, two.squares, strict=True))
        return ChannelSums(pixels, total, squares, peak)

    def _up_to(self, peak: int) -> ChannelSums:
        scale = peak // self.peak
        total, squares = (tuple(v * s for v in values) for values, s in ((self.total, scale), (self.squares, scale**2)))
        return ChannelSums(self.pixels, total, squares, peak)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and (population) standard deviation of each channel, of pixels scaled to 0..1; (0,), (0,) of no pixels.

        Those of floats are not scaled.

        Raises:
            ValueError: the images have different numbers of channels, or are floats and integers.
        """
        if self.mixed:
            raise ValueError("images of different numbers of channels, or of floats and integers, have no mean")
        if not self.pixels:
            return (0.0,), (0.0,)
        n = self.pixels
        mean = tuple(total / n / self.peak for total in self.total)
        # In integers up to the division: a difference of large floats would lose the result.
        variances = ((n * sq - t * t) / (n * n) for t, sq in zip(self.total, self.squares, strict=True))
        return mean, tuple(variance**0.5 / self.peak for variance in variances)


def statistics_of(split: str, sums: ChannelSums) -> Statistics | None:
    """The statistics of a split from its sums; None if these fit no one mean, or are of no pixel."""
    if sums.pixels == 0 or sums.mixed:
        return None
    mean, std = sums.mean_std()
    exact = Sums(total=sums.total, squares=sums.squares, peak=sums.peak)
    return Statistics(split=split, pixels=sums.pixels, mean=mean, std=std, scaled=sums.has_range, sums=exact)


def _exact_sums(values: NDArray[np.float32]) -> tuple[int, int]:
    """The sum of floats, in units of 2 to the -176, and that of their squares, in units of 2 to the -352."""
    digits, exponents = np.frexp(values)
    # Whole numbers of 24 bits, and their squares in two halves: the sums of each exponent are exact as float64.
    whole = (digits.astype(np.float64) * (1 << _DIGITS)).astype(np.int64)
    product = whole * whole
    least = int(exponents.min())
    places = exponents - least
    parts = (whole, product >> _DIGITS, product & ((1 << _DIGITS) - 1))
    ones, high, low = (np.bincount(places, part.astype(np.float64)).tolist() for part in parts)
    total = squares = 0
    for place, sums in enumerate(zip(ones, high, low, strict=True)):
        shift = least + place - _DIGITS + _UNIT_BITS
        total += int(sums[0]) << shift
        squares += ((int(sums[1]) << _DIGITS) + int(sums[2])) << (2 * shift)
    return total, squares
