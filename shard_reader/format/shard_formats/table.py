"""The table of shard formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from shard_reader.format.fields import Field, index_dtype
from shard_reader.format.shard_formats import example, tfrecord
from shard_reader.format.shard_formats.example_rows import example_rows
from shard_reader.format.shard_formats.shard_format import Framing, ShardFormat, ShardWriter

__all__ = ["SHARD_FORMATS"]


class TFRecord(ShardFormat):
    """TFRecord files of `tf.train.Example`s."""

    name, suffix = "tfrecord", ".tfrecord"
    in_tfds = True

    def writer(self, path: Path, fields: Mapping[str, Field]) -> ShardWriter:
        del fields  # an Example names its own
        return _ExampleWriter(path)

    def rows(self, path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
        return example_rows(path, data, fields)

    def value(self, data: NDArray[np.uint8], field: Field) -> Any:
        values = example.values(data, example.Feature(example.KINDS[field.dtype], slice(0, len(data))))
        if field.dtype == "string":
            return [data[span].tobytes() for span in values]  # type: ignore[index]
        return np.array(values, field.dtype).reshape(_shape(field))

    def list_bytes(self, value: Any, field: Field) -> bytes:
        return example.list_message(list(value) if field.dtype == "string" else np.asarray(value, field.dtype))[1]

    def framing(self, data: NDArray[np.uint8]) -> Framing:
        return tfrecord.framing(data)


class HDF5(ShardFormat):
    """HDF5 files, a dataset for each field."""

    name, suffix = "hdf5", ".h5"
    extra, package = "hdf5", "h5py"

    def writer(self, path: Path, fields: Mapping[str, Field]) -> ShardWriter:
        from shard_reader.format.shard_formats import hdf5  # h5py is an extra: reading with an index needs none

        return hdf5.ShardWriter(path, fields)

    def rows(self, path: Path, data: NDArray[np.uint8], fields: Mapping[str, Field]) -> NDArray[np.void]:
        from shard_reader.format.shard_formats import hdf5

        columns = hdf5.read_columns(path, data, fields)
        rows = np.zeros(len(columns["offset"]), index_dtype(fields))
        for name, column in columns.items():
            rows[name] = column
        return rows

    def value(self, data: NDArray[np.uint8], field: Field) -> Any:
        if field.dtype == "string":
            return _texts(data)
        return np.frombuffer(data, np.dtype(field.dtype).newbyteorder("<")).reshape(_shape(field)).copy()

    def list_bytes(self, value: Any, field: Field) -> bytes:
        if field.dtype == "string":
            return json.dumps(list(value), ensure_ascii=False).encode()
        return np.asarray(value, np.dtype(field.dtype).newbyteorder("<")).tobytes()


class _ExampleWriter:
    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115  # closed by close() or abort()

    def append(self, record: Mapping[str, Any]) -> None:
        tfrecord.write_record(self._file, example.encode(record))

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        self._file.close()


def _texts(data: NDArray[np.uint8]) -> list[bytes]:
    """A list of texts, from its JSON."""
    try:
        found = json.loads(data.tobytes() or b"[]")
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("JSON, but not of a list of texts")
    return [text.encode() for text in found]


def _shape(field: Field) -> tuple[int, ...]:
    """The shape of a list, whose length follows from its bytes."""
    return (-1, *(size or 0 for size in field.shape[1:]))


SHARD_FORMATS: Final[Mapping[str, ShardFormat]] = {format.name: format for format in (TFRecord(), HDF5())}
"""Every shard format, by its name. The first is the default."""
