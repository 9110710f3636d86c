"""A dataset whose records have several images, bytes, boxes and keypoints, as `prepare` would write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.stored import write_manifest

from beam_jobs.shards.write import store
from shard_reader.format import Field, shard_name
from shard_reader.format.image_codecs.table import IMAGE_CODECS

__all__ = ["SEVERAL", "several_images", "several_record"]

_NUMBER = Field(dtype="int64")
SEVERAL = {
    "image": Field(dtype="uint8", shape=(None, None, 3), encoding="jpeg"),
    "mask": Field(dtype="uint8", shape=(None, None, 1), encoding="png", role="mask"),
    "instances": Field(dtype="uint16", shape=(None, None, 1), encoding="png", role="mask"),
    "depth": Field(dtype="uint16", shape=(None, None, 1), encoding="png", role="depth"),
    "right": Field(dtype="uint8", shape=(None, None, 3), encoding="png", role="photo"),
    "audio": Field(dtype="bytes"),
    "label": _NUMBER,
    "id": Field(dtype="string"),
    "height": _NUMBER,
    "width": _NUMBER,
    "objects/label": Field(dtype="int64", shape=(None,)),
    "objects/bbox": Field(dtype="float32", shape=(None, 4), role="boxes"),
    "objects/keypoints": Field(
        dtype="float32",
        shape=(None, 3, 3),
        role="keypoints",
        names=("nose", "left eye", "right eye"),
        flip_pairs=((1, 2),),
    ),
}
"""The fields of these records."""
_KEYPOINTS = [[[0.5, 0.5, 2], [0.375, 0.375, 1], [0, 0, 0]], [[0.75, 0.75, 2], [-0.25, 0.5, 2], [0.7, 0.8, 2]]]


def several_record(number: int, height: int, width: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A record, and the pixels of its images but the JPEG."""
    rng = np.random.default_rng(number)
    ramp = np.broadcast_to(np.linspace(40, 220, width, dtype=np.uint8)[None, :, None], (height, width, 3))
    mask = np.zeros((height, width, 1), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 1
    mask[height // 2 :, width // 2 :] = 2
    mask[-1, 0] = 255
    depth = rng.integers(0, 1 << 16, (height, width, 1), np.uint16)
    right = rng.integers(0, 256, (height, width, 3), np.uint8)
    instances = np.where(mask == 255, 0, mask).astype(np.uint16) * np.uint16(300)
    pixels = {"mask": mask, "instances": instances, "depth": depth, "right": right}
    payloads = {name: IMAGE_CODECS["png"].encode(image, None) for name, image in pixels.items()}
    boxes = np.array([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)
    record = {
        "image": IMAGE_CODECS["jpeg"].encode(np.ascontiguousarray(ramp), 90),
        **payloads,
        "audio": b"RIFF\0\xff" * number,
        "label": number % 2,
        "id": f"{number}.jpg",
        "height": height,
        "width": width,
        "objects/label": np.array([0, 1]),
        "objects/bbox": boxes,
        "objects/keypoints": np.array(_KEYPOINTS, np.float32),
    }
    return record, pixels


def several_images(
    path: Path, count: int = 4, size: tuple[int, int] = (48, 64), formats: Sequence[str] = ("tfrecord", "hdf5")
) -> Path:
    """A dataset of some of these records, each a row higher than the one before."""
    path.mkdir(parents=True)
    records = [several_record(number, size[0] + number, size[1])[0] for number in range(count)]
    shard = store(records, {format: path / shard_name("train", 0, 1, format) for format in formats}, SEVERAL)
    classes = {"cat": (count + 1) // 2, "dog": count // 2}
    return write_manifest(path, SEVERAL, [shard], formats=formats, class_names=("cat", "dog"), classes=classes)
