"""Loops that do not look finished after they failed."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

__all__ = ["Loop"]

T = TypeVar("T")

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
