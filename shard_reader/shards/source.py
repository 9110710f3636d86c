"""Records as a stream needs them, whatever they are: a split, some of its records, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import Field
from shard_reader.order.shuffle import RecordOrder, Shuffle
from shard_reader.remote.stats import Stats
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shards import RemoteShards
from shard_reader.shards.shard import OpenShard

__all__ = ["RecordSource", "Shards"]


class Shards(Protocol):
    """The shards of a split, by number."""

    def open(self, numbers: Sequence[int]) -> list[OpenShard | CorruptionError | OSError]:
        """Shards by number; in place of one that cannot be opened, why.

        Raises:
            StoreError: a store does not answer.
        """

    def __getitem__(self, number: int) -> OpenShard:
        """Shard `number`, opened if it is not open.

        Raises:
            CorruptionError: it, or its index, is missing or is not that of the manifest.
            OSError: it cannot be read.
            StoreError: a store does not answer.
        """

    def close(self) -> None:
        """Drop the shards that are open."""


class RecordSource(Protocol):
    """Records by number, and where they are. A stream needs nothing else of its data."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """The type of each field of a record."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, or None where the inputs had no classes."""

    @property
    def fingerprint(self) -> str:
        """The identity of the records: the same for both formats, another for other inputs, options or choices."""

    @property
    def name(self) -> str:
        """What messages call the records."""

    @property
    def shard_count(self) -> int:
        """How many shards the records are in."""

    @property
    def prefetch_bytes(self) -> int:
        """How many bytes of remote records may be in memory before they are used."""

    @property
    def remote_shards(self) -> set[RemoteShards]:
        """The shards that are read from a store, not from files on this machine."""

    def __len__(self) -> int:
        """The number of records."""

    def locate(self, records: NDArray[np.int64]) -> Located:
        """Where records are, int64 `[n]`.

        Raises:
            IndexError: there is no such record.
        """

    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[Shards, NDArray[np.int64], NDArray[np.int64]]]:
        """The shard of each record, by its number among those of a split, and the record's place among `records`."""

    def image(self, record: int) -> NDArray[Any]:
        """The pixels of one record, `[height, width, channels]`.

        Raises:
            IndexError: there is no such record.
            CorruptionError: they are damaged.
        """

    def record_order(self, shuffle: Shuffle, seed: int, lanes: int, window: int) -> RecordOrder:
        """The order of the records in each epoch."""

    def fetched(self) -> Stats:
        """What this process has fetched of the records, for whatever purpose."""
