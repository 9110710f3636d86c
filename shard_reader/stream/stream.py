"""Batches in exact order, and the position to go on from."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, at_least_one, record_numbers
from shard_reader.errors import StateError
from shard_reader.order.batches import Order
from shard_reader.order.coverage import Coverage
from shard_reader.remote.stats import Stats
from shard_reader.shards.source import RecordSource
from shard_reader.stream.batch_reader import Batch, Reader, Skipped, Spec
from shard_reader.stream.lookup import Plan
from shard_reader.stream.options import ReadOptions
from shard_reader.stream.prefetch import Ahead

__all__ = ["Batch", "Skipped", "Spec", "Stream"]

_STATE_VERSION = 1
_OVER = "this loop is over: the stream was iterated again, given another position, closed, or forked"


class Stream:
    """Batches of a dataset. Made by `Records.stream`.

    Every `for batch in stream` is one epoch, each with an order of its own unless `shuffle="none"`. A
    loop that breaks off ends its epoch: the next one begins the next epoch.

    A batch is a dictionary of arrays: `image` `[n, height, width, channels]`, `label` int64 `[n]`,
    `weight` float32 `[n]` (1, or 0 for a record that only pads the last batch, or is damaged and skipped), and
    whatever else is asked for: strings, as `id`, are `bytes` objects `[n]`, lists are objects `[n]` that are arrays or
    lists of `bytes`, or padded. The memory of images is used again when nobody holds the batch, or a part of
    it, any more.

    `state_dict()` after a batch is the position behind it. After `load_state_dict()` the next loop goes
    on from there, to the end of that epoch, bit for bit as it would have gone; with another number of
    ranks the global batches are still the same.

    >>> stream = data.stream(batch_size=256, seed=0)  # doctest: +SKIP
    >>> for batch in stream:  # doctest: +SKIP
    ...     train(batch["image"], batch["label"], batch["weight"])
    """

    def __init__(self, data: RecordSource, order: Order, seed: int, options: ReadOptions) -> None:
        self.data = data
        self.order = order
        self.seed = seed
        self._reader = Reader(data, order, seed, options)
        self._fetched_before: tuple[int, Stats] | None = os.getpid(), data.fetched()
        self.fields = self._reader.fields
        self._epoch, self._step, self._begun = 0, 0, False
        self._loop, self._moves = 0, 0  # the number of the loop that moves the stream
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None
        self._has_looked = False  # at a whole epoch, all of it verified
        self._was_cold = False  # the last epoch: it waited for pages
        self._last_epoch = 0  # of the batches that these tell of
        self._coverage = Coverage()
        self._skipped: list[Skipped] = []
        self._skipped_at: list[int] = []  # their steps

    def __len__(self) -> int:
        """How many batches this rank gets in an epoch."""
        return self.order.steps

    def __enter__(self) -> Stream:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_running": None, "_fetched_before": None}

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return self._epoch

    @property
    def step(self) -> int:
        """How many batches of the epoch are done."""
        return self._step

    @property
    def remaining(self) -> int:
        """How many batches the next loop gives: fewer than `len` only behind a restored position."""
        return len(self) if self._begun else max(0, len(self) - self._step)

    @property
    def next(self) -> tuple[int, int]:
        """The epoch and the step of the first batch of the next loop."""
        return (self._epoch + 1, 0) if self._begun else (self._epoch, self._step)

    @property
    def specs(self) -> dict[str, Spec]:
        """What each array of a batch has of each record, by name: dtype and shape."""
        return self._reader.specs

    @property
    def skipped(self) -> list[Skipped]:
        """The damaged records of this epoch, so far, that had weight 0: their numbers, and why."""
        return list(self._skipped)

    @property
    def moves(self) -> int:
        """How often the stream was iterated or given a position."""
        return self._moves

    @property
    def skips(self) -> bool:
        """Whether damaged records are skipped, with weight 0."""
        return self._reader.options.on_error == "skip"

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch, the next few of them made ahead by threads."""
        self._loop += 1
        self._moves += 1
        batches = self._batches(self._loop)
        self._running = weakref.ref(batches)
        return _Loop(self, self._loop, batches)

    def _batches(self, loop: int) -> Generator[Batch, None, None]:
        if self._begun:
            self._move_to(self._epoch + 1, 0)
        epoch, first = self._epoch, self._step
        if first == 0:
            self._count_from(epoch, Coverage())
        verifies = self._verifies()
        ahead = Ahead(self._reader, self.order, epoch, first, verify=verifies, cold=self._was_cold)
        try:
            for begun in ahead:
                batch, skipped = self._reader.finish(begun.pending)
                step, coverage = begun.step, begun.coverage
                del begun
                if loop != self._loop:  # while this one waited
                    return
                self._move_to(epoch, step + 1)
                self._coverage += coverage
                if skipped:
                    self._note(skipped, step)
                yield batch
                del batch  # its memory may go to the next one
        finally:
            ahead.cancel()
            self._was_cold = ahead.has_waited
        self._has_looked = self._has_looked or (verifies and first == 0 and self.order.has_all)
        # A rank that gets no batch of an epoch has had it, too.
        self._begun = self._begun or (loop, epoch) == (self._loop, self._epoch)

    def stats(self) -> Stats:
        """What this process has fetched of the data since the stream was made, and how long loops waited for it.

        Zeros where the data is on this machine. Streams of the same data, and whatever else reads it, count together;
        worker processes count for themselves.
        """
        total = self.data.fetched() + self._reader.stalls
        if self._fetched_before is None or self._fetched_before[0] != os.getpid():
            return total  # in another process, forked or given a copy, that is from zero
        return total - self._fetched_before[1]

    def batch(self, epoch: int, step: int) -> Batch:
        """One batch of any epoch, without moving the stream.

        Raises:
            IndexError: the epoch has no such step.
            CorruptionError: a record is damaged.
        """
        step = as_integer("step", step)
        plan = self._reader.plan(_check_epoch(epoch), step, step + 1)
        return self._finish(plan, self._reader.places(plan, step))

    def batches(self, epoch: int, first: int = 0, *, every: int = 1) -> Generator[Batch, None, None]:
        """The batches of any epoch from step `first` on, made ahead by threads, without moving the stream.

        Args:
            every: take one in so many steps: worker processes that each take every n-th, from a step of their own,
                share an epoch.

        Raises:
            IndexError: the epoch has no such step.
            CorruptionError: a record is damaged.
        """
        epoch, first, every = _check_epoch(epoch), as_integer("first", first), at_least_one("every", every)
        if first < 0:
            raise IndexError(f"step {first}: they begin with 0")
        verifies = self._verifies()
        ahead = Ahead(self._reader, self.order, epoch, first, every=every, verify=verifies, cold=self._was_cold)
        return self._made(ahead, looks=verifies and first == 0 and every == 1 and self.order.has_all)

    def take(self, records: Sequence[int] | NDArray[np.int64], epoch: int = 0) -> Batch:
        """Any records by number, made as those of a batch, in the order that is given; all have weight 1.

        Args:
            epoch: what random transforms draw for, with the seed and the number of the record.

        Raises:
            IndexError: there is no such record.
            TypeError: `records` are no integers; `data.select` takes masks.
            CorruptionError: a record is damaged.
        """
        plan = self._reader.plan_records(record_numbers(records), _check_epoch(epoch))
        return self._finish(plan, range(len(plan.picks.records)))

    def for_rank(self, rank: int, world_size: int) -> Stream:
        """This stream for another rank, at the same position.

        Raises:
            ValueError: there cannot be such a rank, or not so many.
        """
        order = replace(self.order, rank=rank, world_size=world_size)
        other = Stream(self.data, order, self.seed, self._reader.options)
        other.load_state_dict(self.state_dict())
        return other

    def require(self, *names: str) -> None:
        """Check that batches hold these fields.

        Raises:
            ValueError: they do not hold one of them.
        """
        for name in names:
            if name not in self.fields:
                raise ValueError(f"{name!r} is not among the stream's fields, {', '.join(self.fields)}")

    def coverage(self) -> Coverage:
        """What this rank has been given of the epoch of its last batch. Those of all ranks add up.

        At the end of an epoch with every record, the sum over the ranks `covers(data.coverage())`. After
        `load_state_dict` it includes what was before the position: as it was counted, if this rank of as many
        ranks took the state, otherwise as the order gives it.
        """
        return self._coverage

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch: a few integers and what they refer to, as JSON can hold."""
        return self._state(self._epoch, self._step, self._coverage if self._step else Coverage())

    def state_at(self, step: int, epoch: int | None = None) -> dict[str, Any]:
        """The position behind the first `step` batches of an epoch, for those who take batches before they use them.

        tf.data, Keras and DataLoaders ask for batches ahead, so that the stream's own position is behind
        the step that was trained: save that of the step that is done.

        Args:
            step: how many of the epoch's batches are done, 0 to `len(stream)`.
            epoch: by default that of the stream's last batch.

        Raises:
            ValueError: an epoch has no such step.
        """
        step, epoch = as_integer("step", step), self._last_epoch if epoch is None else as_integer("epoch", epoch)
        if epoch < 0 or not 0 <= step <= self.order.epoch_steps:
            raise ValueError(f"step={step!r}, epoch={epoch!r}: an epoch has {self.order.epoch_steps} steps")
        if step == self.order.epoch_steps:
            return self._state(epoch + 1, 0, Coverage())
        return self._state(epoch, step, self._before(epoch, step))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` gave, on a stream of any rank and world size.

        The next loop is the rest of that epoch: empty, where this rank has a batch less than others
        (`remainder="keep"`) and they have one left.

        Raises:
            StateError: it was taken from another dataset or order; the message shows both.
        """
        epoch, step = self.check_state(state)
        coverage = self._restored_coverage(state, epoch, step)
        self._moves += 1
        self._move_to(epoch, step)
        self._begun = False
        self._count_from(self._epoch, coverage)
        self._end_loop()

    def check_state(self, state: dict[str, Any]) -> tuple[int, int]:
        """The epoch and the step of a position, without going there.

        Raises:
            StateError: it was taken from another dataset or order; the message shows both.
        """
        if not isinstance(state, dict):
            raise StateError(f"{state!r} is no state: pass what state_dict() gave")
        expected = self._identity()
        found = {name: state.get(name) for name in expected}
        if found != expected:
            raise StateError(f"the state is of another stream:\n  state:  {found}\n  stream: {expected}")
        epoch, step = state.get("epoch"), state.get("step")
        steps = self.order.epoch_steps
        if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 0 or not 0 <= step <= steps:
            raise StateError(f"epoch={epoch!r}, step={step!r}: an epoch of this stream has {steps} steps")
        return epoch, step

    def close(self) -> None:
        """Stop the threads and free memory; iterating again starts new ones."""
        self._end_loop()
        self._reader.close()

    def _end_loop(self) -> None:
        """End the loop that is under way: it says so when it is asked for another batch."""
        self._loop += 1
        batches = None if self._running is None else self._running()
        if batches is not None:
            with contextlib.suppress(ValueError):  # another thread is in it, and will see that it is over
                batches.close()

    def _finish(self, plan: Plan, places: range) -> Batch:
        return self._reader.finish(self._reader.begin(plan, places, verify=self._verifies(), cold=False))[0]

    def _made(self, ahead: Ahead, *, looks: bool) -> Generator[Batch, None, None]:
        """Batches that do not move the stream. `looks`: they are a whole epoch, all of it verified."""
        try:
            for begun in ahead:
                batch = self._reader.finish(begun.pending)[0]
                self._has_looked = self._has_looked or (looks and begun.step == len(self) - 1)
                del begun
                yield batch
                del batch  # its memory may go to the next one
        finally:
            ahead.cancel()

    def _move_to(self, epoch: int, step: int) -> None:
        if 0 < self.order.epoch_steps <= step:
            epoch, step = epoch + 1, 0
        self._epoch, self._step, self._begun = epoch, step, step > 0

    def _count_from(self, epoch: int, coverage: Coverage) -> None:
        self._last_epoch, self._coverage = epoch, coverage
        self._skipped, self._skipped_at = [], []

    def _note(self, skipped: list[Skipped], step: int) -> None:
        self._coverage += Coverage(skipped=len(skipped))
        self._skipped += skipped
        self._skipped_at += [step] * len(skipped)

    def _verifies(self) -> bool:
        """Whether images are checked: one epoch is enough, if it was read as a whole and has all records."""
        options = self._reader.options
        if options.verify is None or options.verify == "first-epoch":
            return options.on_error == "skip" or not self._has_looked
        return options.verify == "always"

    def _identity(self) -> dict[str, Any]:
        return {
            "version": _STATE_VERSION,
            "dataset": self.data.fingerprint,
            "batch_size": self.order.batch_size,
            "seed": self.seed,
            "remainder": self.order.remainder,
            **self.order.arrangement.identity(),
        }

    def _state(self, epoch: int, step: int, coverage: Coverage) -> dict[str, Any]:
        share = {"rank": self.order.rank, "world_size": self.order.world_size}
        return self._identity() | {"epoch": epoch, "step": step, "coverage": share | coverage.to_json()}

    def _before(self, epoch: int, step: int) -> Coverage:
        """What this rank has of an epoch before a step: as it was counted, where it was, and as the order gives it."""
        if epoch != self._last_epoch:
            return self._ordered(epoch, 0, step)
        here = self._step if epoch == self._epoch else self.order.epoch_steps
        if step >= here:
            return self._coverage + self._ordered(epoch, here, step)
        skipped = sum(at >= step for at in self._skipped_at)
        return self._coverage - self._ordered(epoch, step, here) - Coverage(skipped=skipped)

    def _ordered(self, epoch: int, first: int, stop: int) -> Coverage:
        """What the order gives this rank in steps `first` to `stop`, without it."""
        stop, block = min(stop, len(self)), max(1, self._reader.most_records // self.order.share)
        total = Coverage()
        for start in range(first, stop, block):
            picks = self.order.picks(epoch, start, min(start + block, stop))
            total += Coverage.of(picks.records[picks.weights > 0])
        return total

    def _restored_coverage(self, state: dict[str, Any], epoch: int, step: int) -> Coverage:
        raw = state.get("coverage")
        if step in (0, self.order.epoch_steps):
            return Coverage()
        share = (self.order.rank, self.order.world_size)
        if not isinstance(raw, dict) or (raw.get("rank"), raw.get("world_size")) != share:
            return self._ordered(epoch, 0, step)
        try:
            return Coverage.from_json(raw)
        except ValueError as error:
            raise StateError(f"coverage={error}") from None


class _Loop(Iterator[Batch]):
    """The batches of an epoch, unless the stream has gone elsewhere meanwhile."""

    def __init__(self, stream: Stream, number: int, batches: Iterator[Batch]) -> None:
        self._stream, self._number, self._batches, self._process = stream, number, batches, os.getpid()

    def __next__(self) -> Batch:
        if self._is_over():
            raise RuntimeError(_OVER)
        try:
            return next(self._batches)
        except Exception:
            if self._is_over():  # its threads may have been stopped, or its end not be that of the epoch
                raise RuntimeError(_OVER) from None
            raise

    def _is_over(self) -> bool:
        return (self._number, self._process) != (self._stream._loop, os.getpid())


def _check_epoch(epoch: int) -> int:
    epoch = as_integer("epoch", epoch)
    if epoch < 0:
        raise IndexError(f"epoch {epoch}: they begin with 0")
    return epoch
