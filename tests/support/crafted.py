"""Datasets, images and files as a stranger may craft them, each with checksums that are right."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from support.stored import write_manifest

from beam_jobs.shards.write import store
from shard_reader.format import Field, shard_name
from shard_reader.format.manifest import with_checksum

__all__ = ["BOMBS", "SIDE", "change_manifest", "crafted_dataset", "fields_of"]

SIDE = 16
"""The side of a bomb's pixels."""


def fields_of(encoding: str, shape: tuple[int | None, ...] = (None, None, 3), **others: Field) -> dict[str, Field]:
    return {
        "image": Field(dtype="uint8", shape=shape, encoding=encoding),
        "label": Field(dtype="int64"),
        "id": Field(dtype="string"),
        "height": Field(dtype="int64"),
        "width": Field(dtype="int64"),
        **others,
    }


def crafted_dataset(
    path: Path,
    images: Sequence[tuple[bytes, int, int]],
    fields: Mapping[str, Field],
    format: str = "tfrecord",
    **values: Any,
) -> Path:
    """A dataset of payloads with any height and width."""
    path.mkdir()
    records = [
        {"image": payload, "label": 0, "id": f"{number}.jpg", "height": height, "width": width, **values}
        for number, (payload, height, width) in enumerate(images)
    ]
    shard = store(records, {format: path / shard_name("train", 0, 1, format)}, fields)
    return write_manifest(path, fields, [shard], formats=[format], class_names=("a",))


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the manifest of a dataset, and give it the checksum that it then has."""
    body = json.loads((path / "dataset.json").read_text("utf-8"))
    change(body)
    (path / "dataset.json").write_text(with_checksum(body), "utf-8")
    return path


def _jpeg(height: int, width: int) -> bytes:
    data = bytearray(simplejpeg.encode_jpeg(np.zeros((SIDE, SIDE, 3), np.uint8), 90, "RGB", "420"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _saved(format: str) -> bytearray:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, format)
    return bytearray(buffer.getvalue())


def _png(height: int, width: int) -> bytes:
    data = _saved("PNG")
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _webp(height: int, width: int) -> bytes:
    data = _saved("WEBP")
    start = data.index(b"\x9d\x01\x2a") + 3
    data[start : start + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def _avif(height: int, width: int) -> bytes:
    data = _saved("AVIF")
    start = data.index(b"ispe") + 8
    data[start : start + 8] = struct.pack(">II", width, height)
    return bytes(data)


def _raw(height: int, width: int) -> bytes:
    del height, width  # raw pixels have no header
    return bytes(SIDE * SIDE * 3)


BOMBS: Mapping[str, tuple[Callable[[int, int], bytes], int]] = {
    "jpeg": (_jpeg, 65_500),
    "png": (_png, 65_500),
    "webp": (_webp, 16_383),
    "avif": (_avif, 16_000),
    "raw": (_raw, 65_500),
}
"""For each encoding a function that makes an image of a few bytes that claim a height and a width, and a large side."""
