"""Datasets that no job would write, and damage to files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.shards.write import store
from shard_reader.format import Counts, Field, Fingerprint, Manifest, Shard, ShardTable, Split, shard_name
from shard_reader.format.image_codecs.table import IMAGE_CODECS

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


SEVERAL: dict[str, Field] = {
    "image": Field(dtype="uint8", shape=(None, None, 3), encoding="png"),
    "label": Field(dtype="int64"),
    "id": Field(dtype="string"),
    "height": Field(dtype="int64"),
    "width": Field(dtype="int64"),
    "mask": Field(dtype="uint8", shape=(None, None, 1), encoding="png", role="mask"),
    "depth": Field(dtype="uint16", shape=(None, None, 1), encoding="png", role="depth"),
    "right": Field(dtype="uint8", shape=(None, None, 3), encoding="png", role="photo"),
    "audio": Field(dtype="bytes"),
    "objects/bbox": Field(dtype="float32", shape=(None, 4), role="boxes"),
    "objects/label": Field(dtype="int64", shape=(None,)),
    "objects/name": Field(dtype="string", shape=(None,)),
    "objects/keypoints": Field(
        dtype="float32",
        shape=(None, 3, 3),
        role="keypoints",
        names=("nose", "left_eye", "right_eye"),
        flip_pairs=((1, 2),),
    ),
}
"""The fields of `several`: two photos, a mask, a depth map, bytes and objects."""


def several(
    path: Path,
    count: int = 12,
    size: tuple[int, int] | None = None,
    encoding: str = "png",
    shards: int = 2,
    mask_scale: int = 1,
    formats: Sequence[str] = ("tfrecord", "hdf5"),
    fields: Mapping[str, Field] = SEVERAL,
) -> Path:
    """A dataset with everything that a record can hold.

    `mask` is the first channel of `image`, `depth` 257 times its second one, `right` its complement.

    Args:
        size: height and width of all images; by default they differ.
        mask_scale: the part of the image's size that the mask has: 2 for the half.
    """
    path.mkdir()
    sides = size if size is not None else (None, None)
    fields = dict(fields)
    for name, field in fields.items():
        if field.is_image:
            own = tuple(side // mask_scale if side and name == "mask" else side for side in sides)
            fields[name] = replace(field, encoding=encoding, shape=(*own, field.shape[2]))
    codec = IMAGE_CODECS[encoding]
    records = []
    for number in range(count):
        pixels = several_pixels(number, size)
        mask = pixels[::mask_scale, ::mask_scale, :1][: pixels.shape[0] // mask_scale, : pixels.shape[1] // mask_scale]
        depth = pixels[..., 1:2].astype(np.uint16) * 257
        images = {"image": pixels, "mask": mask, "depth": depth, "right": 255 - pixels}
        records.append(
            {
                **{name: codec.encode(np.ascontiguousarray(image), None) for name, image in images.items()},
                "label": number % 3,
                "id": f"{number}.png",
                "height": pixels.shape[0],
                "width": pixels.shape[1],
                "audio": bytes(range(number % 7)),
                **several_objects(number),
            }
        )
    parts = [records[number::shards] for number in range(shards)]
    made = [
        store(part, {format: path / shard_name("train", number, shards, format) for format in formats}, fields)
        for number, part in enumerate(parts)
    ]
    return write_manifest(path, fields, made, formats=formats, class_names=("a", "b", "c"))


def several_pixels(number: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The `image` of a record of `several`."""
    height, width = size or (40 + number % 5 * 4, 52 - number % 3 * 4)
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def several_objects(number: int) -> dict[str, Any]:
    """The objects of a record of `several`: none in every fourth."""
    rng, count = np.random.default_rng(1000 + number), number % 4
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    keypoints = np.concatenate([rng.uniform(0, 1, (count, 3, 2)), np.full((count, 3, 1), 2)], axis=2)
    keypoints[:, 2] = 0  # the right eye is nowhere
    return {
        "objects/bbox": corners.reshape(count, 4).astype(np.float32),
        "objects/label": np.arange(count) % 3,
        "objects/name": [f"{number}/{one}" for one in range(count)],
        "objects/keypoints": keypoints.astype(np.float32),
        "objects/segmentation": ["[[0, 0, 0, 1, 1, 1]]"] * count,
    }
