"""Reads the datasets that `image-shards prepare` writes, in exact, repeatable, resumable order.

>>> from shard_reader import CenterCrop, open_dataset
>>> data = open_dataset("shards", split="train")  # doctest: +SKIP
>>> for batch in data.stream(batch_size=256, image=CenterCrop(224)):  # doctest: +SKIP
...     train(batch["image"], batch["label"], batch["weight"])
"""

from shard_reader.coverage import Coverage
from shard_reader.dataset import Dataset, open_dataset
from shard_reader.draws import Draws
from shard_reader.errors import CorruptionError, DatasetError, ManifestError, ShardsError, StateError, StoreError
from shard_reader.mixture import Mixture, mix
from shard_reader.stats import Stats
from shard_reader.stream import Skipped, Stream
from shard_reader.transforms import CenterCrop, Flip, RandomResizedCrop, Resize, Transform

__all__ = [
    "CenterCrop",
    "CorruptionError",
    "Coverage",
    "Dataset",
    "DatasetError",
    "Draws",
    "Flip",
    "ManifestError",
    "Mixture",
    "RandomResizedCrop",
    "Resize",
    "ShardsError",
    "Skipped",
    "StateError",
    "Stats",
    "StoreError",
    "Stream",
    "Transform",
    "mix",
    "open_dataset",
]
