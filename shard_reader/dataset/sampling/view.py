"""The records of a dataset with another order of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.records import Records
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Generation
from shard_reader.order.record_order import Shuffle
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shards import RemoteShards
from shard_reader.shards.source import Shards

__all__ = ["View", "refuse_views"]


def refuse_views(data: Records, reader: str) -> None:
    """Refuse data whose epochs a reader of single records would not follow.

    Raises:
        ValueError: the data is balanced, weighted, or in buckets.
    """
    if isinstance(data, View):
        raise ValueError(
            f"{data!r}: the epochs of {reader} are those of a sampler, each record once: take a stream of it, as"
            " StreamDataset(data.stream(...)), or the dataset itself"
        )


class View(Records):
    """The records of a dataset, by the same numbers. A subclass has an order of its own."""

    def __init__(self, source: Records) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @property
    def fields(self) -> Mapping[str, Field]:
        """The type of each field of a record."""
        return self._source.fields

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, or None where the inputs had no classes."""
        return self._source.class_names

    @property
    def fingerprint(self) -> str:
        """The identity of the records."""
        return self._source.fingerprint

    @property
    def generation(self) -> int | None:
        """The number of the dataset's generation; None where the records are not of one dataset."""
        return self._source.generation

    def generation_of(self, fingerprint: str) -> Generation | None:
        """The generation of the dataset whose records have a fingerprint; None if no generation has it."""
        return self._source.generation_of(fingerprint)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._source.name

    @property
    def shard_count(self) -> int:
        """The number of shards that hold the records."""
        return self._source.shard_count

    @property
    def remote_shards(self) -> set[RemoteShards]:
        """The shards in stores."""
        return self._source.remote_shards

    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[Shards, NDArray[np.int64], NDArray[np.int64]]]:
        return self._source.shards_of(records)

    @property
    def prefetch_bytes(self) -> int:
        """The bytes of remote records that may be in memory before they are used."""
        return self._source.prefetch_bytes

    def locate(self, records: NDArray[np.int64]) -> Located:
        return self._source.locate(records)

    def close(self) -> None:
        self._source.close()

    def _check_room(self, shuffle: Shuffle, batch_size: int, lanes: int, window: int) -> None:
        self._source._check_room(shuffle, batch_size, lanes, window)

    def _repr_html_(self) -> Any:
        return self._source._repr_html_()
