"""What the worker processes of PyTorch's DataLoaders and their parent know of each other's loops."""

from __future__ import annotations

from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

from shard_reader.stream.stream import Stream

__all__ = ["MOST_WORKERS", "WorkerLoops"]

MOST_WORKERS = 1024
_REMEMBERED = 4  # loops, of each worker
_NEVER = -1


class WorkerLoops:
    """Which epochs the worker processes of DataLoaders have begun, in memory that they and their parent share.

    Workers come and go with each loop, or stay, and PyTorch tells them neither which loop it is nor where their parent
    is. All those of a loop know it by the same name. The first of them to begin takes the next epoch, and the others
    find it under that name. Two that are first at the same time find the same, and so take the same: no lock is needed,
    which a worker that is killed would keep.

    A row belongs to one worker, which fills in a loop before it counts it. What was begun holds for as long as the
    stream has not moved in the parent since.
    """

    def __init__(self) -> None:
        # Of each worker: how many loops; and of the last few the stream's moves, the name, the epoch and the step.
        self._counts = torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._begun = torch.zeros((MOST_WORKERS, _REMEMBERED, 6), dtype=torch.int64).share_memory_()
        # Where workers that stay go, since they have the stream as it was: its moves, the epoch and the step.
        self._parent = torch.full((3,), _NEVER, dtype=torch.int64).share_memory_()

    def __reduce__(self) -> str | tuple[Any, ...]:
        if get_spawning_popen() is not None:  # a worker process gets what is shared
            return _worker_loops, (self._counts, self._begun, self._parent)
        return WorkerLoops, ()  # a copy begins with nothing

    def next(self, stream: Stream) -> tuple[int, int]:
        """The epoch and the step that the next loop begins with."""
        moves, place = self._place(stream)
        return _after(self._entries(moves), place)

    def begin(
        self, stream: Stream, worker: int, name: tuple[int, int], resumed: tuple[int, int] | None
    ) -> tuple[int, int]:
        """The epoch that a worker begins, and the first step of all workers.

        Args:
            name: of the loop; workers of a later one may have the same again.
            resumed: what that worker was told to begin with.
        """
        moves, place = self._place(stream)
        count = int(self._counts[worker])
        last = self._begun[worker, (count - 1) % _REMEMBERED].tolist()
        loop = [*name, last[3] + 1 if count and last[:3] == [moves, *name] else 0]
        entries = self._entries(moves)  # read once: what another worker adds meanwhile is what is found here
        found = [(epoch, step) for *key, epoch, step in entries if key == loop]
        epoch, step = resumed or (found or [_after(entries, place)])[0]
        self._begun[worker, count % _REMEMBERED] = torch.tensor([moves, *loop, epoch, step])
        self._counts[worker] = count + 1
        return epoch, step

    def go_to(self, stream: Stream, place: tuple[int, int]) -> None:
        """Have the next loops of workers begin there, as the stream has moved."""
        self._parent[1:] = torch.tensor(place)
        self._parent[0] = stream.moves

    def _place(self, stream: Stream) -> tuple[int, tuple[int, int]]:
        """The moves of the stream in the parent, as far as they are known here, and where it is."""
        moves, epoch, step = self._parent.tolist()
        return (moves, (epoch, step)) if moves > stream.moves else (stream.moves, stream.next)

    def _entries(self, moves: int) -> list[list[int]]:
        """Name, epoch and step of what was begun since the stream has moved, but for what may be being filled in."""
        entries = []
        for worker in self._counts.nonzero().flatten().tolist():
            count, rows = int(self._counts[worker]), self._begun[worker].tolist()
            latest = (rows[number % _REMEMBERED] for number in range(max(0, count - _REMEMBERED + 1), count))
            entries += [entry for at, *entry in latest if at == moves]
        return entries


def _after(entries: list[list[int]], place: tuple[int, int]) -> tuple[int, int]:
    """The epoch after all of those, or the place if there is none."""
    return (max(epoch for *_, epoch, _ in entries) + 1, 0) if entries else place


def _worker_loops(*shared: torch.Tensor) -> WorkerLoops:
    loops = WorkerLoops.__new__(WorkerLoops)
    loops._counts, loops._begun, loops._parent = shared
    return loops
