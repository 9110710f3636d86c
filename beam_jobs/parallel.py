"""Calls in threads, with their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from shard_reader.storage.directory import Directory

__all__ = ["in_order", "readers_of"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(call: Callable[[_Item], _Result], items: Iterable[_Item], threads: int) -> Iterator[_Result]:
    """The result of a call with each item, in the order of the items. Threads work on the next few.

    With one thread, the calls are made in this one.
    """
    if threads == 1:
        yield from map(call, items)
        return
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(call, item))
                # Two for each thread: enough that a slow call keeps no thread idle, and a bound on memory.
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def readers_of(directory: Directory) -> int:
    """The number of threads that read files of a directory: several for a store, which takes a while for each."""
    return 1 if directory.local is not None else 16
