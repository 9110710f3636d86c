"""Loops that do not look finished after they failed, and the time that they take."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from time import perf_counter
from typing import Generic, TypeVar

from shard_reader.stream.batch_reader import Batch, Made
from shard_reader.stream.prefetch import Prefetch
from shard_reader.stream.workers.pool import WorkerBatches
from shard_reader.system.stats import Stats

__all__ = ["Loop", "StreamLoop", "TimedBatches", "report"]

T = TypeVar("T")

_OVER = "this loop is over: the stream was iterated again, given another position, closed, or forked"

_FAILED = (
    "this loop failed before the end of its epoch, and has no more batches: to continue after its last batch, call"
    " load_state_dict(state_dict()) and begin another loop, which otherwise is the next epoch. It failed with {}: {}"
)


class Loop(Iterator[T], Generic[T]):
    """The items of a generator. After an error every further call is an error, too, and not the end of the loop.

    Threads that take items at the same time wait for each other: each item goes to one of them.
    """

    # A generator that raised is over, and says StopIteration: whoever caught the error took the epoch for a whole one.

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items, self._turn = items, threading.Lock()
        self._failure: tuple[str, str] | None = None  # as text: the error itself would hold the memory of its batch

    def __next__(self) -> T:
        """The next item.

        Raises:
            RuntimeError: an earlier call failed.
        """
        with self._turn:
            if self._failure:
                raise RuntimeError(_FAILED.format(*self._failure))
            try:
                return next(self._items)
            except StopIteration:
                raise
            except BaseException as error:  # Ctrl-C, too
                self._failure = type(error).__name__, str(error)
                raise

    def close(self) -> None:
        """End the loop."""
        self._items.close()


class StreamLoop(Loop[Batch]):
    """The batches of an epoch, as long as the stream was not moved by another loop, a position, or a fork.

    Args:
        is_over: whether it was moved.
    """

    def __init__(self, batches: Generator[Batch, None, None], is_over: Callable[[], bool]) -> None:
        super().__init__(batches)
        self._is_over = is_over

    def __next__(self) -> Batch:
        if self._is_over():
            raise RuntimeError(_OVER)
        try:
            return super().__next__()
        except Exception:
            # Once the loop is over, its errors are those of stopped threads, and StopIteration is not the epoch's end.
            if self._is_over():
                raise RuntimeError(_OVER) from None
            raise


class TimedBatches(Iterator[Made]):
    """The batches of a loop, counted: their number, the time of the loop, and that in which it waited for them.

    Args:
        at_end: called when the batches have come to their end.
    """

    def __init__(self, made: Prefetch | WorkerBatches, at_end: Callable[[], None] | None = None) -> None:
        self._made, self._tally, self._workers, self._at_end = made, made.tally, made.workers, at_end
        self._batches: Iterator[Made] | None = None
        self._seen = 0.0  # when it last gave a batch

    @property
    def has_waited(self) -> bool:
        """Whether it has waited for a page from the disk."""
        return self._made.has_waited

    def cancel(self) -> None:
        """Drop the batches that have not begun."""
        self._made.cancel()

    def __next__(self) -> Made:
        asked = perf_counter()
        if self._batches is None:
            self._batches, self._seen = iter(self._made), asked
        try:
            made = next(self._batches)
        except BaseException as error:
            self._count(asked)
            if isinstance(error, StopIteration) and self._at_end is not None:
                self._at_end()
            raise
        self._count(asked)
        self._tally.batches += 1
        self._tally.records += made.coverage.records
        return made  # which nothing here holds: its memory goes to a later batch

    def _count(self, asked: float) -> None:
        """Count the time since the last batch."""
        now = perf_counter()
        loop, waited, self._seen = now - self._seen, now - asked, now
        tally = self._tally
        tally.loop_seconds += loop
        tally.waited_seconds += waited
        tally.worker_seconds += self._workers * loop if self._workers else waited


def report(name: str, stats: Stats) -> None:
    """Write a line about a loop to stderr."""
    # The loop in a worker of a DataLoader, which is a daemon, is not the one that an accelerator waits for.
    if sys.stderr is not None and not multiprocessing.current_process().daemon:
        rate = stats.records / stats.loop_seconds if stats.loop_seconds else 0.0
        counts = f"{stats.batches:,} batches, {stats.records:,} records, {rate:,.0f} a second"
        sys.stderr.write(f"shard_reader: {name}: {counts}; {stats.explain()}\n")
        sys.stderr.flush()
