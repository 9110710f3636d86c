"""Fields of a batch that are no images: numbers of the index, strings, bytes and lists."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import Field
from shard_reader.shards.shard import OpenShard
from shard_reader.stream.arrays.lookup import PendingBatch

__all__ = ["Ragged", "as_batch", "fixed", "values"]

Ragged = Literal["list", "pad"] | int


def fixed(pending: PendingBatch, name: str, field: Field) -> NDArray[Any]:
    """A field of the index, `[n, *shape]`, as an array of its own."""
    columns, places = pending.lookup.columns, pending.places
    # Without an open shard there is no column: zeros stand in, and `fail_where_closed` reports the records.
    if name not in columns:
        return np.zeros((len(places), *(size or 0 for size in field.shape)), field.dtype)
    return columns[name][places.start : places.stop].astype(field.dtype)


def values(pending: PendingBatch, name: str, field: Field) -> NDArray[Any]:
    """The value of each record, objects `[n]`. A damaged value is noted, and is empty."""
    located = pending.lookup.located
    found = np.empty(len(pending.places), object)
    for number, place in enumerate(pending.places):
        shard = located.shards[located.which[place]]
        found[number] = _nothing(field)
        if isinstance(shard, OpenShard):
            try:
                found[number] = shard.value(name, int(located.rows[place]))
            except CorruptionError as error:
                pending.failures.append((place, error))
    return found


def as_batch(
    pending: PendingBatch, name: str, field: Field, values: NDArray[Any], ragged: Ragged
) -> dict[str, NDArray[Any]]:
    """Strings as `bytes`, and lists as `ragged` says: see the option of `Records.stream`.

    Raises:
        ValueError: a list is longer than `ragged` allows.
    """
    if field.is_fixed or ragged == "list":
        return {name: values}
    lengths = np.array([len(value) for value in values], np.int64)
    size = int(lengths.max(initial=0)) if ragged == "pad" else int(ragged)
    for number in np.flatnonzero(lengths > size).tolist():
        shard, row = pending.lookup.located.shard(pending.places.start + number)
        raise ValueError(f"{shard.describe(row)}: {name!r} has {lengths[number]} elements, ragged={size}")
    rest = tuple(part or 0 for part in field.shape[1:])
    if field.dtype == "string":
        padded = np.full((len(values), size), b"", object)
    else:
        padded = np.zeros((len(values), size, *rest), field.dtype)
    for number, value in enumerate(values):
        padded[number, : len(value)] = value
    return {name: padded, f"{name}/mask": np.arange(size) < lengths[:, np.newaxis]}


def _nothing(field: Field) -> Any:
    if not field.shape:
        return b""
    return [] if field.dtype == "string" else np.empty((0, *(size or 0 for size in field.shape[1:])), field.dtype)
