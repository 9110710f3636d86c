"""Batches in exact order, and the position to go on from."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.cpus import available_cpus
from shard_reader.decode import CenterCrop
from shard_reader.errors import StateError
from shard_reader.order import Order

if TYPE_CHECKING:
    from shard_reader.dataset import Dataset

__all__ = ["Batch", "Stream"]

Batch = dict[str, NDArray[Any]]

_STATE_VERSION = 1


class Stream:
    """Batches of a dataset. Made by `Dataset.stream`.

    Every `for batch in stream` is one epoch, each with an order of its own under `shuffle="full"`. A
    loop that breaks off ends its epoch: the next one begins the next epoch.

    A batch is a dictionary of arrays: `image` `[n, height, width, channels]`, `label` int64 `[n]`,
    `weight` float32 `[n]` (1, or 0 for a record that only pads the last batch), and whatever else is asked for:
    strings, as `id`, are `bytes` objects `[n]`, lists are objects `[n]` that are arrays or lists of `bytes`.

    `state_dict()` after a batch is the position behind it. After `load_state_dict()` the next loop goes
    on from there, to the end of that epoch, bit for bit as it would have gone; with another number of
    ranks the global batches are still the same.

    >>> stream = data.stream(batch_size=256, seed=0)  # doctest: +SKIP
    >>> for batch in stream:  # doctest: +SKIP
    ...     train(batch["image"], batch["label"], batch["weight"])
    """

    def __init__(
        self,
        data: Dataset,
        order: Order,
        *,
        image: CenterCrop | None,
        fields: Sequence[str] | None,
        threads: int | None,
        prefetch: int,
    ) -> None:
        self.data = data
        self.order = order
        self.fields = _check_fields(data, fields)
        self._crop = image
        self._image_shape = _image_shape(data, image) if "image" in self.fields else ()
        self._threads = _at_least_one("threads", available_cpus() if threads is None else threads)
        self._prefetch = _at_least_one("prefetch", prefetch)
        self._epoch, self._step, self._begun = 0, 0, False
        self._loop = 0  # the number of the loop that moves the stream
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        """How many batches this rank gets in an epoch."""
        return self.order.steps

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}  # threads stay in their process

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
        return len(self) if self._begun else len(self) - self._step

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the images in a batch."""
        return self._image_shape

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch, the next few of them made ahead by threads."""
        if self._begun:
            self._move_to(self._epoch + 1, 0)
        self._loop += 1
        loop, epoch, steps = self._loop, self._epoch, iter(range(self._step, len(self)))
        pending: deque[tuple[int, _PendingBatch]] = deque()
        while True:
            for step in islice(steps, self._prefetch + 1 - len(pending)):
                pending.append((step, self._begin(epoch, step)))
            if not pending:
                # A rank that gets no batch of an epoch has had it, too.
                self._begun = self._begun or (loop, epoch) == (self._loop, self._epoch)
                return
            step, batch = pending.popleft()
            result = batch.result()
            if loop != self._loop:
                raise RuntimeError("this loop is over: the stream was iterated again, or given another position")
            self._move_to(epoch, step + 1)
            yield result

    def batch(self, epoch: int, step: int) -> Batch:
        """One batch of any epoch, without moving the stream.

        Raises:
            IndexError: the epoch has no such step.
            CorruptionError: a record is damaged.
        """
        return self._begin(epoch, step).result()

    def require(self, *names: str) -> None:
        """Check that batches hold these fields.

        Raises:
            ValueError: they do not hold one of them.
        """
        for name in names:
            if name not in self.fields:
                raise ValueError(f"{name!r} is not among the stream's fields, {', '.join(self.fields)}")

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch: a few integers and what they refer to, as JSON can hold."""
        return self._identity() | {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` gave, on a stream of any rank and world size.

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
        self._move_to(epoch, step)
        self._begun = 0 < len(self) <= self._step  # a rank with a batch less: the next epoch is left
        self._loop += 1

    def close(self) -> None:
        """Stop the threads; iterating again starts new ones."""
        if self._pool is not None:
            self._pool[1].shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _move_to(self, epoch: int, step: int) -> None:
        if step >= self.order.epoch_steps:
            epoch, step = epoch + 1, 0
        self._epoch, self._step, self._begun = epoch, step, step > 0

    def _identity(self) -> dict[str, Any]:
        return {
            "version": _STATE_VERSION,
            "dataset": self.data.fingerprint,
            "batch_size": self.order.batch_size,
            "shuffle": self.order.shuffle,
            "seed": self.order.seed,
            "remainder": self.order.remainder,
        }

    def _begin(self, epoch: int, step: int) -> _PendingBatch:
        records, weights = self.order.batch(epoch, step)
        batch: Batch = {}
        work: list[Future[None]] = []
        if "image" in self.fields:
            dtype = self.data.fields["image"].dtype
            batch["image"] = np.empty((len(records), *self._image_shape), dtype)
            work = self._fill(batch["image"], records)
        return _PendingBatch(self, records, batch | {"weight": weights}, work)

    def _fill(self, images: NDArray[Any], records: NDArray[np.int64]) -> list[Future[None]]:
        """Have threads decode each record into its place, a few consecutive ones for each task."""
        pool = self._thread_pool()
        size = -(-len(records) // (4 * self._threads))
        starts = range(0, len(records), size)
        return [pool.submit(self._decode, images[s : s + size], records[s : s + size]) for s in starts]

    def _decode(self, images: NDArray[Any], records: NDArray[np.int64]) -> None:
        for place, record in enumerate(records.tolist()):
            pixels = self.data.image(record)
            try:
                images[place] = self._crop(pixels) if self._crop else pixels
            except ValueError as error:
                raise ValueError(f"{self.data.describe(record)}: the image {error}") from error

    def _thread_pool(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = (os.getpid(), ThreadPoolExecutor(self._threads, "shard_reader"))
        return self._pool[1]


class _PendingBatch:
    """A batch whose images threads are still filling in. What is wrong with it shows in `result`."""

    def __init__(self, stream: Stream, records: NDArray[np.int64], begun: Batch, work: list[Future[None]]) -> None:
        self._stream, self._records, self._begun, self._work = stream, records, begun, work

    def result(self) -> Batch:
        for part in self._work:
            part.result()
        names = (*self._stream.fields, "weight")
        return {name: self._begun[name] if name in self._begun else self._column(name) for name in names}

    def _column(self, name: str) -> NDArray[Any]:
        return self._stream.data.column(name, self._records)


def _check_fields(data: Dataset, fields: Sequence[str] | None) -> tuple[str, ...]:
    if fields is None:
        return ("image", "label") if "label" in data.fields else ("image",)
    if isinstance(fields, str):
        raise TypeError(f"fields={fields!r}: must be several names, as ({fields!r},)")
    for name in fields:
        if name not in data.fields:
            raise ValueError(f"fields={list(fields)!r}: {name!r} is not one of {', '.join(data.fields)}")
    return tuple(fields)


def _image_shape(data: Dataset, crop: CenterCrop | None) -> tuple[int, ...]:
    field = data.fields["image"]
    if field.shape[2] is None:
        raise ValueError(
            f"the images of {data.path} may differ in channels (--channels keep) and then are no array: read"
            " them one by one, or prepare them with --channels rgb or grey"
        )
    if crop is not None:
        if not isinstance(crop, CenterCrop):
            raise TypeError(f"image={crop!r}: expected a CenterCrop or None")
        return (*crop.shape, field.shape[2])
    if not field.is_fixed:
        raise ValueError(
            f"the images of {data.path} may differ in size (--fit cover, inside or none) and then are no array: pass"
            " image=CenterCrop(n), or prepare them with --fit crop, pad or stretch"
        )
    return tuple(size or 0 for size in field.shape)


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}={value}: must be at least 1")
    return value
