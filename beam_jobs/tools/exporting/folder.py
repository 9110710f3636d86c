"""Folders of images, as ImageFolder of Hugging Face reads them: SPLIT/CLASS/NAME.jpg and SPLIT/metadata.jsonl.

A line of metadata.jsonl has `file_name`, `id`, `label` (the name of the class) and the fields of a record. Boxes are in
`bbox`, as x, y, width and height in pixels; points in `point`; keypoints in `keypoints`, as x, y and their visibility.
A further image `mask` is in SPLIT/mask, and its path in `mask_file_name`, as Hugging Face expects it. Bytes `audio` are
in SPLIT/audio, and their path in `audio`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beam_jobs.tools.exporting.records import FILE_NAME, ExportedRecord, Exporter, file_name

__all__ = ["finish", "write"]

_METADATA = "metadata.jsonl"


def write(exporter: Exporter, numbers: range, root: Path, split: str, part: int, parts: int) -> None:
    """Write records, and a part of their metadata."""
    place = root / split
    place.mkdir(parents=True, exist_ok=True)
    with open(place / f"{_METADATA}.{part:05d}", "w", encoding="utf-8") as metadata:
        for record in exporter.records(numbers.start, numbers.stop):
            name = f"{_folder(exporter, record)}{file_name(record)}"
            path = place / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(record.image)
            for field, data in record.files.items():
                file = place / _payload(exporter, record, field)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)
            metadata.write(json.dumps(_line(exporter, record, name), ensure_ascii=False) + "\n")


def finish(root: Path, split: str, parts: int) -> None:
    """Join the parts of the metadata."""
    (root / split).mkdir(parents=True, exist_ok=True)  # of a split without records
    with open(root / split / _METADATA, "wb") as whole:
        for part in range(parts):
            path = root / split / f"{_METADATA}.{part:05d}"
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    whole.write(piece)
            path.unlink()


def _folder(exporter: Exporter, record: ExportedRecord) -> str:
    if exporter.class_names is None or not isinstance(record.label, int):
        return ""
    return f"{exporter.class_folders[record.label]}/"


def _payload(exporter: Exporter, record: ExportedRecord, field: str) -> str:
    """The path of a further image, or of bytes, in the folder of the split."""
    payload = exporter.payloads[field]
    return f"{payload.folder}/{file_name(record, payload.suffix)}"


def _line(exporter: Exporter, record: ExportedRecord, name: str) -> dict[str, Any]:
    line: dict[str, Any] = {FILE_NAME: name, "id": record.id}
    if exporter.has_label:
        line["label"] = exporter.named(record.label)
    for field, payload in exporter.payloads.items():
        line[payload.file_column] = _payload(exporter, record, field)
    return line | exporter.flat_values(record)
