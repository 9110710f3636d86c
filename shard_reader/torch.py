"""Streams and records as PyTorch's datasets, of tensors on the CPU or on their way to a GPU."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import get_spawning_popen
from typing import Any, Literal

import numpy as np

try:
    import torch
    from torch import distributed
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "shard_reader.torch needs PyTorch: pip install 'image-shards[torch]'", name=error.name
    ) from error

from shard_reader.adapters.device_queue import prefetch_to_device
from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.normalization import pixel_statistics
from shard_reader.adapters.torch_callers import check_callers
from shard_reader.adapters.torch_tensors import Copies, of_record, tensors
from shard_reader.adapters.torch_workers import MOST_WORKERS, WorkerLoops
from shard_reader.arguments import record_numbers
from shard_reader.dataset.records import Records
from shard_reader.order.coverage import Coverage
from shard_reader.stream.batch_reader import Batch
from shard_reader.stream.loop import Loop
from shard_reader.stream.options import Verify
from shard_reader.stream.stream import Stream
from shard_reader.transforms.compose import Transforms

__all__ = ["RecordDataset", "StreamDataset", "normalization"]


class StreamDataset(IterableDataset[Any]):
    """Batches of a stream as tensors. Each iteration is one epoch.

    Loop over it directly: the stream's threads make batches in advance. Or give it to `DataLoader(dataset,
    batch_size=None)`, or torchdata's `StatefulDataLoader`: worker processes take batches in turn, so that each comes
    once, in the order of the stream.

    Images are `[n, channels, height, width]`, in the memory of the stream (`torch.channels_last`), without a copy.
    Arrays of objects (ids, lists) stay NumPy arrays.

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

    Raises:
        ValueError: the stream has no such field, padding would count, or the number of ranks does not divide the
            batch.
        TypeError: `stream` is not a Stream.

    Examples:
        >>> for images, labels, weight in StreamDataset(stream, inputs="image", targets="label"):  # doctest: +SKIP
        ...     loss = (cross_entropy(model(images), labels, reduction="none") * weight).sum() / weight.sum()
    """

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
    ) -> None:
        super().__init__()
        self._elements = Elements(stream, inputs, targets, weight, one_hot)
        self._whole, self._distributed = stream, distributed
        self._device = None if device is None else torch.device(device)
        self._place: tuple[int, int] | None = None  # the loop's position, where the stream is ahead of it
        self._moves = stream.moves  # the stream's moves at that time
        self._loops = WorkerLoops()
        self._passes, self._resumed = 0, False  # in a worker process: its loops, and whether it was given a position

    def __repr__(self) -> str:
        device = "" if self._device is None else f", device={str(self._device)!r}"
        return f"StreamDataset({self._whole!r}{self._elements}{device})"

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self._stream)

    def __iter__(self) -> Iterator[Any]:
        """The elements of one epoch.

        Raises:
            ValueError: a DataLoader would make batches of batches, or Accelerate divide a share of the batches.
            StateError: a trainer that was restored would begin at another place.
        """
        worker = get_worker_info()
        if worker is None:
            place, loop = self._loops.next(self._stream), self._of_stream()
        else:
            epoch, step = self._begin_in_worker(worker.id, worker.num_workers, worker.seed)
            place, loop = (epoch, step - worker.id), self._of_worker(epoch, step, worker.num_workers)
        check_callers(self._stream.order.world_size, place)
        return Loop(loop)

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:
            # The new process is in no group of `torch.distributed`, and its copy of a stream knows no loop of this one.
            stream = self._stream
            place = self._loops.next(stream)
            check_callers(stream.order.world_size, place)
            self._loops.go_to(stream, place)
        return self.__dict__

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch of the loop; in a worker process, after its own last batch.

        Raises:
            RuntimeError: worker processes made the batches, for a DataLoader that does not know its position.
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
        if self._place is None or self._moves != stream.moves:
            return stream.state_dict()
        return stream.state_at(self._place[1], self._place[0])

    def coverage(self) -> Coverage:
        """The records of this epoch that this process was given. See `Stream.coverage`.

        Raises:
            RuntimeError: worker processes made the batches.
        """
        if self._loops.next(self._stream) != self._stream.next:
            raise RuntimeError("the batches were made by worker processes, which count them: take num_workers=0")
        return self._stream.coverage()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position of a stream of any rank and world size.

        Raises:
            StateError: the position is of another dataset or order.
        """
        if get_worker_info() is None:
            self._stream.load_state_dict(state)
            self._loops.go_to(self._stream, self._stream.next)
        else:
            self._place, self._resumed = self._stream.check_state(state), True

    def set_epoch(self, epoch: int) -> None:
        """Have the next loop be that of an epoch: all of it, or its rest if a position in it was restored.

        Raises:
            StateError: a position of another epoch was restored, and no loop has begun since.
            ValueError: Accelerate would divide this rank's share of the batches again.
        """
        stream = self._stream
        check_callers(stream.order.world_size, (epoch, 0))
        stream.set_epoch(epoch, is_left=self._loops.next(stream) != stream.next)
        self._loops.go_to(stream, stream.next)

    @property
    def sampler(self) -> StreamDataset:
        """Itself, for Lightning, which sets the epoch of a loader's sampler."""
        return self

    @property
    def _stream(self) -> Stream:
        """The stream of this rank."""
        # Found out late, since a dataset may be made before `torch.distributed` is initialized.
        if self._distributed:
            self._whole = _of_this_rank(self._whole)
        return self._whole

    def _of_stream(self) -> Generator[Any, None, None]:
        """The batches in this process."""
        stream = self._stream
        epoch, step = self._loops.next(stream)
        if (epoch, step) != stream.next:  # worker processes were there
            stream.load_state_dict(stream.state_at(step, epoch))
        copies = (
            Copies(self._device, _images(self._stream))
            if self._device is not None and self._device.type == "cuda"
            else None
        )
        send = self._element if copies is None else lambda batch: copies.send(self._elements.arrays(batch))
        for element, place in prefetch_to_device(stream, send, 0 if copies is None else 1):
            if stream.moves != self._moves:
                self._moves = stream.moves
                self._loops.go_to(stream, (epoch + 1, 0))
            self._place = place
            yield element if copies is None else self._elements.select(copies.receive(*element))
            del element

    def _begin_in_worker(self, worker: int, workers: int, seed: int) -> tuple[int, int]:
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
        epoch, first = self._loops.begin(self._stream, worker, (seed - worker, self._passes), resumed)
        self._passes += 1
        self._place = (epoch, first + worker) if resumed is None else resumed
        return self._place

    def _of_worker(self, epoch: int, step: int, every: int) -> Generator[Any, None, None]:
        """The batches of this worker's turns."""
        for batch in self._stream.batches(epoch, step, every=every) if step < len(self._stream) else ():
            # Before the batch is given: StatefulDataLoader asks for the state as soon as it has it.
            step += every
            self._place = epoch, step
            yield self._element(batch)

    def _element(self, batch: Batch) -> Any:
        return self._elements.select(tensors(self._elements.arrays(batch), self._device, _images(self._stream)))


class RecordDataset(Dataset[Any]):
    """Records by number as tensors, for a DataLoader with a sampler.

    A DataLoader's batch is read together, decoded by threads, and taken apart for its `collate_fn`. The sampler decides
    which records an epoch has, and their order; `StreamDataset` gives each record exactly once.

    Images are `[channels, height, width]`. Ids and lists stay `bytes` and Python's lists, or NumPy arrays.

    Args:
        data: a dataset from `open_dataset`, `select`, `where` or `mix`.
        inputs: the first part of elements `(inputs, targets)`: a field's name, several names, which give a tuple, or a
            function of the dictionary of tensors of a batch. By default elements are dictionaries.
        targets: the second part, in the same forms.
        one_hot: labels as float32 `[classes]`: True, or the number of classes.
        image: as in `data.stream`.
        transform: as in `data.stream`.
        fields: as in `data.stream`.
        ragged: as in `data.stream`.
        fast: as in `data.stream`.
        verify: as in `data.stream`; by default every image is checked each time it is read.
        seed: as in `data.stream`.
        threads: as in `data.stream`.

    Raises:
        ValueError: the data has no such field, or images differ in size and `image` is not given.

    Examples:
        >>> records = RecordDataset(data, image=CenterCrop(224))  # doctest: +SKIP
        >>> loader = DataLoader(records, batch_size=64, sampler=sampler)  # doctest: +SKIP
    """

    def __init__(
        self,
        data: Records,
        *,
        inputs: Choice = None,
        targets: Choice = None,
        one_hot: bool | int = False,
        image: Transforms = None,
        transform: Mapping[str, Transforms] | None = None,
        fields: Iterable[str] | None = None,
        ragged: Literal["list", "pad"] | int = "list",
        fast: bool = False,
        verify: Verify | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"image": image, "fields": fields, "ragged": ragged, "fast": fast, "threads": threads}
        options |= {"verify": verify, "transform": transform}
        # The epoch is shared memory, since worker processes that stay have a copy of everything else.
        self._data, self._epoch = data, torch.zeros(1, dtype=torch.int64).share_memory_()
        self._stream = data.stream(batch_size=1, shuffle="none", remainder="keep", seed=seed, **options)
        self._elements = Elements(self._stream, inputs, targets, None, one_hot)

    def __repr__(self) -> str:
        return f"RecordDataset({self._data!r}{self._elements})"

    def __len__(self) -> int:
        """The number of records."""
        return len(self._data)

    def __getitem__(self, record: int) -> Any:
        """One record.

        Raises:
            IndexError: there is no such record.
            CorruptionError: the record is damaged.
        """
        return self.__getitems__([record])[0]

    def __getitems__(self, records: Sequence[int]) -> list[Any]:
        """Several records, read together."""
        numbers = record_numbers(records)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        arrays = self._elements.arrays(self._stream.take(numbers, int(self._epoch)))
        if self._elements.are_dictionaries:
            del arrays["weight"]
        batch = self._elements.select(tensors(arrays, None, _images(self._stream)))
        return [of_record(batch, place) for place in range(len(numbers))]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that random transforms draw from, as `DistributedSampler.set_epoch` does for the order."""
        self._epoch.fill_(epoch)


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


def _of_this_rank(stream: Stream) -> Stream:
    if not (distributed.is_available() and distributed.is_initialized()) or stream.order.world_size > 1:
        return stream
    ranks = distributed.get_world_size()
    return stream if ranks == 1 else stream.for_rank(distributed.get_rank(), ranks)


def _images(stream: Stream) -> frozenset[str]:
    """The names of the arrays of a batch that are images: of them, masks are `[n, height, width]` and stay so."""
    return frozenset(name for name in stream.fields if stream.data.fields[name].is_image)
