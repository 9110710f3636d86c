"""Streams and records as PyTorch's datasets, of tensors on the CPU or on their way to a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.context import get_spawning_popen
from typing import Any

try:
    import torch
    from torch import distributed
    from torch.utils.data import IterableDataset, get_worker_info
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.torch needs PyTorch: pip install 'image-shards[torch]'", name=error.name
    ) from error

from shard_reader.adapters import torch_callers
from shard_reader.adapters.device_queue import prefetch_to_device
from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.normalization import pixel_statistics
from shard_reader.adapters.torch_callers import Callers, Place, callers
from shard_reader.adapters.torch_records import RecordDataset
from shard_reader.adapters.torch_tensors import Copies, image_names, tensors
from shard_reader.adapters.torch_workers import MOST_WORKERS, WorkerLoops, of_this_rank
from shard_reader.dataset.records import Records
from shard_reader.errors import StateError
from shard_reader.order.coverage import Coverage
from shard_reader.stream.batch_reader import Batch
from shard_reader.stream.loop import Loop
from shard_reader.stream.stream import Stream
from shard_reader.system.stats import Stats

__all__ = ["RecordDataset", "StreamDataset", "normalization"]


class StreamDataset(IterableDataset[Any]):
    """Batches of a stream as tensors. Each iteration is one epoch.

    Loop over it directly: the stream's threads make batches in advance. Or give it to `DataLoader(dataset,
    batch_size=None)`, or torchdata's `StatefulDataLoader`: worker processes take batches in turn, so that each comes
    once, in the order of the stream.

    Images are `[n, channels, height, width]`. Arrays of objects (ids, lists) stay NumPy arrays.

    `state_dict()` is the position after the last batch of the loop, not after batches that are on their way.

    Args:
        stream: the stream of the batches.
        inputs: the first part of elements `(inputs, targets, weight)`: a field's name, several names, which give a
            tuple, or a function of the dictionary of tensors. By default elements are dictionaries.
        targets: the second part, in the same forms.
        weight: the third part, in the same forms. None leaves it out.
        one_hot: labels as float32 `[n, classes]`: True, or the number of classes.
        device: the device of the tensors. Copies to a GPU go through pinned memory, while the previous batch is used.
        distributed: where `torch.distributed` is initialized, read this process's share of a stream without ranks.
            False reads all of it, as for an evaluation on a single rank.
        memory_format: the memory format of images. `torch.channels_last` is that of the stream's own memory, without a
            copy; `torch.contiguous_format` is a copy, and what a DistributedDataParallel of an ordinary model expects.
            By default contiguous where `torch.distributed` is initialized, and otherwise channels_last.

    Raises:
        ValueError: the stream has no such field, padding would count, the number of ranks does not divide the batch,
            or there is no such memory format of images.
        TypeError: `stream` is not a Stream.

    Examples:
        >>> for images, labels, weight in StreamDataset(stream, inputs="image", targets="label"):  # doctest: +SKIP
        ...     loss = (cross_entropy(model(images), labels, reduction="none") * weight).sum() / weight.sum()
    """

    # Of the class, since pickles of earlier versions have none of them.
    _all_ranks: Stream | None = None  # the stream of all ranks, where Accelerate hands out its batches
    _is_handed_out = _is_unknown = False  # by Accelerate; where the position of the loop is not known
    _memory_format: torch.memory_format | None = None

    def __init__(
        self,
        stream: Stream,
        *,
        inputs: Choice = None,
        targets: Choice = None,
        weight: Choice = "weight",
        one_hot: bool | int = False,
        device: str | torch.device | None = None,
        distributed: bool = True,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        super().__init__()
        if memory_format not in (None, torch.channels_last, torch.contiguous_format):
            raise ValueError(f"memory_format={memory_format}: must be torch.channels_last or torch.contiguous_format")
        self._elements = Elements(stream, inputs, targets, weight, one_hot)
        self._whole, self._distributed = stream, distributed
        self._device, self._memory_format = None if device is None else torch.device(device), memory_format
        self._place: Place | None = None  # the loop's position, where the stream is ahead of it
        self._moves = stream.moves  # the stream's moves at that time
        self._loops = WorkerLoops()
        self._passes, self._resumed = 0, False  # in a worker process: its loops, and whether it was given a position

    def __repr__(self) -> str:
        device = "" if self._device is None else f", device={str(self._device)!r}"
        return f"StreamDataset({self._whole!r}{self._elements}{device})"

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        stream = self._stream
        ranks = stream.order.world_size
        return stream.order.epoch_steps * ranks if ranks > 1 and torch_callers.is_len_of_dispatcher() else len(stream)

    def __iter__(self) -> Iterator[Any]:
        """The elements of one epoch.

        Raises:
            ValueError: a DataLoader would make batches of batches, or Accelerate divide batches as it cannot.
            StateError: a trainer that was restored would begin at another place than the restored stream.
        """
        stream = self._stream
        ranks = stream.order.world_size
        worker = get_worker_info()
        if worker is not None:
            # The calls of a worker that stays are those that led to its first loop.
            found = callers(ranks) if self._passes == 0 else Callers()
            epoch, step = self._begin_in_worker(worker.id, worker.num_workers, worker.seed, found)
            return Loop(self._of_worker(epoch, step, worker.num_workers))
        found = callers(ranks)
        self._go_to(found.start(self._next, self._is_restored))
        self._is_handed_out = found.processes > 1 and ranks > 1
        self._is_unknown = found.processes > ranks
        if self._is_elsewhere:
            self._moves, self._place = stream.moves, stream.next
        return Loop(self._of_all_ranks(found.is_ahead) if self._is_handed_out else self._of_stream(found.is_ahead))

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:
            # The new process is in no group of `torch.distributed`, and its copy of a stream knows no loop of this one.
            stream = self._stream
            self._go_to(callers(stream.order.world_size).start(self._next, self._is_restored))
            self._loops.go_to(stream, self._next)
        return self.__dict__

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch of the loop; in a worker process, after its own last batch.

        Raises:
            RuntimeError: worker processes made the batches, for a DataLoader that does not know its position; or
                Accelerate took batches in advance, for several processes.
        """
        stream = self._stream
        if get_worker_info() is not None:
            epoch, step = stream.next if self._place is None else self._place
            # After its last batch a worker stays at the end of the epoch, where the other workers may not be yet.
            return stream.state_at(0, epoch) | {"step": min(step, stream.order.epoch_steps)}
        if self._loops.next(stream) != stream.next:
            raise RuntimeError(
                "the batches were made by worker processes, ahead of the loop: take torchdata's StatefulDataLoader and"
                " its state_dict(), or stream.state_at(step, epoch) with the steps that are done, or num_workers=0"
            )
        if self._moves != stream.moves:
            return stream.state_dict()
        if self._is_unknown:
            raise RuntimeError(torch_callers.TAKEN_IN_ADVANCE)
        if self._is_elsewhere:
            return stream.state_dict() | {"step": None}  # Accelerate asks every process, and saves the main process's
        return stream.state_dict() if self._place is None else stream.state_at(self._place[1], self._place[0])

    def stats(self) -> Stats:
        """`Stream.stats` of this process. Worker processes of a DataLoader count for themselves, and are not in it."""
        return self._stream.stats() + (Stats() if self._all_ranks is None else self._all_ranks.stats())

    def coverage(self) -> Coverage:
        """The records of this epoch that this process was given. See `Stream.coverage`.

        Raises:
            RuntimeError: worker processes made the batches, or Accelerate's main process.
        """
        if self._loops.next(self._stream) != self._stream.next:
            raise RuntimeError("the batches were made by worker processes, which count them: take num_workers=0")
        if self._is_handed_out and self._moves == self._stream.moves:
            raise RuntimeError("Accelerate's main process read the batches of all ranks: loop over the dataset itself")
        return self._stream.coverage()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position of a stream of any rank and world size.

        Raises:
            StateError: the position is of another dataset or order, or of a process that had none.
        """
        if isinstance(state, dict) and "step" in state and state["step"] is None:
            raise StateError(torch_callers.NO_POSITION)
        if get_worker_info() is None:
            self._stream.load_state_dict(state)
            self._loops.go_to(self._stream, self._stream.next)
            self._end_all_ranks()
        else:
            self._place, self._resumed = self._stream.check_state(state), True

    def set_epoch(self, epoch: int) -> None:
        """Have the next loop be that of an epoch: all of it, or its rest if a position in it was restored.

        Where a loader of Accelerate only passes on the number of its own loops, it is told the epoch instead.

        Raises:
            StateError: a position of another epoch was restored, and no loop has begun since.
            ValueError: Accelerate would divide the batches as it cannot.
        """
        stream = self._stream
        loader = torch_callers.counting_loader(stream.order.world_size)
        if loader is not None:
            loader.iteration = self._next[0]
            return
        stream.set_epoch(epoch, is_left=self._next != stream.next)
        self._loops.go_to(stream, stream.next)
        self._end_all_ranks()

    @property
    def sampler(self) -> StreamDataset:
        """Itself, for Lightning, which sets the epoch of a loader's sampler."""
        return self

    @property
    def _stream(self) -> Stream:
        """The stream of this rank."""
        # Found out late, since a dataset may be made before `torch.distributed` is initialized.
        if self._distributed:
            self._whole = of_this_rank(self._whole)
        return self._whole

    @property
    def _is_elsewhere(self) -> bool:
        """Whether the loop that began last is in Accelerate's main process, and not in this one."""
        return self._is_handed_out and self._stream.order.rank > 0

    @property
    def _next(self) -> Place:
        """The first place of the next loop."""
        stream = self._stream
        if self._is_elsewhere and self._place and self._moves == stream.moves:
            return self._place[0] + 1, 0  # this process was asked for no batch of the epoch
        return self._loops.next(stream)

    @property
    def _is_restored(self) -> bool:
        """Whether the next loop begins at a position that was restored."""
        return self._stream.is_restored and self._next == self._stream.next

    def _go_to(self, place: Place) -> None:
        """Have the next loop begin at a place."""
        stream = self._stream
        if place != self._loops.next(stream):
            epoch, step = place
            stream.load_state_dict(stream.state_at(step, epoch))
            self._loops.go_to(stream, place)

    def _of_stream(self, is_ahead: bool) -> Generator[Any, None, None]:
        """The batches in this process."""
        stream = self._stream
        epoch, step = self._loops.next(stream)
        if (epoch, step) != stream.next:  # worker processes were there
            stream.load_state_dict(stream.state_at(step, epoch))
        yield from self._shares(stream, (epoch, step), 1, is_ahead)

    def _of_all_ranks(self, is_ahead: bool) -> Generator[Any, None, None]:
        """The shares of rank 0, 1 ... of each batch, for Accelerate to hand out."""
        stream, ranks = self._stream, self._stream.order.world_size
        epoch, step = self._loops.next(stream)
        if self._all_ranks is None:
            self._all_ranks = stream.for_rank(0, 1)
        self._all_ranks.load_state_dict(self._all_ranks.state_at(step, epoch))
        # As a loop of it does, whose position is after the last batch: the stream of this rank leaves the epoch.
        stream.set_epoch(epoch + 1, is_left=True)
        self._loops.go_to(stream, stream.next)
        self._moves, self._place = stream.moves, (epoch, step)
        yield from self._shares(self._all_ranks, (epoch, step), ranks, is_ahead)

    def _end_all_ranks(self) -> None:
        if self._all_ranks is not None:
            self._all_ranks.close()

    def _shares(self, stream: Stream, start: Place, ranks: int, is_ahead: bool) -> Generator[Any, None, None]:
        """The shares of each batch. `_place` is the position after it, or before it if it is taken in advance."""
        places = deque([start], 2 if is_ahead else 1)
        for arrays, place in self._sent(stream):
            if stream is self._whole and stream.moves != self._moves:
                self._moves = stream.moves
                self._loops.go_to(stream, (start[0] + 1, 0))
            places.append(place)
            for rank in range(ranks):
                if rank == ranks - 1:
                    self._place = places[0]
                # Ranks take turns at the positions of a batch.
                share = arrays if ranks == 1 else {name: array[rank::ranks] for name, array in arrays.items()}
                yield self._elements.select(share)
                del share
            del arrays
        self._place = stream.next

    def _sent(self, stream: Stream) -> Iterator[tuple[dict[str, Any], Place]]:
        """The tensors of each batch on their device, and the position after it."""
        copies = None
        if self._device is not None and self._device.type == "cuda":
            copies = Copies(self._device, image_names(stream), self._format)
        send = self._tensors if copies is None else lambda batch: copies.send(self._elements.arrays(batch))
        for sent, place in prefetch_to_device(stream, send, 0 if copies is None else 1):
            yield (sent if copies is None else copies.receive(*sent)), place
            del sent

    def _begin_in_worker(self, worker: int, workers: int, seed: int, found: Callers) -> Place:
        """The epoch, and a worker's first step of it."""
        # A worker takes every n-th batch, not a share of each: so the batches are the same for any number of workers.
        if workers > MOST_WORKERS:
            raise ValueError(f"num_workers={workers}: must be at most {MOST_WORKERS}")
        if self._device is not None and self._device.type != "cpu":
            raise ValueError(
                f"device={self._device}: worker processes cannot put tensors there: take num_workers=0; or leave it"
                " out, and take DataLoader(pin_memory=True) and tensor.to(device, non_blocking=True)"
            )
        resumed, self._resumed = self._place if self._resumed else None, False
        # The name of a loop. A loader's seed is another one for each loop and the same for its workers; but workers
        # that stay keep that of their first loop, so they count their loops as well.
        stream, name = self._stream, (seed - worker, self._passes)
        epoch, first = self._loops.begin(
            stream, worker, name, resumed, lambda place: found.start(place, stream.is_restored and place == stream.next)
        )
        self._passes += 1
        self._place = (epoch, first + worker) if resumed is None else resumed
        return self._place

    def _of_worker(self, epoch: int, step: int, every: int) -> Generator[Any, None, None]:
        """The batches of this worker's turns."""
        for batch in self._stream.batches(epoch, step, every=every) if step < len(self._stream) else ():
            # Before the batch is given: StatefulDataLoader asks for the state as soon as it has it.
            step += every
            self._place = epoch, step
            yield self._elements.select(self._tensors(batch))

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        return tensors(self._elements.arrays(batch), self._device, image_names(self._stream), self._format)

    @property
    def _format(self) -> torch.memory_format:
        """The memory format of images."""
        # Other gradients than contiguous ones do not fit the buckets of DistributedDataParallel, which then copies them
        # and warns. A worker process may be in no group, but has the share of its parent.
        if self._memory_format is not None:
            return self._memory_format
        in_group = distributed.is_available() and distributed.is_initialized()
        return torch.contiguous_format if in_group or self._stream.order.world_size > 1 else torch.channels_last


def normalization(
    data: Records,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.nn.Module:
    """A module from images `[n, channels, height, width]` to `dtype` with mean 0 and standard deviation 1.

    As the first of a model, it runs on the device: uint8 goes there, a quarter of the bytes of float32.

    Args:
        data: the dataset, with the mean and standard deviation of each channel in its manifest.
        mean: means to take instead, of pixels scaled to 0..1.
        std: standard deviations to take instead, of pixels scaled to 0..1.
        dtype: dtype of the result, `torch.bfloat16` for instance; the arithmetic is in float32.

    Raises:
        ValueError: the dataset has no statistics, or its pixels are normalized already.

    Examples:
        >>> model = torch.nn.Sequential(normalization(data), torchvision.models.resnet50())  # doctest: +SKIP
    """
    return _Normalization(*pixel_statistics(data, mean, std), dtype)


class _Normalization(torch.nn.Module):
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self._statistics = dtype, (mean, std)
        for name, values in zip(("mean", "std"), self._statistics, strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> torch.nn.Module:
        """Go to another device, but keep the statistics in float32."""
        # `model.bfloat16()` would round them, so they are made again from Python's numbers.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in zip(("mean", "std"), self._statistics, strict=True):
            setattr(self, name, torch.tensor(values, device=getattr(self, name).device).reshape(-1, 1, 1))
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ((images.to(torch.float32) - self.mean) / self.std).to(self.dtype)
