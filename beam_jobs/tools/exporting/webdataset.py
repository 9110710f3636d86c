"""Tar archives in the layout of WebDataset: SPLIT-00000.tar, with KEY.jpg, KEY.cls and KEY.json for each record.

`.cls` is the number of the class; `classes.txt` beside the archives has the names. `.json` has `id`, `label` (the name
of the class) and the fields of a record. Boxes are in `bbox`, as x, y, width and height in pixels; points in `point`;
keypoints in `keypoints`, as x, y and their visibility. A further image `mask` is KEY.mask.png, bytes `audio` are
KEY.audio.bin.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from beam_jobs.tools.exporting.records import Exporter

__all__ = ["finish", "write"]


def write(exporter: Exporter, numbers: range, root: Path, split: str, part: int, parts: int) -> None:
    """Write records into one archive."""
    root.mkdir(parents=True, exist_ok=True)
    if exporter.class_names is not None and part == 0:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in exporter.class_names), "utf-8")
    with tarfile.open(root / f"{split}-{part:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for record in exporter.records(numbers.start, numbers.stop):
            key = f"{record.number:08d}"
            _add(archive, f"{key}{record.suffix}", record.image)
            for name, payload in exporter.payloads.items():
                _add(archive, f"{key}.{payload.part}{payload.suffix}", record.files[name])
            if isinstance(record.label, int):
                _add(archive, f"{key}.cls", str(record.label).encode())
            values: dict[str, Any] = {"id": record.id}
            if exporter.has_label:
                values["label"] = exporter.named(record.label)
            values |= exporter.flat_values(record)
            _add(archive, f"{key}.json", json.dumps(values, ensure_ascii=False).encode())


def finish(root: Path, split: str, parts: int) -> None:
    """Nothing is left to do."""


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
