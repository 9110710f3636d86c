"""Folders of images, as ImageFolder of Hugging Face reads them: SPLIT/CLASS/NAME.jpg and SPLIT/metadata.jsonl.

A line of metadata.jsonl has `file_name`, `id`, `label` (the name of the class) and the fields of a record. Boxes are in
`bbox`, as x, y, width and height in pixels; points in `point`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beam_jobs.tools.exporting.records import ExportedRecord, Exporter, file_name

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


def _line(exporter: Exporter, record: ExportedRecord, name: str) -> dict[str, Any]:
    line: dict[str, Any] = {"file_name": name, "id": record.id}
    if exporter.has_label:
        line["label"] = exporter.named(record.label)
    return line | exporter.flat_values(record)
