"""Records as a DataFrame of pandas, without their pixels."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import Field
from shard_reader.printable import printable

__all__ = ["data_frame"]

_CLASS = "class"  # the column with the names of labels


class _Columns(Protocol):
    @property
    def fields(self) -> Mapping[str, Field]: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> NDArray[Any]: ...


def data_frame(data: _Columns, fields: Iterable[str] | None) -> Any:
    """A DataFrame of some fields; see `Records.to_pandas`."""
    pandas = _pandas()
    columns: dict[str, Any] = {}
    for name in _chosen(data, fields):
        values = data.column(name)
        columns[name] = _series(pandas, name, values, data)
        if name == "label" and values.ndim == 1 and values.dtype != object and _CLASS not in data.fields:
            columns |= _class_column(pandas, values, data.class_names)
    return pandas.DataFrame(columns, index=pandas.RangeIndex(len(data), name="record"))


def _pandas() -> Any:
    """pandas, imported when the first frame needs it."""
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"to_pandas needs {error.name}: pip install 'image-shards[pandas]'") from error


def _chosen(data: _Columns, fields: Iterable[str] | None) -> list[str]:
    if isinstance(fields, str):
        raise TypeError(f"fields={fields!r}: must be several names, as ({fields!r},)")
    if fields is None:
        return [name for name, field in data.fields.items() if field.in_index or name == "id"]
    chosen = list(dict.fromkeys(fields))
    columns = [name for name, field in data.fields.items() if not field.is_image]
    for name in chosen:
        if name not in columns:
            raise ValueError(f"fields: {name!r} is not a column of {data.name}: {printable(', '.join(columns))}")
    return chosen


def _series(pandas: Any, name: str, values: NDArray[Any], data: _Columns) -> Any:
    """The values of a column: numbers, texts, or one array or list for each record."""
    field = data.fields[name]
    if field.dtype != "string":
        return values if values.ndim == 1 else pandas.Series(list(values), dtype=object)
    try:
        texts = [_decoded(value) for value in values]
    except UnicodeDecodeError as error:
        raise CorruptionError(f"{data.name}: {name!r} has a text that is no UTF-8 ({error.reason})") from error
    return pandas.Series(texts, dtype=object if field.shape else "str")


def _decoded(value: bytes | list[bytes]) -> str | list[str]:
    return value.decode() if isinstance(value, bytes) else [text.decode() for text in value]


def _class_column(pandas: Any, labels: NDArray[np.int64], names: Sequence[str] | None) -> dict[str, Any]:
    """The names of labels; no column where they have none. A label without a name is missing."""
    if not names:
        return {}
    # pandas takes each name once.
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    codes = np.array([*(numbers[name] for name in names), -1])
    is_named = (labels >= 0) & (labels < len(names))
    return {_CLASS: pandas.Categorical.from_codes(codes[np.where(is_named, labels, -1)], categories=list(numbers))}
