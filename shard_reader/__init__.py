"""Reads the datasets that `image-shards prepare` writes, in exact, repeatable, resumable order.

Examples:
    >>> from shard_reader import CenterCrop, open_dataset
    >>> data = open_dataset("shards", split="train")  # doctest: +SKIP
    >>> for batch in data.stream(batch_size=256, image=CenterCrop(224)):  # doctest: +SKIP
    ...     train(batch["image"], batch["label"], batch["weight"])
"""

from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.mixture import Mixture, mix
from shard_reader.dataset.open import open_dataset
from shard_reader.errors import CorruptionError, DatasetError, ManifestError, ShardsError, StateError, StoreError
from shard_reader.old_pickles import add_old_places
from shard_reader.order.coverage import Coverage
from shard_reader.remote.stats import Stats
from shard_reader.stream.stream import Skipped, Stream
from shard_reader.transforms.base import Transform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop, Resize

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

add_old_places()
