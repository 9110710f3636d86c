"""Batches on their way to a device, a few in advance of the one in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from shard_reader.stream.batch_reader import Batch
from shard_reader.stream.stream import Stream

__all__ = ["prefetch_to_device"]


def prefetch_to_device(
    stream: Stream, send: Callable[[Batch], Any], count: int
) -> Iterator[tuple[Any, tuple[int, int]]]:
    """The result of `send` for each batch of an epoch, and the position after it, with `count` batches sent in advance.

    Batches before a damaged one are given before its error is raised.

    Raises:
        RuntimeError: the stream was iterated again or given another position.
    """
    sent: deque[tuple[Any, tuple[int, int]]] = deque()
    batches, failure = iter(stream), None
    moves = stream.moves
    while failure is None:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except Exception as error:
            # Kept until the batches that were sent are given: the number that a loop sees must not depend on `count`.
            failure = error
            break
        # The stream's own position runs ahead of the loop, so that of each batch is kept with it.
        sent.append((send(batch), (stream.epoch, stream.step)))
        del batch  # its memory may go to the next one
        if len(sent) > count:
            yield sent.popleft()
    while sent:
        # The stream itself raises this only when it is asked for another batch, and it is at its end already.
        if stream.moves != moves:
            raise RuntimeError("this loop is over: the stream was iterated again, or given another position")
        yield sent.popleft()
    if failure is not None:
        raise failure
