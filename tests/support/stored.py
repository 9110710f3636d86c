"""Datasets that no job would write, and damage to files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.shards.write import store
from shard_reader.format import Counts, Field, Fingerprint, Manifest, Shard, ShardTable, Split, shard_name

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000002080200000016e32170"
    "0000001049444154789c63f8cfc0c0c4c0c000000709010294d05c3b0000000049454e44ae426082"
)

FIELDS = {
    "image": Field(dtype="uint8", shape=(None, None, 3), encoding="png"),
    "label": Field(dtype="int64"),
    "id": Field(dtype="string"),
    "height": Field(dtype="int64"),
    "width": Field(dtype="int64"),
}


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def record(id: str, label: int = 0, **others: Any) -> dict[str, Any]:
    return {"image": PNG, "label": label, "id": id, "height": 2, "width": 1, **others}


def write_manifest(
    path: Path,
    fields: Mapping[str, Field],
    shards: Sequence[Shard],
    *,
    formats: Sequence[str] = ("tfrecord", "hdf5"),
    class_names: tuple[str, ...] | None = None,
    classes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Path:
    """Make a dataset of shards in the one split "train", with nothing in the manifest that tells their origin."""
    count = sum(shard.records for shard in shards)
    manifest = Manifest(
        fields=fields,
        formats=tuple(formats),
        splits={"train": Split(records=count, shards=ShardTable.of(shards), classes=classes)},
        class_names=class_names,
        statistics=None,
        counts=Counts(ignored=0, planned=count, written=count, rejected=0),
        seed=seed,
        options={},
        fingerprint=Fingerprint(inputs="", options="", codecs={}),
    )
    (path / "dataset.json").write_text(manifest.to_json(), "utf-8")
    return path


def dataset(path: Path, *shards: list[dict[str, Any]], classes: dict[str, int] | None = None) -> Path:
    """A dataset of records that no job would write, every checksum of which is right."""
    path.mkdir()
    made = tuple(
        store(
            records,
            {format: path / shard_name("train", number, len(shards), format) for format in ("tfrecord", "hdf5")},
            FIELDS,
        )
        for number, records in enumerate(shards)
    )
    return write_manifest(path, FIELDS, made, classes=classes, class_names=("a", "b"))


def edit_shard(manifest: dict[str, Any], format: str | None = None, number: int = 0, **values: Any) -> None:
    """Change what a manifest says of a shard of the split "train", or of its file in a format."""
    shards = manifest["splits"]["train"]["shards"]
    for name, value in values.items():
        columns = shards if format is None else shards["files"][format]
        if name.endswith("sha256"):
            text = columns[name]
            columns[name] = f"{text[: 64 * number]}{value:0>64}{text[64 * (number + 1) :]}"
        else:
            columns[name][number] = value


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, size)


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()
