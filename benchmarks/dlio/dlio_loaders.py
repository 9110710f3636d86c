"""The plug-in: data loaders of DLIO (`reader.data_loader_classname`) that are fed by image-shards.

The dataset is the folder `train` of DLIO's data folder. `read_threads`, `prefetch_size`, `batch_size`, `seed`, the rank
and the number of ranks are those of DLIO. Batches are tensors of the workload's framework.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from dlio_benchmark.common.enumerations import DataLoaderType, FrameworkType
from dlio_benchmark.data_loader.base_data_loader import BaseDataLoader
from dlio_feeds import Payloads, decoded

from shard_reader import Flip, RandomResizedCrop, Resize
from shard_reader.transforms.compose import Transforms

SIZE = 224


class _Loader(BaseDataLoader):
    """One that DLIO asks to open the data, and then for each epoch."""

    def __init__(self, format_type: Any, dataset_type: Any, epoch_number: int) -> None:
        super().__init__(format_type, dataset_type, epoch_number, DataLoaderType.CUSTOM)

    @abstractmethod
    def read(self) -> None:
        """Open the data; DLIO makes a loader for validation, too, and does not always call it."""

    @abstractmethod
    def next(self) -> Iterator[Any]:
        """The batches of the next epoch."""

    def finalize(self) -> None:
        """The end of an epoch."""

    @property
    def _is_torch(self) -> bool:
        return self._args.framework is FrameworkType.PYTORCH


class _Images(_Loader):
    image: Transforms

    def read(self) -> None:
        self._stream = decoded(self._args, self.image)
        if self._is_torch:
            from shard_reader.torch import StreamDataset

            self._batches: Any = StreamDataset(self._stream, distributed=False)
        else:
            self._batches = self._stream

    def next(self) -> Iterator[Any]:
        if self._is_torch:
            yield from self._batches
        else:
            from shard_reader.tf_data import as_tensors

            for batch in self._batches:
                yield as_tensors(batch)


class Crops(_Images):
    """Images as ResNet-50 is trained with them."""

    image = (RandomResizedCrop(SIZE), Flip())


class WholeImages(_Images):
    """Images of which every pixel is decoded."""

    image = Resize((SIZE, SIZE), "bilinear")


class StoredBytes(_Loader):
    """JPEGs as they are stored, in TensorFlow's strings."""

    def read(self) -> None:
        self._payloads, self._epochs = Payloads(self._args), itertools.count()

    def next(self) -> Iterator[Any]:
        import tensorflow as tf

        # DLIO breaks the loop off at the last step: nothing after it would run.
        yield from self._payloads.epoch(next(self._epochs), tf.constant)
