"""The processes of PyTorch: shares of ranks, and epochs on which workers of DataLoaders and their parent agree."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch
from torch import distributed

from shard_reader.stream.stream import Stream

__all__ = ["MOST_WORKERS", "WorkerLoops", "of_this_rank"]

MOST_WORKERS = 1024
_REMEMBERED = 4  # loops of each worker
_NEVER = -1


class WorkerLoops:
    """The epochs that worker processes of DataLoaders have begun, in memory that they share with their parent.

    All workers of a loop have the same name for it. The first one to begin takes the next epoch, and the others find
    that under the name. Entries hold until the stream moves in the parent.
    """

    # Workers tell each other their epoch since they come and go with each loop, or stay, some never begin, and PyTorch
    # tells them nothing but a seed, which is another one for each loop. There is no lock, which a killed worker would
    # keep: each row has one writer, which fills in a loop before it counts it, and two workers that begin first at the
    # same time find the same entries, and so take the same epoch.

    def __init__(self) -> None:
        # The number of loops of each worker; and of the last few loops the stream's moves, the name, epoch and step.
        self._counts = torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._begun = torch.zeros((MOST_WORKERS, _REMEMBERED, 6), dtype=torch.int64).share_memory_()
        # The parent's moves, epoch and step, for workers that stay: their copy of the stream does not move with it.
        self._parent = torch.full((3,), _NEVER, dtype=torch.int64).share_memory_()

    def __reduce__(self) -> str | tuple[Any, ...]:
        # A worker process gets the shared memory; any other copy, as in a checkpoint, begins with its own.
        if get_spawning_popen() is not None:
            return _worker_loops, (self._counts, self._begun, self._parent)
        return WorkerLoops, ()

    def next(self, stream: Stream) -> tuple[int, int]:
        """The first epoch and step of the next loop."""
        moves, place = self._place(stream)
        return _after(self._entries(moves), place)

    def begin(
        self,
        stream: Stream,
        worker: int,
        name: tuple[int, int],
        resumed: tuple[int, int] | None,
        start: Callable[[tuple[int, int]], tuple[int, int]],
    ) -> tuple[int, int]:
        """The epoch that a worker begins, and the first step of all workers.

        Args:
            name: the name of the loop; a later loop may have the same name.
            resumed: the epoch and the step that the worker was told to begin with.
            start: gives the first place of a loop that would begin at another place.
        """
        moves, place = self._place(stream)
        count = int(self._counts[worker])
        # A name that comes again gets a number: otherwise a later loop would repeat the epoch of an earlier one.
        last = self._begun[worker, (count - 1) % _REMEMBERED].tolist()
        loop = [*name, last[3] + 1 if count and last[:3] == [moves, *name] else 0]
        # Read once: an entry that another worker adds meanwhile would be counted among the epochs of earlier loops.
        entries = self._entries(moves)
        found = [(epoch, step) for *key, epoch, step in entries if key == loop]
        epoch, step = resumed or start((found or [_after(entries, place)])[0])
        self._begun[worker, count % _REMEMBERED] = torch.tensor([moves, *loop, epoch, step])
        self._counts[worker] = count + 1
        return epoch, step

    def go_to(self, stream: Stream, place: tuple[int, int]) -> None:
        """Have the next loops of workers begin at a place, to which the stream has moved."""
        # The moves last: workers take the other two values only where the moves are not older than their own.
        self._parent[1:] = torch.tensor(place)
        self._parent[0] = stream.moves

    def _place(self, stream: Stream) -> tuple[int, tuple[int, int]]:
        """The moves of the stream in the parent, as far as they are known here, and its place."""
        moves, epoch, step = self._parent.tolist()
        return (moves, (epoch, step)) if moves >= stream.moves else (stream.moves, stream.next)

    def _entries(self, moves: int) -> list[list[int]]:
        """Name, epoch and step of each loop that was begun since the stream moved."""
        # Without the oldest loop of a row: its worker may be overwriting it.
        entries = []
        for worker in self._counts.nonzero().flatten().tolist():
            count, rows = int(self._counts[worker]), self._begun[worker].tolist()
            latest = (rows[number % _REMEMBERED] for number in range(max(0, count - _REMEMBERED + 1), count))
            entries += [entry for at, *entry in latest if at == moves]
        return entries


def _after(entries: list[list[int]], place: tuple[int, int]) -> tuple[int, int]:
    """The epoch after those of all entries; the place if there are no entries."""
    return (max(epoch for *_, epoch, _ in entries) + 1, 0) if entries else place


def _worker_loops(*shared: torch.Tensor) -> WorkerLoops:
    loops = WorkerLoops.__new__(WorkerLoops)
    loops._counts, loops._begun, loops._parent = shared
    return loops


def of_this_rank(stream: Stream) -> Stream:
    """The share of this process in a stream without ranks, where `torch.distributed` is initialized."""
    if not (distributed.is_available() and distributed.is_initialized()) or stream.order.world_size > 1:
        return stream
    ranks = distributed.get_world_size()
    return stream if ranks == 1 else stream.for_rank(distributed.get_rank(), ranks)
