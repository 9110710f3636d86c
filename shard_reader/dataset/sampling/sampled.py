"""Datasets whose epochs have some records several times, and others not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.arguments import as_integer, at_least_one, require
from shard_reader.dataset.records import Records
from shard_reader.dataset.sampling.view import View
from shard_reader.order.coverage import Coverage
from shard_reader.order.record_order import LAST_EPOCH, OrderOptions, RecordOrder
from shard_reader.order.sampling import (
    Balanced,
    SampledOrder,
    Sampling,
    StratifiedOrder,
    Weighted,
    largest_remainders,
)
from shard_reader.printable import printable

__all__ = ["BalancedDataset", "Sampled", "WeightedDataset", "balanced", "repeat_factors", "weighted"]


_MOST = 1 << 48  # positions of an epoch: weights are laid on a grid of 61 bits


class Sampled(View):
    """Records of which an epoch has some several times, and others not at all, with exact counts.

    Record numbers are those of the dataset. An epoch has `epoch_records` positions. Its records follow from the number
    of the epoch alone; the seed of a stream decides their order.
    """

    _kind = "weighted"

    def __init__(self, source: Any, sampling: Sampling) -> None:
        super().__init__(source)
        self._sampling, self._digest = sampling, sampling.digest

    @property
    def fingerprint(self) -> str:
        """The identity of the records and of their epochs."""
        return f"{self._source.fingerprint}/{self._kind}/{self._digest}"

    @property
    def epoch_records(self) -> int:
        """The number of records in an epoch."""
        return self._sampling.records

    def counts(self, epoch: int = 0) -> NDArray[np.int64]:
        """The number of times that each record comes in an epoch, int64 `[len(data)]`."""
        epoch = as_integer("epoch", epoch)
        require(0 <= epoch <= LAST_EPOCH, "epoch", epoch, f"must be from 0 to {LAST_EPOCH}")
        return self._sampling.counts(epoch)

    def coverage(self, epoch: int = 0) -> Coverage:
        """The coverage of an epoch with these counts, to compare that of a stream with."""
        return Coverage.of_counts(self.counts(epoch))

    def record_order(self, options: OrderOptions) -> RecordOrder:
        shards = self._source.shard_records() if options.shuffle == "window" else None
        return SampledOrder(self._sampling, options, shards)


class BalancedDataset(Sampled):
    """Records of which each class has a fixed number in every epoch. Made by `data.balanced`."""

    _sampling: Balanced

    def __init__(self, source: Any, field: str, power: float, epoch_records: int, *, stratified: bool) -> None:
        self._field, self._power, self._stratified = field, power, stratified
        values, classes = np.unique(source.column(field), return_inverse=True)
        sizes = np.bincount(classes)
        counts = largest_remainders(sizes.astype(np.float64) ** power, epoch_records)
        super().__init__(source, Balanced(classes, counts))
        self._kind = "stratified" if stratified else "balanced"
        self._values = values.tolist()
        if not counts.all():
            names = [name for name, count in self.class_counts.items() if not count]
            raise ValueError(
                f"epoch_records={epoch_records}: has no room for {len(names)} of {len(counts)} classes, as"
                f" {printable(repr(names[0]))}: take more, or a lower power"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "source": self._source,
            "field": self._field,
            "power": self._power,
            "epoch_records": self.epoch_records,
            "stratified": self._stratified,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        stratified = ", stratified" if self._stratified else ""
        options = f"{self._field!r}, power={self._power:g}{stratified}"
        return f"Balanced({self._source!r}, {options}, {self.epoch_records} each epoch)"

    @property
    def class_counts(self) -> dict[Any, int]:
        """The number of records of each class in an epoch: by name where labels have names, and by value otherwise.

        Records without a label have -1, which is no class.
        """
        names = (self.class_names if self._field == "label" else None) or ()
        # Not by an index alone: -1 would be the last class.
        known = dict(enumerate(names))
        keys = [known.get(value, _as_text(value)) for value in self._values]
        return dict(zip(keys, self._sampling.class_counts.tolist(), strict=True))

    def record_order(self, options: OrderOptions) -> RecordOrder:
        if not self._stratified:
            return super().record_order(options)
        advice = 'batches with the share of every class are of records from anywhere: take "full"'
        require(options.shuffle == "full", "shuffle", options.shuffle, advice)
        return StratifiedOrder(self._sampling, options)


class WeightedDataset(Sampled):
    """Records of which each comes in proportion to its weight. Made by `data.weighted`."""

    _sampling: Weighted

    def __init__(self, source: Any, ends: NDArray[np.int64], epoch_records: int) -> None:
        super().__init__(source, Weighted(ends, epoch_records))

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self._source, "ends": self._sampling.ends, "epoch_records": self.epoch_records}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Weighted({self._source!r}, {self.epoch_records} each epoch)"


def balanced(
    data: Any, field: str, power: float | None, threshold: float | None, stratified: bool, epoch_records: int | None
) -> Sampled:
    """As `data.balanced`."""
    if field not in data.fields or data.fields[field].is_image:
        names = printable(", ".join(name for name, one in data.fields.items() if not one.is_image))
        raise ValueError(f"balanced: {printable(field)!r} is not one of the fields {names}")
    _check_records(data, "balance")
    dtype, axes = data.fields[field].dtype, len(data.fields[field].shape)
    if dtype in ("float32", "bytes") or axes > 1:
        kind = f"{dtype} with {axes} axes" if axes > 1 else dtype
        raise ValueError(f"balanced: {field!r} is a field of {kind}, which has no classes: take data.weighted")
    if data.fields[field].shape:
        if power is not None or stratified:
            raise ValueError(
                f"balanced: a record has several values of {field!r}, so that epochs follow threshold=, and not"
                " power= or stratified="
            )
        factors = repeat_factors(data, field, 0.001 if threshold is None else threshold)
        return weighted(data, factors, round(float(factors.sum())) if epoch_records is None else epoch_records)
    if threshold is not None:
        raise ValueError(f"threshold={threshold!r}: is for fields with several values; for {field!r} take power=")
    power = 0.0 if power is None else _number("power", power)
    require(0 <= power <= 1, "power", power, "must be from 0 (all classes as often) to 1 (as stored)")
    return BalancedDataset(data, field, power, _epoch_records(data, epoch_records), stratified=stratified)


def weighted(data: Any, weights: Sequence[float] | NDArray[Any], epoch_records: int | None) -> WeightedDataset:
    """As `data.weighted`."""
    _check_records(data, "weigh")
    try:
        values = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"weights={str(weights)[:60]}: must be numbers, one for each record") from None
    if values.shape != (len(data),):
        raise ValueError(f"weights has the shape {values.shape}: must be one for each of the {len(data)} records")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        raise ValueError(f"weights[{wrong[0]}]={values[wrong[0]]!r}: must be 0 or more, and finite")
    if not values.any():
        raise ValueError("weights: must not all be 0")
    records = _epoch_records(data, epoch_records)
    return WeightedDataset(data, Weighted.of(values, records).ends, records)


def repeat_factors(data: Records, field: str, threshold: float) -> NDArray[np.float64]:
    """The repeat factor of each record, float64 `[n]`, from 1 on.

    It is that of the rarest category in the record: `max(1, sqrt(threshold / share))`, where `share` is the part of
    the records that have the category. Records without a category have 1. See Gupta, Dollar and Girshick, 2019,
    "LVIS: A dataset for large vocabulary instance segmentation", section 5.3.
    """
    threshold = _number("threshold", threshold)
    require(0 < threshold <= 1, "threshold", threshold, "must be a part of all records, above 0 and at most 1")
    lists = data.column(field)
    lengths = np.array([len(one) for one in lists], np.int64)
    if not lengths.any():
        return np.ones(len(data))
    records = np.repeat(np.arange(len(data)), lengths)
    _, categories = np.unique(np.concatenate([np.asarray(one) for one in lists if len(one)]), return_inverse=True)
    # A category that a record has twice is in one record.
    pairs = np.unique(np.stack([records, categories]), axis=1)
    shares = np.bincount(pairs[1]) / len(data)
    factors = np.ones(len(data))
    np.maximum.at(factors, pairs[0], np.sqrt(threshold / shares)[pairs[1]])
    return factors


def _check_records(data: Records, verb: str) -> None:
    if len(data) == 0:
        raise ValueError(f"{data.name} has no records to {verb}")


def _epoch_records(data: Records, epoch_records: int | None) -> int:
    number = len(data) if epoch_records is None else at_least_one("epoch_records", epoch_records)
    require(number < _MOST, "epoch_records", number, f"must be below 2**{_MOST.bit_length() - 1}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r}: must be a number") from None
    require(math.isfinite(number), name, value, "must be finite")
    return number


def _as_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
