"""The record at each position of an epoch: the protocol, and the options that decide it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, at_least_one, one_of

__all__ = ["LAST_EPOCH", "LastEpochs", "OrderOptions", "PaddedAtEnd", "RecordOrder", "Remainder", "Shuffle"]

LAST_EPOCH = 1 << 40
"""Positions that go on over epochs, as those of mixtures, are integers of 64 bits."""

Shuffle = Literal["none", "full", "window"]
Remainder = Literal["pad", "drop", "keep"]
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOptions:
    """The options of a stream that decide the order of its records; `Records.stream` explains each.

    Raises:
        ValueError: a value is out of range, or not one of its choices.
        TypeError: a value is not an integer.
    """

    shuffle: Shuffle
    seed: int
    lanes: int
    window: int
    batch_size: int
    remainder: Remainder

    def __post_init__(self) -> None:
        one_of("shuffle", self.shuffle, get_args(Shuffle))
        one_of("remainder", self.remainder, get_args(Remainder))
        object.__setattr__(self, "seed", as_integer("seed", self.seed))
        object.__setattr__(self, "batch_size", at_least_one("batch_size", self.batch_size))


class RecordOrder(Protocol):
    """The record at each position of an epoch."""

    @property
    def records(self) -> int:
        """The number of positions in an epoch."""

    @property
    def lanes(self) -> int:
        """A rank keeps to its share of the data if the number of ranks divides this; 0 if it never does."""

    @property
    def block(self) -> int:
        """The number of successive positions whose records are spread over the same bytes; 0 if records are in stored
        order."""

    @property
    def padding(self) -> int:
        """The number of positions below `records` that are padding."""

    def is_padding(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each position is padding, bool `[n]`: all from `records` on are."""

    def at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The record at each position, int64 `[n]`. At padding, any record will do."""

    def identity(self) -> Mapping[str, Any]:
        """The settings of the order, without the seed, as values that JSON can hold. Part of a stream's state."""


class LastEpochs(Generic[Kept]):
    """What was computed for the last two epochs: a loop may begin while another one ends."""

    # No cache of methods, which would hold its order in a circle.

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}

    def of(self, epoch: int, make: Callable[[int], Kept]) -> Kept:
        """That of an epoch, made if it is not there."""
        found = self._kept.get(epoch)
        if found is None:
            found = make(epoch)
            self._kept = {**dict(list(self._kept.items())[-1:]), epoch: found}
        return found


class PaddedAtEnd:
    """An order whose epochs have no padding but at their end."""

    __slots__ = ()

    padding = 0

    def is_padding(self: RecordOrder, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each position is padding, bool `[n]`."""
        del epoch
        return positions >= self.records
