"""Random numbers from a key and a position: the same on any machine, in any thread, after any resume."""

from __future__ import annotations

import numpy as np

__all__ = ["Draws"]

_MASK = (1 << 64) - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's


class Draws:
    """Uniform numbers that depend on (key, position) alone.

    A sequence of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"), which
    begins at the number at `position` in the SplitMix64 sequence of `key`. This is their `split`: the sequences of
    neighbouring positions are independent of each other.

    Args:
        key: 64 bits; the lowest 64 of a larger integer.
        position: position of the record in the epoch, from 0.

    Examples:
        >>> draws = Draws(key=1, position=0)
        >>> draws.uniform() == Draws(1, 0).uniform() != draws.uniform()
        True
    """

    __slots__ = ("_origin", "_state")

    def __init__(self, key: int, position: int) -> None:
        # The mixing function is written out three times, since a call would cost half as much again.
        mixed = (key + position * _STEP) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _MASK
        self._origin = self._state = mixed ^ (mixed >> 31)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number, in [low, high), of 53 random bits; `high` itself only by rounding."""
        self._state = mixed = (self._state + _STEP) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _MASK
        return low + (high - low) * (((mixed ^ (mixed >> 31)) >> 11) * 2.0**-53)

    def integer(self, stop: int) -> int:
        """The next number as an integer in 0..stop-1, each as likely as any other to within stop / 2**64.

        Raises:
            ValueError: `stop` is below 1.
        """
        if stop < 1:
            raise ValueError(f"stop={stop!r}: must be at least 1")
        return (self._next() * stop) >> 64

    def child(self, number: int) -> Draws:
        """Draws of their own, that depend on (key, position, number) alone, however many numbers were drawn here."""
        return Draws(self._origin, number)

    def generator(self) -> np.random.Generator:
        """NumPy's generator, on a Philox keyed by the next two numbers, for transforms that need many numbers.

        To make it takes some ten times as long as a number. Its bits never change; distributions that NumPy makes of
        them, as `normal()`, may change with NumPy's version.
        """
        return np.random.Generator(np.random.Philox(key=self._next() << 64 | self._next()))

    def _next(self) -> int:
        self._state = mixed = (self._state + _STEP) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _MASK
        return mixed ^ (mixed >> 31)
