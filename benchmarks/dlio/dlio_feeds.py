"""Batches of image-shards for the arguments of DLIO, as arrays or bytes. It needs nothing of DLIO and no framework."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from dlio_data import TRAIN

from shard_reader import open_dataset
from shard_reader.format.fields import IMAGE
from shard_reader.stream.stream import Stream
from shard_reader.transforms.compose import Transforms

T = TypeVar("T")


class Arguments(Protocol):
    """DLIO's `ConfigArguments`, as far as it is used here."""

    data_folder: str
    batch_size: int  # of one rank
    comm_size: int
    my_rank: int
    read_threads: int
    prefetch_size: int
    seed: int


def decoded(arguments: Arguments, image: Transforms) -> Stream:
    """A stream of decoded and transformed images of this rank, shuffled over all records.

    The last records of an epoch that make no whole batch are left out, as DLIO counts on it.
    """
    return open_dataset(Path(arguments.data_folder, TRAIN)).stream(
        batch_size=arguments.batch_size * arguments.comm_size,
        rank=arguments.my_rank,
        world_size=arguments.comm_size,
        seed=arguments.seed,
        remainder="drop",
        image=image,
        threads=max(1, arguments.read_threads),
        prefetch=max(1, arguments.prefetch_size),
    )


class Payloads:
    """The stored bytes of the images of this rank, in the order of `decoded`: each checked, none decoded."""

    def __init__(self, arguments: Arguments) -> None:
        self._data = open_dataset(Path(arguments.data_folder, TRAIN))
        self._order = self._data.stream(
            batch_size=arguments.batch_size * arguments.comm_size,
            rank=arguments.my_rank,
            world_size=arguments.comm_size,
            seed=arguments.seed,
            remainder="drop",
            fields=("label",) if "label" in self._data.fields else ("id",),
        ).order
        self._threads, self._ahead = max(1, arguments.read_threads), max(1, arguments.prefetch_size)

    def epoch(self, epoch: int, convert: Callable[[list[bytes]], T]) -> Iterator[T]:
        """The batches of an epoch, some of which are read and converted in advance, by threads."""
        pool = ThreadPoolExecutor(self._threads)
        batches: deque[Future[T]] = deque()
        try:
            for step in range(self._order.steps):
                batches.append(pool.submit(self._batch, epoch, step, convert))
                if len(batches) > self._ahead:
                    yield batches.popleft().result()
            while batches:
                yield batches.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, epoch: int, step: int, convert: Callable[[list[bytes]], T]) -> T:
        located = self._data.locate(self._order.records_of(epoch, step, step + 1))
        found = (located.shard(place) for place in range(len(located.rows)))
        return convert([shard.payload(row, IMAGE).tobytes() for shard, row in found])
