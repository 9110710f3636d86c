"""The places of classes in pickles made before November 2026, when this package had no subpackages.

A checkpoint may hold a pickled stream, dataset or `StreamDataset`. pickle looks for each class in its former module,
and finds it by the table here. The `__setstate__` of a stream and of a dataset translate their former attributes.
Nothing else should import by the names on the left.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["Attributes", "add_old_places"]

_PLACES = {
    "chain.Chain": "transforms.compose.ComposedTransform",
    "chain._Function": "transforms.compose._Function",
    "coverage.Coverage": "order.coverage.Coverage",
    "elements.Elements": "adapters.elements.Elements",
    "mixture.Mixture": "dataset.mixture.Mixture",
    "order.Order": "order.batches.BatchOrder",
    "pixels.Pixels": "old_pickles.Attributes",
    "read_options.ReadOptions": "stream.arrays.options.ReadOptions",
    "reading.Reader": "old_pickles.Attributes",
    "reading.Skipped": "stream.batch_reader.Skipped",
    "reading.Spec": "stream.arrays.batch_arrays.Spec",
    "remote_shards.RemoteShards": "shards.remote_shards.RemoteShards",
    "shards.OpenShards": "shards.local_shards.LocalShards",
    "shuffle.FullShuffle": "order.shuffle.FullShuffle",
    "shuffle.Mixed": "order.shuffle.MixedOrder",
    "shuffle.Stored": "order.shuffle.StoredOrder",
    "shuffle.WindowShuffle": "order.shuffle.WindowShuffle",
    "stats.Counters": "system.stats.Counters",
    "store.Store": "remote.client.StoreClient",
    "torch_workers.WorkerLoops": "adapters.torch_workers.WorkerLoops",
}


class Attributes:
    """The attributes of an object that streams no longer hold, for the stream to take its own from."""


def add_old_places() -> None:
    """Have pickle find the classes. Call it when all packages are loaded."""
    for name in sorted({place.partition(".")[0] for place in _PLACES}):
        module_name = f"{__package__}.{name}"
        # `order` and `shards` are packages now: `setdefault` keeps them, and their own attributes come first. Classes
        # are looked up only when pickle asks, so that no import makes a circle.
        module = sys.modules.setdefault(module_name, ModuleType(module_name, __doc__))
        setattr(module, "__getattr__", functools.partial(_class, name))  # noqa: B010


def _class(module: str, name: str) -> Any:
    """The class that had a name in a module."""
    place = _PLACES.get(f"{module}.{name}")
    if place is None:
        raise AttributeError(f"module {__package__}.{module} has no attribute {name!r}")
    home, _, name = place.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{home}"), name)
