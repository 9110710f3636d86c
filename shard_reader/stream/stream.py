"""Batches in exact order, and the position to resume from."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, at_least_one, record_numbers
from shard_reader.format.fields import IMAGE
from shard_reader.order.batches import BatchOrder
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_order import OrderOptions
from shard_reader.printable import printable
from shard_reader.shards.source import RecordSource
from shard_reader.stream.arrays.lookup import Lookup
from shard_reader.stream.arrays.options import ReadOptions
from shard_reader.stream.batch_reader import Batch, BatchReader, Skipped, Spec
from shard_reader.stream.loop import Loop, StreamLoop, TimedBatches, report
from shard_reader.stream.position import Position, translated
from shard_reader.stream.prefetch import Prefetch
from shard_reader.stream.workers.pool import WorkerBatches, WorkerPool
from shard_reader.stream.workers.start import can_start
from shard_reader.system.process import process_number
from shard_reader.system.stats import Stats

__all__ = ["Batch", "Skipped", "Spec", "Stream"]


class Stream:
    """Batches of a dataset. Made by `Records.stream`.

    Every `for batch in stream` is one epoch, with an order of its own unless `shuffle="none"`. A loop that breaks off
    ends its epoch: the next loop begins the next epoch. A loop that ended with an error says so when it is asked again.

    A batch is a dictionary of arrays: `image` `[n, height, width, channels]`, `label` int64 `[n]`,
    `weight` float32 `[n]` (1, or 0 for a record that only pads the last batch, or is damaged and skipped), and the
    other fields that the stream was asked for. Further images are as `image`, and masks `[n, height, width]`. Strings,
    as `id`, and fields of bytes are `bytes` objects `[n]`. Lists are objects `[n]`, each an array or a list of `bytes`,
    or are padded. The memory of images is used again when the batch, and every view of it, is gone.

    Transforms move all fields of a record together: its images, boxes, points and keypoints.

    `state_dict()` after a batch is the position after it. After `load_state_dict()` the next loop continues from there
    to the end of that epoch, bit for bit. With another number of ranks the global batches are still the same. A copy
    (`pickle`, `copy`) continues from the stream's position, too.

    Examples:
        >>> stream = data.stream(batch_size=256, seed=0)  # doctest: +SKIP
        >>> for batch in stream:  # doctest: +SKIP
        ...     train(batch["image"], batch["label"], batch["weight"])
    """

    def __init__(self, data: RecordSource, order: BatchOrder, seed: int, options: ReadOptions) -> None:
        self.data = data
        self.order = order
        self.seed = seed
        self._reader = BatchReader(data, order, seed, options)
        self._fetched_before: tuple[int, Stats] | None = os.getpid(), data.fetched()
        self.fields = self._reader.fields
        self._position = Position(data, order, seed, self._reader.most_records)
        self._loop = 0  # the number of the loop that moves the stream
        # Weak: a loop that broke off must end with its generator, and give back its batches and threads.
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None
        self._was_cold = False  # the last epoch waited for pages
        self._pool: WorkerPool | None = None  # the worker processes, from the first loop on

    def __len__(self) -> int:
        """The number of batches of this rank in an epoch."""
        return self.order.steps

    def __repr__(self) -> str:
        order, shuffle = self.order, self.order.to_plain()["shuffle"]
        rank = "" if order.world_size == 1 else f", rank={order.rank}, world_size={order.world_size}"
        options = f"batch_size={order.batch_size}, shuffle={shuffle!r}, seed={self.seed}{rank}"
        epoch, step = self.next
        return f"Stream({self.data!r}, {options}; next: epoch {epoch}, step {step} of {len(self)})"

    def __enter__(self) -> Stream:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The data, and otherwise plain values that any later version can read."""
        return {
            "data": self.data,
            "order": self.order.to_plain(),
            "seed": self.seed,
            "options": self._reader.options.to_plain(),
            "probed_images": self._reader.probed_images,
            "position": self._position.to_plain(),
            "has_verified": self._reader.has_checked_all,
            "was_cold": self._was_cold,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_reader" in state:
            state = translated(state)
        data, seed, plain = state["data"], state["seed"], dict(state["order"])
        rank, world_size = plain.pop("rank"), plain.pop("world_size")
        options = OrderOptions(seed=seed, **plain)
        order = BatchOrder.of(data.record_order(options), options, rank, world_size)
        self.__init__(data, order, seed, ReadOptions(**state["options"]))  # type: ignore[misc]
        # Streams of earlier versions have one image, or images of one size.
        earlier = state.get("probed_image")
        probed = state.get("probed_images", {} if earlier is None else {IMAGE: earlier})
        self._reader.probed_images = [probed] if isinstance(probed, dict) else probed
        self._position.restore(state["position"])
        self._reader.has_checked_all, self._was_cold = state["has_verified"], state["was_cold"]
        self._fetched_before = None

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return self._position.epoch

    @property
    def step(self) -> int:
        """The number of batches of the epoch that are done."""
        return self._position.step

    @property
    def remaining(self) -> int:
        """The number of batches in the next loop: fewer than `len` only after a restored position."""
        # A loop that broke off ended its epoch. If the next one began at the same place, a loop of "a thousand batches
        # an epoch" would train on the same thousand for ever.
        return len(self) if self._position.is_begun else max(0, len(self) - self.step)

    @property
    def next(self) -> tuple[int, int]:
        """The epoch and the step of the first batch of the next loop."""
        return self._position.next

    @property
    def specs(self) -> dict[str, Spec]:
        """Dtype and shape of one record in each array of a batch, by name."""
        return self._reader.specs

    @property
    def skipped(self) -> list[Skipped]:
        """The damaged records of this epoch, so far, that had weight 0: their numbers, and the damage."""
        return self._position.skipped

    @property
    def moves(self) -> int:
        """How often the stream was iterated or given a position."""
        return self._position.moves

    @property
    def is_restored(self) -> bool:
        """Whether a position was restored, and no loop has begun since."""
        return self._position.is_restored

    @property
    def skips(self) -> bool:
        """Whether damaged records are skipped, with weight 0."""
        return self._reader.options.on_error == "skip"

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch; threads or processes make the next few in advance."""
        self._loop += 1
        self._position.moves += 1
        batches = self._batches(self._loop)
        self._running = weakref.ref(batches)
        is_over = functools.partial(self._is_over, self._loop, process_number())
        return StreamLoop(batches, is_over)

    def _batches(self, loop: int) -> Generator[Batch, None, None]:
        epoch, first = self._position.begin()
        made = self._made(epoch, first)
        try:
            for step, coverage, batch, skipped in made:
                if loop != self._loop:  # another loop began, or a position was loaded, while this one waited
                    return
                # Before the batch is given, since a state that is saved in the loop's body is the one after it.
                self._position.advance(epoch, step, coverage, skipped)
                yield batch
                # Nothing here may hold the batch when the user has dropped it: its memory goes to a later batch.
                del batch
        finally:
            made.cancel()
            self._was_cold = made.has_waited
        if loop == self._loop:
            self._position.end(epoch)

    def stats(self) -> Stats:
        """The batches of this stream's loops in this process, the time that they took, and the bytes that were fetched.

        Requests and bytes of remote data are those of every reader of the same data in this process, since the stream
        was made. The work of the stream's worker processes is added; other processes count for themselves.
        """
        total = self.data.fetched() + self._reader.counters.total
        if self._fetched_before is None or self._fetched_before[0] != os.getpid():
            return total  # counters begin with zero in every process, so there is nothing to subtract
        return total - self._fetched_before[1]

    def batch(self, epoch: int, step: int) -> Batch:
        """One batch of any epoch, without moving the stream.

        Raises:
            IndexError: the epoch has no such step.
            CorruptionError: a record is damaged.
        """
        step = as_integer("step", step)
        lookup = self._reader.lookup(_check_epoch(epoch), step, step + 1)
        return self._batch(lookup, self._reader.places(lookup, step))

    def batches(self, epoch: int, first: int = 0, *, every: int = 1) -> Loop[Batch]:
        """The batches of any epoch from step `first` on, made in advance, without moving the stream.

        Args:
            every: take one in so many steps. Worker processes share an epoch if each takes every n-th step, from a
                different first one.

        Raises:
            IndexError: the epoch has no such step.
            CorruptionError: a record is damaged.
        """
        epoch, first, every = _check_epoch(epoch), as_integer("first", first), at_least_one("every", every)
        if first < 0:
            raise IndexError(f"step {first}: they begin with 0")
        return Loop(self._unmoved(epoch, first, every))

    def take(self, records: Sequence[int] | NDArray[np.int64], epoch: int = 0) -> Batch:
        """Any records by number, in the given order, as a batch; all have weight 1.

        Args:
            epoch: random transforms draw from it, the seed, and the number of the record.

        Raises:
            IndexError: there is no such record.
            TypeError: `records` are not integers; `data.select` takes masks.
            CorruptionError: a record is damaged.
        """
        lookup = self._reader.lookup_records(record_numbers(records), _check_epoch(epoch))
        return self._batch(lookup, range(len(lookup.records)))

    def for_rank(self, rank: int, world_size: int) -> Stream:
        """This stream for another rank, at the same position.

        Raises:
            ValueError: the rank is not below the world size, or the world size does not fit the order.
        """
        order = replace(self.order, rank=rank, world_size=world_size)
        other = Stream(self.data, order, self.seed, self._reader.options)
        other.load_state_dict(self.state_dict())
        other._position.is_restored = self._position.is_restored
        return other

    def require(self, *names: str) -> None:
        """Check that batches have these fields.

        Raises:
            ValueError: a field is missing.
        """
        for name in names:
            if name not in self.fields:
                raise ValueError(f"{name!r} is not among the stream's fields, {printable(', '.join(self.fields))}")

    def coverage(self) -> Coverage:
        """The records that this rank got in the epoch of its last batch. Those of all ranks add up.

        At the end of an epoch with every record, the sum over the ranks `covers(data.coverage())`. After
        `load_state_dict` it includes the records before the position: as counted, if the state is of the same rank
        and world size, otherwise as the order gives them.
        """
        return self._position.coverage

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch: integers, and as text the dataset and order they refer to. Fits JSON."""
        return self._position.state()

    def state_at(self, step: int, epoch: int | None = None) -> dict[str, Any]:
        """The position after the first `step` batches of an epoch, for users that take batches before they use them.

        tf.data, Keras and DataLoaders ask for batches in advance, so the stream's own position is after the step that
        was trained. Save the position of the trained step.

        Args:
            step: number of the epoch's batches that are done, 0 to `len(stream)`.
            epoch: by default the epoch of the stream's last batch.

        Raises:
            ValueError: an epoch has no such step.
        """
        return self._position.state_at(step, epoch)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position from `state_dict` of a stream of any rank and world size.

        The next loop is the rest of that epoch. It is empty where this rank has one batch less than others
        (`remainder="keep"`) and only that one is left.

        Raises:
            StateError: the position is of another dataset or order; the message shows both.
        """
        self._position.load(state)
        self._end_loop()

    def set_epoch(self, epoch: int, *, is_left: bool = False) -> None:
        """Have the next loop be that of an epoch: all of it, or its rest if a position in it was restored.

        Args:
            is_left: loops of other processes have left the position of this stream.

        Raises:
            IndexError: there is no such epoch.
            StateError: a position of another epoch was restored, and no loop has begun since.
        """
        moves = self.moves
        self._position.set_epoch(_check_epoch(epoch), is_left=is_left)
        if self.moves != moves:
            self._end_loop()

    def check_state(self, state: dict[str, Any]) -> tuple[int, int]:
        """The epoch and the step of a position, without going there.

        Raises:
            StateError: the position is of another dataset or order; the message shows both.
        """
        return self._position.check(state)

    def close(self) -> None:
        """Stop the threads or processes and free memory; iterating again starts new ones."""
        self._end_loop()
        if self._pool is not None:
            self._pool.close()
        self._pool = None
        self._reader.close()

    def _end_loop(self) -> None:
        """End the loop that is under way; it raises an error when it is asked for another batch."""
        self._loop += 1
        batches = None if self._running is None else self._running()
        if batches is not None:
            # ValueError: another thread is inside the generator. It sees the number of the loop when it comes back.
            with contextlib.suppress(ValueError):
                batches.close()

    def _batch(self, lookup: Lookup, places: range) -> Batch:
        return self._reader.finish(self._reader.begin(lookup, places, cold=False))[0]

    def _unmoved(self, epoch: int, first: int, every: int) -> Generator[Batch, None, None]:
        """Batches that do not move the stream."""
        made = self._made(epoch, first, every)
        try:
            for _, _, batch, _ in made:
                yield batch
                del batch  # as in `_batches`
        finally:
            made.cancel()

    def _made(self, epoch: int, first: int, every: int = 1) -> TimedBatches:
        """Batches that threads or processes make. A process that may have none makes them by itself."""
        made: Prefetch | WorkerBatches
        if self._reader.workers == "processes" and can_start() and first < len(self):
            made = WorkerBatches(self._processes(), epoch, first, every=every, cold=self._was_cold)
        else:
            made = Prefetch(self._reader, self.order, epoch, first, every=every, cold=self._was_cold)
        return TimedBatches(made, self._reporter(epoch) if self._reader.options.report else None)

    def _reporter(self, epoch: int) -> Callable[[], None]:
        """A function that reports the work since now."""
        order, before = self.order, self.stats()
        rank = f"rank {order.rank} of {order.world_size}, " if order.world_size > 1 else ""
        return lambda: report(f"{rank}epoch {epoch}", self.stats() - before)

    def _is_over(self, loop: int, process: int) -> bool:
        """Whether a loop, which began in a process, was ended by another one, a position, or a fork."""
        return (loop, process) != (self._loop, process_number())

    def _processes(self) -> WorkerPool:
        """The worker processes, started if they are not there."""
        if self._pool is None or not self._pool.is_usable:
            self._pool = WorkerPool(self._reader, self.data, self.order, self.seed)
        return self._pool


def _check_epoch(epoch: int) -> int:
    epoch = as_integer("epoch", epoch)
    if epoch < 0:
        raise IndexError(f"epoch {epoch}: they begin with 0")
    return epoch
