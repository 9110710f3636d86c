"""Records in stored order: the shuffles that all datasets have, and balance, weights and buckets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.records import Records
from shard_reader.dataset.sampling.bucketed import Bucketed, bucketed
from shard_reader.dataset.sampling.sampled import Sampled, WeightedDataset, balanced, weighted
from shard_reader.order.record_order import OrderOptions, RecordOrder
from shard_reader.order.shuffle import shuffled

__all__ = ["StoredRecords"]


class StoredRecords(Records):
    """Records with numbers in the order in which shards store them."""

    @abstractmethod
    def shard_records(self) -> NDArray[np.int64]:
        """The number of records of each shard, in order, int64 `[shard_count]`.

        Raises:
            ValueError: the records are not in stored order.
        """

    def record_order(self, options: OrderOptions) -> RecordOrder:
        return shuffled(len(self), options, self.shard_records)

    def balanced(
        self,
        field: str = "label",
        *,
        power: float | None = None,
        threshold: float | None = None,
        stratified: bool = False,
        epoch_records: int | None = None,
    ) -> Sampled:
        """The records in epochs in which rare classes come more often, with exact counts.

        Of a field with one value for each record, a class has `n ** power` parts of every epoch, where n is the number
        of its records (Kang and others, 2020, "Decoupling representation and classifier for long-tailed recognition",
        section 3), rounded by largest remainders. Every epoch has the same counts, for any number of ranks, any
        batch size, and after a resume. A class goes through all of its records before one comes again, also over
        epochs.

        Of a field with several values for each record, as `objects/label`, a record comes as often as its repeat factor
        says, rounded down or up, on average exactly: `sqrt(threshold / share)` of its rarest category, and at least 1
        (LVIS; Gupta and others, 2019). An epoch then has as many records as the sum of the factors.

        Args:
            field: the field of the classes: integers, strings, or lists of either.
            power: 0, the default, for as many records of every class; 0.5 for the square roots; 1 for all records
                once.
            threshold: for lists, the share of records from which on a category is not rare; by default 0.001.
            stratified: give each batch the share of every class, within one record. Needs `shuffle="full"`.
            epoch_records: the number of records in an epoch; by default that of the dataset.

        Raises:
            ValueError: there is no such field, a value is out of range, or a class gets no record.
            TypeError: a value is not a number.

        Examples:
            >>> data.balanced("label", power=0.5).stream(batch_size=256)  # doctest: +SKIP
        """
        return balanced(self, field, power, threshold, stratified, epoch_records)

    def weighted(self, weights: Sequence[float] | NDArray[Any], *, epoch_records: int | None = None) -> WeightedDataset:
        """The records in epochs in which each comes in proportion to its weight.

        In an epoch a record comes `epoch_records * weight / sum(weights)` times, rounded down or up, and over many
        epochs on average exactly. A record of weight 0 never comes.

        Args:
            weights: the weight of each record, `[len(data)]`.
            epoch_records: the number of records in an epoch; by default that of the dataset.

        Raises:
            ValueError: weights are not one for each record, or one is below 0 or not finite, or all are 0.
            TypeError: a value is not a number.

        Examples:
            >>> data.weighted(1 / data.column("difficulty")).stream(batch_size=256)  # doctest: +SKIP
        """
        return weighted(self, weights, epoch_records)

    def buckets(self, sizes: Sequence[tuple[int, int] | int]) -> Bucketed:
        """The records in batches each of one image size: that whose aspect ratio is nearest to the record's.

        In a stream, `image` is then a function from a size, `(height, width)`, to transforms, as the class
        `RandomResizedCrop` itself is. The batches of all sizes come in random order. The last batch of each size is
        padded with records of weight 0, or dropped.

        Args:
            sizes: the sizes of images, (height, width) or the side of a square, in pixels.

        Raises:
            ValueError: there is no size, a size is out of range, or two sizes have the same aspect ratio.
            TypeError: a size is neither.

        Examples:
            >>> wide = data.buckets([(224, 320), (224, 224), (320, 224)])  # doctest: +SKIP
            >>> stream = wide.stream(batch_size=64, image=RandomResizedCrop)  # doctest: +SKIP
        """
        return bucketed(self, sizes)
