"""Several datasets as one, each with its part of every batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from shard_reader.arguments import at_least_one
from shard_reader.dataset.records import Records
from shard_reader.dataset.several import Several
from shard_reader.format.fields import IMAGE
from shard_reader.order.record_order import OrderOptions, RecordOrder
from shard_reader.order.shuffle import MixedOrder

__all__ = ["Mixture", "mix"]

_BLOCK = 1000  # positions in which each source has its exact part


class Mixture(Several):
    """Records of several sources in fixed proportions. Made by `mix`.

    Record numbers go through the sources one after the other. A stream has `len(mixture)` positions an epoch, unless
    `epoch_records` says otherwise. Each source has its exact part of every 1,000 positions, at random places. A source
    that is exhausted begins again, in the order of its next epoch, and continues in the next epoch of the mixture.
    """

    # Exact parts, and sources that continue where they stopped, keep the order arithmetic: the record at any position
    # of any epoch follows from a few integers, without the draws before it.

    def __init__(self, sources: Sequence[Records], counts: Sequence[int], epoch_records: int) -> None:
        super().__init__(sources)
        self._counts, self._epoch_records = tuple(counts), epoch_records

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_sources", "_counts", "_epoch_records")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_sources"], state["_counts"], state["_epoch_records"])  # type: ignore[misc]

    def __repr__(self) -> str:
        parts = (f"{count / _BLOCK:.1%} {source!r}" for count, source in zip(self._counts, self._sources, strict=True))
        return f"Mixture({', '.join(parts)})"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names, if its sources all have the same."""
        names = [source.class_names for source in self._sources]
        return names[0] if "label" in self._fields and names.count(names[0]) == len(names) else None

    @property
    def fingerprint(self) -> str:
        """The identity of the records."""
        text = "\n".join(source.fingerprint for source in self._sources)
        return f"mixture/{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"a mixture of {', '.join(source.name for source in self._sources)}"

    def record_order(self, options: OrderOptions) -> RecordOrder:
        sources = [source.record_order(options) for source in self._sources]
        sizes = [len(source) for source in self._sources]
        return MixedOrder(sources, self._counts, sizes, records=self._epoch_records, seed=options.seed)


def mix(sources: Sequence[Records], weights: Sequence[float], *, epoch_records: int | None = None) -> Mixture:
    """Mix datasets, so that each has its part of every batch.

    Args:
        sources: datasets from `open_dataset`, `select`, `where` or `mix`.
        weights: the part of each source, relative to the others; rounded to thousandths of the whole.
        epoch_records: number of records in an epoch; by default that of all sources together.

    Raises:
        ValueError: a weight is too small, a source has no records, or images or class names of the sources differ.
        TypeError: a source is not a dataset.

    Examples:
        >>> both = mix([photos, drawings], weights=[0.8, 0.2])  # doctest: +SKIP
        >>> stream = both.stream(batch_size=256, image=CenterCrop(224))  # doctest: +SKIP
    """
    sources, weights = list(sources), [float(weight) for weight in weights]
    if not sources or len(weights) != len(sources):
        raise ValueError(f"weights={weights!r}: must be one for each of the {len(sources)} sources")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights={weights!r}: must be above 0")
    for source in sources:
        if not isinstance(source, Records):
            raise TypeError(f"{source!r} is no dataset: pass the result of open_dataset")
        if source.bucket_sizes is not None:
            raise ValueError(f"{source!r}: batches of one image size cannot be mixed: mix the datasets without buckets")
        if len(source) == 0:
            raise ValueError(f"{source.name} has no records to mix")
    counts = _parts(weights)
    if 0 in counts:
        raise ValueError(f"weights={weights!r}: one of them is below a thousandth of the whole: leave its source out")
    every = sum(len(source) for source in sources)
    length = every if epoch_records is None else at_least_one("epoch_records", epoch_records)
    mixture = Mixture(sources, counts, length)
    _check_together(mixture, sources)
    return mixture


def _check_together(mixture: Mixture, sources: Sequence[Records]) -> None:
    if IMAGE not in mixture.fields:
        raise ValueError(f"{mixture.name}: their images differ in type or channels, and do not fit into one batch")
    names = {source.class_names for source in sources if source.class_names is not None}
    if "label" in mixture.fields and len(names) > 1:
        raise ValueError(
            f"{mixture.name}: their class names differ, and so do their labels: prepare them with --classes"
        )


def _parts(weights: Sequence[float]) -> list[int]:
    """Whole parts of a block, which sum to the block, by the method of largest remainders."""
    exact = [weight / sum(weights) * _BLOCK for weight in weights]
    parts = [int(part) for part in exact]
    by_rest = sorted(range(len(parts)), key=lambda number: (parts[number] - exact[number], number))
    for number in by_rest[: _BLOCK - sum(parts)]:
        parts[number] += 1
    return parts
