"""The fields beside the image, as arrays of a batch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format import Field
from shard_reader.plan import Pending
from shard_reader.shards import OpenShard

__all__ = ["fixed", "ragged"]


def fixed(pending: Pending, name: str, field: Field) -> NDArray[Any]:
    """A field that the index has, `[n, *shape]`, as an array of its own."""
    columns, places = pending.plan.columns, pending.places
    if name not in columns:  # no shard could be opened
        return np.zeros((len(places), *(size or 0 for size in field.shape)), field.dtype)
    return columns[name][places.start : places.stop].astype(field.dtype)


def ragged(pending: Pending, name: str, field: Field, how: Literal["list", "pad"] | int) -> dict[str, NDArray[Any]]:
    """Strings as `bytes`, and lists in the way that `how` says: see `Records.stream`.

    Raises:
        ValueError: a list is longer than it may be.
    """
    values = _values(pending, name, field)
    if field.is_fixed or how == "list":
        return {name: values}
    lengths = np.array([len(value) for value in values], np.int64)
    size = int(lengths.max(initial=0)) if how == "pad" else int(how)
    for number in np.flatnonzero(lengths > size).tolist():
        shard, row = pending.plan.located.shard(pending.places.start + number)
        raise ValueError(f"{shard.describe(row)}: {name!r} has {lengths[number]} elements, ragged={size}")
    rest = tuple(part or 0 for part in field.shape[1:])
    if field.dtype == "string":
        padded = np.full((len(values), size), b"", object)
    else:
        padded = np.zeros((len(values), size, *rest), field.dtype)
    for number, value in enumerate(values):
        padded[number, : len(value)] = value
    return {name: padded, f"{name}/mask": np.arange(size) < lengths[:, np.newaxis]}


def _values(pending: Pending, name: str, field: Field) -> NDArray[Any]:
    """What each record has, objects `[n]`; what cannot be read is noted, and is nothing."""
    located = pending.plan.located
    values = np.empty(len(pending.places), object)
    for number, place in enumerate(pending.places):
        shard = located.shards[located.which[place]]
        values[number] = _nothing(field)
        if isinstance(shard, OpenShard):
            try:
                values[number] = shard.value(name, int(located.rows[place]))
            except CorruptionError as error:
                pending.failures.append((place, error))
    return values


def _nothing(field: Field) -> Any:
    if not field.shape:
        return b""
    return [] if field.dtype == "string" else np.empty((0, *(size or 0 for size in field.shape[1:])), field.dtype)
