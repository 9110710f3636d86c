"""Reads the datasets that `image-shards prepare` writes, in exact, repeatable, resumable order.

>>> from shard_reader import CenterCrop, open_dataset
>>> data = open_dataset("shards", split="train")  # doctest: +SKIP
>>> for batch in data.stream(batch_size=256, image=CenterCrop(224)):  # doctest: +SKIP
...     train(batch["image"], batch["label"], batch["weight"])
"""

from shard_reader.dataset import Dataset, open_dataset
from shard_reader.decode import CenterCrop
from shard_reader.errors import CorruptionError, DatasetError, ManifestError, ShardsError, StateError
from shard_reader.stream import Stream

__all__ = [
    "CenterCrop",
    "CorruptionError",
    "Dataset",
    "DatasetError",
    "ManifestError",
    "ShardsError",
    "StateError",
    "Stream",
    "open_dataset",
]
