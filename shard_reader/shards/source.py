"""The records of a stream: a split, some of its records, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import IMAGE, Field
from shard_reader.format.manifest import Generation
from shard_reader.order.record_order import OrderOptions, RecordOrder
from shard_reader.shards.located import Located
from shard_reader.shards.remote_shards import RemoteShards
from shard_reader.shards.shard import OpenShard
from shard_reader.system.stats import Stats

__all__ = ["RecordSource", "Shards"]


class Shards(Protocol):
    """The shards of a split, by number."""

    def locate(self, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> Located:
        """The places of records by the numbers of their shards, int64 `[n]`, and their rows.

        Where a shard cannot be opened, or the rows of the index are damaged, the error is in place of the shard.

        Raises:
            StoreError: a store does not answer.
        """

    def record(self, number: int, row: int) -> OpenShard:
        """The shard of a record, by its number, opened if it is not open.

        Raises:
            CorruptionError: the shard or its index is missing, or does not match the manifest; the row is damaged.
            OSError: the shard cannot be read.
            StoreError: a store does not answer.
        """

    def close(self) -> None:
        """Drop the shards that are open."""


class RecordSource(Protocol):
    """Records by number, and their places. A stream needs nothing else of its data."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """The type of each field of a record."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, or None where the inputs had no classes."""

    @property
    def fingerprint(self) -> str:
        """The identity of the records: the same for both formats, another for other inputs, options or subsets."""

    @property
    def generation(self) -> int | None:
        """The number of the dataset's generation; None where the records are not of one dataset."""

    def generation_of(self, fingerprint: str) -> Generation | None:
        """The generation of this dataset whose records have a fingerprint; None if no generation has it."""

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...] | None:
        """The image sizes, (height, width) in pixels, of which each batch has one; None where all are the same."""

    def buckets_of(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the image size of each record, int64 `[n]`."""

    @property
    def name(self) -> str:
        """The name of the records in messages."""

    @property
    def shard_count(self) -> int:
        """The number of shards that hold the records."""

    @property
    def prefetch_bytes(self) -> int:
        """The bytes of remote records that may be in memory before they are used."""

    @property
    def remote_shards(self) -> set[RemoteShards]:
        """The shards in stores."""

    def __len__(self) -> int:
        """The number of records."""

    def locate(self, records: NDArray[np.int64]) -> Located:
        """The places of records, int64 `[n]`.

        Raises:
            IndexError: there is no such record.
        """

    def shards_of(self, records: NDArray[np.int64]) -> list[tuple[Shards, NDArray[np.int64], NDArray[np.int64]]]:
        """The shard of each record, by its number among those of a split, and the record's place among `records`."""

    def image(self, record: int, field: str = IMAGE) -> NDArray[Any]:
        """The pixels of one record, `[height, width, channels]`, or `[height, width]` of a mask.

        Raises:
            IndexError: there is no such record.
            CorruptionError: the image is damaged.
        """

    def record_order(self, options: OrderOptions) -> RecordOrder:
        """The order of the records in each epoch."""

    def fetched(self) -> Stats:
        """The requests and bytes of this process for these records."""
