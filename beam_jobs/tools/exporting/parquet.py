"""Parquet files as the Hugging Face Hub lays them out and shows them: data/SPLIT-00000-of-00005.parquet.

`image` and each further image is a struct of bytes and a path, `label` the number of a class, whose names are in the
schema. Objects are one struct of lists, `objects`: `bbox` has x, y, width and height in pixels, `category` the numbers
of classes, `point` has x and y in pixels, `keypoints` x, y and their visibility. Other bytes are binary.

Source: the features of `datasets`, as its `Features.to_dict` writes them into the metadata "huggingface" of a schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from beam_jobs.tools.exporting.records import (
    BOXES,
    KEYPOINTS,
    OBJECT_LABELS,
    POINTS,
    ExportedRecord,
    Exporter,
    file_name,
)
from shard_reader.format.fields import IMAGE, Field

__all__ = ["finish", "write"]

_GROUP_ROWS: Final = 100  # as the Hub advises for images: a viewer reads whole row groups
_GROUP_BYTES: Final = 1 << 27
_OBJECTS: Final = "objects/"
_CHILDREN: Final = {BOXES: "bbox", POINTS: "point", KEYPOINTS: "keypoints", OBJECT_LABELS: "category"}
_TYPES: Final = {"int64": "int64", "float32": "float32", "string": "string"}


def write(exporter: Exporter, numbers: range, root: Path, split: str, part: int, parts: int) -> None:
    """Write records into one file."""
    import pyarrow as pa
    from pyarrow import parquet

    from beam_jobs.metadata.parquet import errors_of_writing

    place = root / "data"
    place.mkdir(parents=True, exist_ok=True)
    features = _features(exporter)
    schema = pa.schema([(name, _arrow(feature)) for name, feature in features.items()])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path = place / f"{split}-{part:05d}-of-{parts:05d}.parquet"
    # Images are compressed already. Others find them by their place in the file.
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    columns = [name for name in features if name not in images]
    compression = {f"{name}.{part}": "NONE" for name in images for part in ("bytes", "path")}
    compression |= {name: "SNAPPY" for name in columns}
    with (
        errors_of_writing(path),
        open(path, "wb") as file,  # of Python, which closes it also after an error of Arrow
        parquet.ParquetWriter(file, schema, compression=compression, use_dictionary=columns) as writer,
    ):
        for rows in _groups(exporter.records(numbers.start, numbers.stop)):
            table = pa.Table.from_pylist([_row(exporter, record) for record in rows], schema)
            writer.write_table(table, row_group_size=len(rows))


def finish(root: Path, split: str, parts: int) -> None:
    """Nothing is left to do."""


def _groups(records: Iterator[ExportedRecord]) -> Iterator[list[ExportedRecord]]:
    """Records of a row group."""
    group, size = list[ExportedRecord](), 0
    for record in records:
        group.append(record)
        size += len(record.image) + sum(map(len, record.files.values()))
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(exporter: Exporter, record: ExportedRecord) -> dict[str, Any]:
    row: dict[str, Any] = {IMAGE: {"bytes": record.image, "path": file_name(record)}, "id": record.id}
    for name, payload in exporter.payloads.items():
        data = record.files[name]
        row[payload.column] = (
            {"bytes": data, "path": f"{payload.folder}/{file_name(record, payload.suffix)}"}
            if payload.is_image
            else data
        )
    if exporter.has_label:
        row["label"] = record.label
    for name, value in record.values.items():
        if name.startswith(_OBJECTS):
            row.setdefault("objects", {})[_child(name)] = value
        else:
            row[exporter.columns[name]] = value
    return row


def _features(exporter: Exporter) -> dict[str, Any]:
    """The features of `datasets` for the columns, in their order."""
    features: dict[str, Any] = {IMAGE: {"_type": "Image"}}
    for payload in exporter.payloads.values():
        features[payload.column] = {"_type": "Image"} if payload.is_image else _value("binary")
    features["id"] = _value("string")
    if exporter.has_label:
        label = _classes(exporter)
        features["label"] = label if not exporter.data.fields["label"].shape else _list(label)
    for name, field in exporter.fields.items():
        if name.startswith(_OBJECTS):
            features.setdefault("objects", {})[_child(name)] = _feature(exporter, name, field)
        else:
            features[exporter.columns[name]] = _feature(exporter, name, field)
    return features


def _child(name: str) -> str:
    return _CHILDREN.get(name, name.removeprefix(_OBJECTS))


def _feature(exporter: Exporter, name: str, field: Field) -> dict[str, Any]:
    inner = _classes(exporter) if name == OBJECT_LABELS and field.dtype == "int64" else _value(_TYPES[field.dtype])
    if name in (BOXES, POINTS) or field.role is not None:
        inner = _value("float64")
    for side in reversed(field.shape):
        inner = _list(inner, side)
    return inner


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _list(feature: Mapping[str, Any], length: int | None = None) -> dict[str, Any]:
    return {"feature": dict(feature), "length": -1 if length is None else length, "_type": "List"}


def _classes(exporter: Exporter) -> dict[str, Any]:
    names = exporter.class_names
    return _value("int64") if names is None else {"names": list(names), "_type": "ClassLabel"}


def _arrow(feature: Any) -> Any:
    """The type in Arrow of a feature."""
    import pyarrow as pa

    kind = feature.get("_type")
    if kind == "Image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if kind == "List":
        return pa.list_(_arrow(feature["feature"]), feature["length"])
    if kind == "ClassLabel":
        return pa.int64()
    if kind == "Value":
        return pa.type_for_alias(feature["dtype"])
    return pa.struct([(name, _arrow(inner)) for name, inner in feature.items()])
