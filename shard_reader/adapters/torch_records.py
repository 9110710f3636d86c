"""Records by number as tensors, for PyTorch's DataLoader and its samplers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from shard_reader.adapters.elements import Choice, Elements
from shard_reader.adapters.torch_tensors import image_names, of_record, tensors
from shard_reader.arguments import record_numbers
from shard_reader.dataset.records import Records
from shard_reader.dataset.sampling.view import refuse_views
from shard_reader.stream.arrays.options import Verify
from shard_reader.transforms.compose import Transforms

__all__ = ["RecordDataset"]


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
        ValueError: the data has no such field, or is balanced, weighted or in buckets, or images differ in size and
            `image` is not given.

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
        refuse_views(data, "RecordDataset")
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
        batch = self._elements.select(tensors(arrays, None, image_names(self._stream)))
        return [of_record(batch, place) for place in range(len(numbers))]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that random transforms draw from, as `DistributedSampler.set_epoch` does for the order."""
        self._epoch.fill_(epoch)
