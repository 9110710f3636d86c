"""Records by number: opening a dataset, subsets, and mixtures."""

from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.open import open_dataset

__all__ = ["Dataset", "open_dataset"]
