"""Reads the datasets that `image-shards prepare` writes, in exact, repeatable, resumable order.

Examples:
    >>> from shard_reader import CenterCrop, open_dataset
    >>> data = open_dataset("shards", split="train")  # doctest: +SKIP
    >>> for batch in data.stream(batch_size=256, image=CenterCrop(224)):  # doctest: +SKIP
    ...     train(batch["image"], batch["label"], batch["weight"])
"""

import importlib
from types import ModuleType

from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.mixture import Mixture, mix
from shard_reader.dataset.open import open_dataset
from shard_reader.dataset.sampling.bucketed import Bucketed
from shard_reader.dataset.sampling.sampled import Sampled
from shard_reader.dataset.several import Concatenation, concat
from shard_reader.errors import CorruptionError, DatasetError, ManifestError, ShardsError, StateError, StoreError
from shard_reader.mixing import CutMix, MixUp
from shard_reader.old_pickles import add_old_places
from shard_reader.order.coverage import Coverage
from shard_reader.stream.stream import Skipped, Stream
from shard_reader.system.stats import Stats
from shard_reader.transforms.base import Transform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop, Resize

__all__ = [
    "Bucketed",
    "CenterCrop",
    "Concatenation",
    "CorruptionError",
    "Coverage",
    "CutMix",
    "Dataset",
    "DatasetError",
    "Draws",
    "Flip",
    "ManifestError",
    "MixUp",
    "Mixture",
    "RandomResizedCrop",
    "Resize",
    "Sampled",
    "ShardsError",
    "Skipped",
    "StateError",
    "Stats",
    "StoreError",
    "Stream",
    "Transform",
    "concat",
    "mix",
    "open_dataset",
]

__version__ = "0.2.0"

# Imported when they are asked for: each adapter needs a framework.
_MODULES = ("format", "jax", "keras", "mixing", "telemetry", "tf_data", "timm", "torch", "transforms")

add_old_places()


def __getattr__(name: str) -> ModuleType:
    """A public module.

    Raises:
        AttributeError: there is no such name, or the module needs a package that is not installed.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    """The public names and modules."""
    return sorted([*__all__, *_MODULES, "__version__"])
