"""Datasets in batches each of one image size."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.records import Records
from shard_reader.dataset.sampling.view import View
from shard_reader.format.fields import IMAGE, size_columns
from shard_reader.order.buckets import BucketOrder
from shard_reader.order.record_order import OrderOptions, RecordOrder, Shuffle
from shard_reader.order.shuffle import shuffled
from shard_reader.transforms.standard import CenterCrop

__all__ = ["Bucketed", "bucketed"]

_BLOCK = 1 << 18  # records whose sizes are looked up together


class Bucketed(View):
    """Records in batches each of one image size. Made by `data.buckets`.

    Attributes:
        sizes: the sizes, (height, width) in pixels.
    """

    def __init__(self, source: Any, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__(source)
        self.sizes = tuple(sizes)
        self._buckets = _nearest(source, self.sizes)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self._source, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        counts = np.bincount(self._buckets, minlength=len(self.sizes)).tolist()
        sizes = ", ".join(f"{count} of {size}" for size, count in zip(self.sizes, counts, strict=True))
        return f"Bucketed({self._source!r}, {sizes})"

    @property
    def fingerprint(self) -> str:
        """The identity of the records and of their sizes in batches."""
        text = " ".join(f"{height}x{width}" for height, width in self.sizes)
        return f"{self._source.fingerprint}/buckets/{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def bucket_sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes."""
        return self.sizes

    def buckets_of(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the size of each record, int64 `[n]`."""
        self._check_numbers(records)
        return self._buckets[records].astype(np.int64)

    def record_order(self, options: OrderOptions) -> RecordOrder:
        members = [np.flatnonzero(self._buckets == number) for number in range(len(self.sizes))]
        orders = [
            shuffled(len(numbers), options, partial(self._shard_records, numbers), by_mean=True) for numbers in members
        ]
        return BucketOrder(orders, members, options)

    def _check_room(self, shuffle: Shuffle, batch_size: int, lanes: int, window: int) -> None:
        # Each size has windows of its own, or places of its own in the stored order. Where shards have all sizes, the
        # windows lie in nearly the same ones: three more for each lane were enough for shards of 400 records.
        count = len(self.sizes)
        self._source._check_room(shuffle, batch_size * count, lanes, min(count * (window + 1), window + 4) - 1)

    def _shard_records(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of records of a bucket in each shard, int64 `[shard_count]`."""
        ends = np.searchsorted(members, np.cumsum(self._source.shard_records()))
        return np.diff(ends, prepend=0)


def bucketed(data: Records, sizes: Any) -> Bucketed:
    """As `data.buckets`."""
    if not isinstance(sizes, list | tuple):
        raise TypeError(f"sizes={sizes!r}: must be several, as [(224, 320), (224, 224), (320, 224)]")
    shapes = [CenterCrop(size).shape for size in sizes]  # which checks it
    if not shapes:
        raise ValueError("sizes=[]: pass a size")
    for one, other in itertools.combinations(shapes, 2):
        if one[0] * other[1] == one[1] * other[0]:
            raise ValueError(
                f"sizes={list(sizes)!r}: {one} and {other} have the same aspect ratio, by which records are divided:"
                " leave one out"
            )
    if IMAGE not in data.fields:
        raise ValueError(f"{data.name} has no field {IMAGE!r}")
    return Bucketed(data, shapes)


def _nearest(data: Records, sizes: Sequence[tuple[int, int]]) -> NDArray[np.uint16]:
    """The number of the size with the nearest aspect ratio, by its logarithm, for each record, uint16 `[n]`."""
    wanted = np.log([width / height for height, width in sizes])
    fields = {name: data.fields[name] for name in size_columns(IMAGE)}
    found = np.empty(len(data), np.uint16)
    for start in range(0, len(data), _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, len(data)))
        height, width = data.locate(numbers).columns(fields).values()
        ratios = np.log(np.maximum(width, 1).astype(np.float64) / np.maximum(height, 1))
        found[numbers] = np.abs(ratios[:, np.newaxis] - wanted).argmin(axis=1)
    return found
