"""Types and values of Arrow, in which Parquet comes, as those of fields. PyArrow is imported when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from beam_jobs.sources.files.tables.page_bodies import Damaged
from beam_jobs.sources.files.tables.row_files import LARGEST_ROW
from shard_reader.format.fields import Field

__all__ = ["bounded_values", "fixed_field", "is_string", "is_taken", "python_values", "text_columns"]


def is_taken(kind: Any) -> bool:
    """Whether values of an Arrow type can be fields."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return is_taken(kind.value_type)
    if _is_list(kind):
        return not _is_text(kind.value_type) and is_taken(kind.value_type)
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)
    return plain or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or _is_text(kind)


def is_string(kind: Any) -> bool:
    """Whether an Arrow type is that of texts."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def text_columns(schema: Any, columns: Sequence[str]) -> list[str]:
    """The columns of texts."""
    return [name for name in columns if is_string(schema.field(name).type)]


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    """Whether values of an Arrow type become texts."""
    from pyarrow import types

    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind) or types.is_decimal(kind))


def python_values(column: Any) -> list[Any]:
    """The values of a column. Dates and times are ISO 8601."""
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_timestamp(column.type):
        # Arrow stores moments in UTC. Their time zone is dropped: showing it would depend on this machine's database
        # of time zones.
        zone = "Z" if column.type.tz else ""
        texts = column.cast(pa.timestamp(column.type.unit)).cast(pa.string())
        return [text and text.replace(" ", "T") + zone for text in texts.to_pylist()]
    if _is_text(column.type):
        column = compute.cast(column, pa.string())
    values: list[Any] = column.to_pylist()
    return values


def bounded_values(column: Any, name: str) -> Iterable[Any]:
    """The values of a column, of which a few bytes in a file do not fill the memory.

    Raises:
        Damaged: a text is too long.
    """
    from pyarrow import compute, types

    if not types.is_dictionary(column.type) or not is_string(column.type.value_type):
        return python_values(column)
    sizes = compute.binary_length(column.dictionary)
    if (compute.max(sizes).as_py() or 0) > LARGEST_ROW:
        raise Damaged(f'column "{name}" has a text of more than {LARGEST_ROW:,} bytes')
    if (compute.sum(sizes.take(column.indices)).as_py() or 0) > LARGEST_ROW:
        return (value.as_py() for value in column)
    return python_values(column.dictionary_decode())


def fixed_field(kind: Any) -> Field | None:
    """The field for a type of lists of one length; None for other types."""
    from pyarrow import types

    shape: tuple[int, ...] = ()
    while types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    if not shape or not (types.is_integer(kind) or types.is_floating(kind)):
        return None
    return Field(dtype="int64" if types.is_integer(kind) else "float32", shape=shape)
