"""Random numbers that a key and a position decide: the same on any machine, in any thread, after any resume."""

from __future__ import annotations

import numpy as np

__all__ = ["Draws"]

_MASK = (1 << 64) - 1
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64's


class Draws:
    """Uniform numbers that (key, position) alone decide.

    A sequence of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"), which
    begins at the number that stands at `position` in the SplitMix64 sequence of `key`: as their `split` does, so
    that neighbouring positions have sequences that have nothing to do with each other.

    Args:
        key: 64 bits; of a larger integer, the lowest 64.
        position: of the record in the epoch, from 0.

    >>> draws = Draws(key=1, position=0)
    >>> draws.uniform() == Draws(1, 0).uniform() != draws.uniform()
    True
    """

    __slots__ = ("_state",)

    def __init__(self, key: int, position: int) -> None:
        # Three copies of the mixing function, since a call costs as much as the half of it.
        mixed = (key + position * _STEP) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _MASK
        self._state = mixed ^ (mixed >> 31)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number, in [low, high), of 53 random bits; `high` itself only where rounding gives it."""
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

    def generator(self) -> np.random.Generator:
        """NumPy's generator, on a Philox keyed by the next two numbers: for what needs more than a few numbers.

        Takes some ten times as long to make as a number. Its bits never change; what NumPy makes of them, as
        `normal()`, may with NumPy's version.
        """
        return np.random.Generator(np.random.Philox(key=self._next() << 64 | self._next()))

    def _next(self) -> int:
        self._state = mixed = (self._state + _STEP) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _MASK
        return mixed ^ (mixed >> 31)
