"""The messages between a stream and its worker processes."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.order.batches import BatchOrder
from shard_reader.order.coverage import Coverage
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays.options import ReadOptions
from shard_reader.stream.batch_reader import Skipped
from shard_reader.system.stats import Stats

__all__ = ["Answer", "Begin", "Drop", "Failure", "InBuffer", "Make", "Setup"]


@dataclass(frozen=True, slots=True)
class Setup:
    """The records of a stream, and its options.

    Attributes:
        probed_images: as in `BatchReader`.
        workers: the number of worker processes.
    """

    data: RecordSource
    order: BatchOrder
    seed: int
    options: ReadOptions
    probed_images: list[dict[str, Any]]
    workers: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a loop: one in `every` steps of an epoch, from `first` on.

    Attributes:
        loop: its number.
        cold: announce bytes to the kernel from the first batch on.
        has_checked_all: every image was checked, and is not checked again.
    """

    loop: int
    epoch: int
    first: int
    every: int
    cold: bool
    has_checked_all: bool


@dataclass(frozen=True, slots=True)
class Make:
    """Make the next batch of a loop. Each is answered once.

    Attributes:
        step: its step, for a check.
        buffers: the number of the shared buffer for an array, by the array's name.
    """

    loop: int
    step: int
    buffers: dict[str, int]


@dataclass(frozen=True, slots=True)
class Drop:
    """End a loop. Its batches that were not made yet are answered without one."""

    loop: int


@dataclass(frozen=True, slots=True)
class InBuffer:
    """An array that lies in the shared buffer of its name."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a worker process.

    Attributes:
        pickled: the error.
        text: its traceback.
    """

    pickled: bytes
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An error with its notes; one that cannot be pickled becomes a RuntimeError with its text."""
        text = "".join(traceback.format_exception(error))
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)
        except Exception:
            other = RuntimeError(f"{type(error).__qualname__}: {error}")
            for note in getattr(error, "__notes__", ()):
                other.add_note(note)
            pickled = pickle.dumps(other)
        return cls(pickled, text)

    def error(self) -> BaseException:
        """The error, with the traceback of the worker process as its cause."""
        error: BaseException = pickle.loads(self.pickled)
        error.__cause__ = _WorkerTraceback(self.text)
        return error


class _WorkerTraceback(Exception):
    """The traceback of a worker process, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass(frozen=True, slots=True)
class Answer:
    """A batch, its error, or neither, where the loop is over.

    Attributes:
        loop: its loop; None for an error that is of no loop.
        arrays: its arrays, in order; None without a batch.
        coverage: coverage of its records.
        skipped: the damaged records in it.
        fetched: requests and bytes since the last answer.
        has_waited: the worker has waited for a page from the disk.
    """

    loop: int | None
    step: int
    arrays: dict[str, NDArray[Any] | InBuffer] | None = None
    coverage: Coverage = field(default_factory=Coverage)
    skipped: list[Skipped] = field(default_factory=list)
    fetched: Stats = field(default_factory=Stats)
    has_waited: bool = False
    failure: Failure | None = None
