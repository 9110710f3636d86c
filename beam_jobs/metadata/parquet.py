"""`metadata.parquet`: a row for each record with all of its fields but the image.

Each shard gives a part, made beside it from its file and its index. The parts are joined when all shards are finished.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ipc

from shard_reader.format.fields import Field, extent_columns
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.system.memory_map import map_file

__all__ = [
    "NUMBER",
    "PART_NAME",
    "added_columns",
    "batches_of",
    "change_rows",
    "each_column",
    "errors_of_writing",
    "join_parts",
    "join_tables",
    "keep_rows",
    "row_count",
    "write_changes",
    "write_part",
]

PART_NAME: Final = "metadata.arrow"
"""The name of the rows of one shard."""

NUMBER: Final = "#"
"""The column of `write_changes` with the numbers of records, in place of a field's name."""
_ROWS: Final = 1 << 16  # of a row group, and in memory
_WRITTEN: Final = ipc.IpcWriteOptions(compression="lz4")
_READ: Final = ipc.IpcReadOptions(use_threads=False)  # threads take longer to begin than to read a part
_TYPES: Final = {"int64": pa.int64(), "float32": pa.float32(), "string": pa.string()}


def write_part(path: Path, shard: Path, format: str, rows: NDArray[np.void], fields: Mapping[str, Field]) -> None:
    """Write the rows of one shard, as a file of Arrow, which is opened faster than one of Parquet.

    Args:
        path: the new file.
        shard: the shard's file.
        format: the format of that file.
        rows: the index of that file.
        fields: the fields of its records.
    """
    data, schema = map_file(shard), _schema(fields)
    with (
        errors_of_writing(path),
        pa.OSFile(str(path), "wb") as file,
        ipc.new_file(file, schema, options=_WRITTEN) as writer,
    ):
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS]
            columns = [_column(name, fields[name], format, data, block) for name in schema.names]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def join_parts(
    path: Path, parts: Iterable[tuple[str, bytes]], fields: Mapping[str, Field], class_names: Sequence[str] | None
) -> None:
    """Write one file of all parts, each with the split of its rows, and with the names of their labels."""
    names = None if class_names is None else _texts([name.encode() for name in class_names])
    joined = _joined_schema(fields, names is not None)
    with errors_of_writing(path), pq.ParquetWriter(path, joined) as writer:
        waiting, splits, held = list[pa.RecordBatch](), list[tuple[str, int]](), 0
        for split, part in parts:
            for batch in batches_of(part):
                waiting.append(batch)
                splits.append((split, len(batch)))
                held += len(batch)
                if held >= _ROWS:
                    writer.write_table(_joined(waiting, splits, joined, fields, names), _ROWS)
                    waiting, splits, held = [], [], 0
        if waiting:
            writer.write_table(_joined(waiting, splits, joined, fields, names), _ROWS)


def each_column(tables: Iterable[BinaryIO], split: str, name: str) -> Iterator[tuple[str, pa.Array]]:
    """The values of a column of several tables, in blocks of one split each, in order.

    Args:
        tables: the open files.
        split: the name of the column with the splits.
        name: the name of the column.
    """
    for table in tables:
        with table, pq.ParquetFile(table) as file:
            for batch in file.iter_batches(_ROWS, columns=[split, name], use_threads=False):
                for one, start, end in _runs(batch.column(split)):
                    yield one, batch.column(name).slice(start, end - start)


def row_count(table: BinaryIO) -> int:
    """The number of rows of an open file, which is closed."""
    with table, pq.ParquetFile(table) as file:
        return int(file.metadata.num_rows)


def keep_rows(
    path: Path,
    tables: Iterable[BinaryIO],
    split: str,
    keep: Callable[[str, NDArray[np.int64]], NDArray[np.bool_]],
) -> None:
    """Write one table of some rows of several, in order.

    Args:
        path: the new file.
        tables: the open files, of the same columns.
        split: the name of the column with the splits.
        keep: from a split, and the numbers of rows among those of the split, int64 `[n]`, to a mask of the rows.
    """
    firsts, writer = Counter[str](), None
    with errors_of_writing(path), contextlib.ExitStack() as stack:
        for table in tables:
            with table, pq.ParquetFile(table) as file:
                writer = writer or stack.enter_context(pq.ParquetWriter(path, file.schema_arrow))
                for batch in file.iter_batches(_ROWS, use_threads=False):
                    masks = []
                    for one, start, end in _runs(batch.column(split)):
                        masks.append(keep(one, firsts[one] + np.arange(end - start)))
                        firsts[one] += end - start
                    kept = batch.filter(pa.array(np.concatenate([np.empty(0, bool), *masks])))
                    writer.write_table(pa.Table.from_batches([kept]), _ROWS)


def write_changes(
    path: Path, numbers: NDArray[np.int64], values: Mapping[str, Any], fields: Mapping[str, Field]
) -> None:
    """Write the new values of some records, for `change_rows`.

    Args:
        path: the new file.
        numbers: the numbers of the records among those of the split that count, rising, int64 `[n]`.
        values: the values of some fields, `[n]` each, as `Dataset.column` gives them.
        fields: the fields.
    """
    columns = {NUMBER: pa.array(numbers.tolist(), pa.int64())}
    columns |= {name: _values(found, fields[name]) for name, found in values.items()}
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with (
        errors_of_writing(path),
        pa.OSFile(str(path), "wb") as file,
        ipc.new_file(file, batch.schema, options=_WRITTEN) as writer,
    ):
        writer.write_batch(batch)


def change_rows(
    path: Path,
    tables: Iterable[BinaryIO],
    split: str,
    fields: Mapping[str, Field],
    class_names: Sequence[str] | None,
    changes: Mapping[str, Callable[[int, int], pa.Table | None]],
) -> None:
    """Write one table of all rows of several, in order, with new values of some records.

    Args:
        path: the new file.
        tables: the open files, of the same columns.
        split: the name of their column with the splits.
        fields: the fields of the records, also new ones, of which each record has a value in `changes`.
        class_names: the names of labels.
        changes: for each split the rows of `write_changes` of the records from a number to another.
    """
    names = None if class_names is None else _texts([name.encode() for name in class_names])
    schema, added, firsts = (
        _joined_schema(fields, names is not None),
        added_columns(fields, names is not None),
        Counter[str](),
    )
    new_split = added.pop("split")
    with errors_of_writing(path), pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            with table, pq.ParquetFile(table) as file:
                for batch in file.iter_batches(_ROWS, use_threads=False):
                    for one, start, end in _runs(batch.column(split)):
                        rows, first = batch.slice(start, end - start), firsts[one]
                        firsts[one] += len(rows)
                        found = changes[one](first, first + len(rows)) if one in changes else None
                        columns = {name: _changed(rows, name, found, first) for name in fields if name in schema.names}
                        columns[new_split] = rows.column(split)
                        columns |= {name: _named(columns[field], names) for field, name in added.items()}
                        arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
                        writer.write_table(pa.table(arrays, schema=schema), _ROWS)


def join_tables(
    path: Path,
    datasets: Iterable[tuple[Iterable[BinaryIO], str, Callable[[str, Sequence[Any]], Sequence[Any]] | None]],
    fields: Mapping[str, Field],
    class_names: Sequence[str] | None,
) -> None:
    """Write one table of all rows of several datasets, in order.

    Args:
        path: the new file.
        datasets: of each the open files, the name of their column with the splits, and a function from a field and its
            values to new values; None where all values stay.
        fields: the fields of the records.
        class_names: the names of labels.
    """
    names = None if class_names is None else _texts([name.encode() for name in class_names])
    schema, added = _joined_schema(fields, names is not None), added_columns(fields, names is not None)
    new_split = added.pop("split")
    with errors_of_writing(path), pq.ParquetWriter(path, schema) as writer:
        for tables, split, change in datasets:
            for table in tables:
                with table, pq.ParquetFile(table) as file:
                    for batch in file.iter_batches(_ROWS, use_threads=False):
                        columns = {name: batch.column(name) for name in fields if name in schema.names}
                        for name in added:
                            if change is not None:
                                columns[name] = pa.array(change(name, columns[name].to_pylist()), columns[name].type)
                        columns |= {name: _named(columns[field], names) for field, name in added.items()}
                        columns[new_split] = batch.column(split)
                        arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
                        writer.write_table(pa.table(arrays, schema=schema), _ROWS)


def _changed(rows: pa.RecordBatch, name: str, changes: pa.Table | None, first: int) -> pa.Array:
    """A column of some rows with new values, where there are any."""
    if changes is None or name not in changes.schema.names:
        return rows.column(name)
    new = changes.column(name).combine_chunks()
    new = new.chunk(0) if isinstance(new, pa.ChunkedArray) else new
    if name not in rows.schema.names:
        return new
    places = np.arange(len(rows))
    places[changes.column(NUMBER).to_numpy() - first] = len(rows) + np.arange(len(changes))
    return pa.concat_arrays([rows.column(name), new.cast(rows.schema.field(name).type)]).take(pa.array(places))


def _runs(splits: pa.Array) -> Iterator[tuple[str, int, int]]:
    """The runs of equal texts in a column: each text, its first row, and the row after the last."""
    values = np.array(splits.to_pylist(), object)
    starts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()] if len(values) else []
    for start, end in zip(starts, [*starts[1:], len(values)], strict=True):
        yield str(values[start]), start, end


@contextlib.contextmanager
def errors_of_writing(path: Path) -> Iterator[None]:
    """Give the errors of Arrow about a full or broken disk the words of the system, and the name of the file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def added_columns(fields: Mapping[str, Field], has_names: bool) -> dict[str, str]:
    """The names of the columns beside the fields: that of the split as `split`, and those of label names by field.

    A field of the inputs keeps its name: the column of that name then has a `_` at its end.
    """
    labels = [name for name in ("label", "objects/label") if name in fields and fields[name].dtype == "int64"]
    added = {"split": "split"} | {name: f"{name}_name" for name in (labels if has_names else [])}
    return {key: _free(name, fields) for key, name in added.items()}


def _free(name: str, fields: Mapping[str, Field]) -> str:
    return name if name not in fields else _free(f"{name}_", fields)


def _schema(fields: Mapping[str, Field]) -> pa.Schema:
    # The id first, as people look for it; an index of other programs' records may have none.
    names = sorted((name for name, field in fields.items() if not field.is_payload), key=lambda name: name != "id")
    return pa.schema([pa.field(name, _type(fields[name])) for name in names])


def _joined_schema(fields: Mapping[str, Field], has_names: bool) -> pa.Schema:
    schema, added = _schema(fields), added_columns(fields, has_names)
    split = added.pop("split")
    schema = schema.insert(1 if "id" in fields else 0, pa.field(split, pa.string()))
    for field, name in added.items():
        is_list = pa.types.is_list(schema.field(field).type)
        schema = schema.append(pa.field(name, pa.list_(pa.string()) if is_list else pa.string()))
    return schema


def _type(field: Field) -> pa.DataType:
    kind = _TYPES[field.dtype]
    for _ in field.shape:
        kind = pa.list_(kind)
    return kind


def _column(name: str, field: Field, format: str, data: NDArray[np.uint8], rows: NDArray[np.void]) -> pa.Array:
    if field.in_index or name in ("height", "width"):
        return pa.array(rows[name].tolist(), _type(field)) if field.shape else _numbers(rows[name], field)
    start, length, _ = extent_columns(name)
    spans = zip(rows[start].tolist(), rows[length].tolist(), strict=True)
    payloads = (data[first : first + size] for first, size in spans)
    if not field.shape:
        return _texts([payload.tobytes() for payload in payloads])
    return pa.array([_list(SHARD_FORMATS[format].value(payload, field)) for payload in payloads], _type(field))


def _values(values: Any, field: Field) -> pa.Array:
    """The values of a field of several records, as `Dataset.column` gives them."""
    if field.in_index:
        return pa.array(values.tolist(), _type(field)) if field.shape else _numbers(values, field)
    return pa.array([_list(value) for value in values], _type(field)) if field.shape else _texts(list(values))


# Not `pa.array`, which imports pandas where it is installed: half a second in each process.
def _numbers(values: NDArray[Any], field: Field) -> pa.Array:
    data = np.ascontiguousarray(values, np.dtype(field.dtype).newbyteorder("="))
    return pa.Array.from_buffers(_type(field), len(data), [None, pa.py_buffer(data)])


def _texts(texts: Sequence[bytes]) -> pa.Array:
    """Texts in UTF-8.

    Raises:
        ArrowInvalid: one is not UTF-8.
    """
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.large_binary(), len(texts), buffers).cast(pa.string())


def _list(value: Any) -> list[Any]:
    """A list of numbers, or of texts in UTF-8."""
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return [text.decode() for text in value]


def batches_of(part: bytes) -> Iterator[pa.RecordBatch]:
    """The batches of a file of Arrow."""
    with ipc.open_file(part, options=_READ) as file:
        yield from map(file.get_batch, range(file.num_record_batches))


def _joined(
    batches: Sequence[pa.RecordBatch],
    splits: Sequence[tuple[str, int]],
    schema: pa.Schema,
    fields: Mapping[str, Field],
    names: pa.Array | None,
) -> pa.Table:
    """The rows of several batches, with the columns that no part has. A part may have few rows, of very many parts."""
    table = pa.Table.from_batches(batches).combine_chunks()
    columns = {name: table.column(name) for name in table.schema.names}
    added = added_columns(fields, names is not None)
    columns[added.pop("split")] = _texts([split.encode() for split, rows in splits for _ in range(rows)])
    for field, name in added.items():
        columns[name] = pa.chunked_array([_named(chunk, names) for chunk in columns[field].chunks])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _named(labels: pa.Array, names: pa.Array) -> pa.Array:
    """The name of each label. A number without a name, which only an edited dataset has, has null."""
    from pyarrow import compute  # for the join alone: no worker needs it

    if not pa.types.is_list(labels.type):
        is_known = compute.and_(compute.greater_equal(labels, 0), compute.less(labels, len(names)))
        return names.take(compute.if_else(is_known, labels, pa.scalar(None, labels.type)))
    return pa.ListArray.from_arrays(labels.offsets, _named(labels.values, names))
