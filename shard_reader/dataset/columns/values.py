"""The values of records, as Python's and NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field
from shard_reader.shards.fetch import fetch
from shard_reader.shards.located import Located

__all__ = ["as_python", "column", "flat"]

_BLOCK = 1 << 12  # records whose strings or lists are fetched together


def column(located: Located, name: str, field: Field) -> NDArray[Any]:
    """The values of a field in records at some places.

    Raises:
        CorruptionError: a shard or a value is damaged.
    """
    for shard in located.shards:
        if isinstance(shard, Exception):
            raise shard
    records = len(located.rows)
    if field.in_index:
        empty = np.empty((records, *(size or 0 for size in field.shape)), field.dtype)
        return located.columns({name: field})[name].astype(field.dtype) if records else empty
    values = np.empty(records, object)
    for first in range(0, records, _BLOCK):
        part, _ = fetch(located[first : first + _BLOCK], [name])
        for place in range(len(part.rows)):
            found, row = part.shard(place)
            values[first + place] = found.value(name, row)
    return values


def as_python(value: Any, field: Field) -> Any:
    """One value of a column as a Python int, float, str, bytes or list of str; arrays stay arrays."""
    if isinstance(value, bytes):
        return value if field.dtype == "bytes" else value.decode()
    if isinstance(value, list):
        return [text.decode() for text in value]
    return value.item() if isinstance(value, np.generic) else np.array(value)


def flat(pixels: NDArray[Any], field: Field) -> NDArray[Any]:
    """Pixels `[height, width, channels]`; `[height, width]` of a mask."""
    return pixels[..., 0] if field.is_flat else pixels
