"""A source of records with everything: a mask, a depth map, a second photo, bytes, keypoints and outlines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beam_jobs.sources import Entry, Layout, Pixels, Reference, Source
from shard_reader.format.fields import Field

SIZE = (40, 30)
POINTS = [[[10, 6, 2], [30, 6, 1]], [[0, 0, 0], [20, 15, 2]]]
BOXES = [2, 3, 22, 18, 25, 10, 39, 29]
OUTLINES = [[[2, 3, 22, 3, 22, 18, 2, 18]], [[25, 10, 39, 10, 39, 29, 25, 29]]]
COUNT = 6
WITHOUT_MASK = 4
"""The number of the input that has no mask."""


def pixels_of(number: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC))


def mask_of(number: int) -> NDArray[np.uint8]:
    return (pixels_of(number)[..., 0] // 64).astype(np.uint8)


def depth_of(number: int) -> NDArray[np.uint16]:
    return pixels_of(number)[..., 1].astype(np.uint16) * 200


def photo_file(number: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels_of(number)).save(file, "PNG", exif=exif)
    return file.getvalue()


class Everything(Source):
    """`COUNT` records that are drawn; INPUT is any folder. The image of number 1 is turned by a quarter."""

    def entries(self) -> Iterator[Entry]:
        for number in range(COUNT):
            payloads: dict[str, Any] = {name: number for name in ("mask", "depth", "right", "audio")}
            if number == WITHOUT_MASK:
                del payloads["mask"]
            payloads["segments"] = OUTLINES
            fields = {"objects/bbox": BOXES, "objects/label": [0, 1], "objects/keypoints": POINTS}
            yield Entry(f"{number}.png", place=number, fields=fields, payloads=payloads)

    def layout(self) -> Layout:
        keypoints = Field(
            dtype="float32", shape=(None, 2, 3), role="keypoints", names=("left", "right"), flip_pairs=((0, 1),)
        )
        return Layout(
            text="everything",
            class_names=("cat", "dog"),
            fields={
                "objects/bbox": Field(dtype="float32", shape=(None, 4)),
                "objects/label": Field(dtype="int64", shape=(None,)),
                "objects/keypoints": keypoints,
            },
            boxes={"objects/bbox": "xyxy"},
            points={"objects/keypoints": "xy"},
            payloads={"mask": "mask", "depth": "depth", "right": "photo", "audio": "bytes"},
            segments=self.options.segments,
        )

    def read(self, reference: Reference) -> bytes | Pixels:
        return photo_file(reference.place, 6 if reference.place == 1 else 1)

    def read_payload(self, reference: Reference, name: str) -> bytes | Pixels:
        number = reference.payloads[name]
        if name == "audio":
            return b"RIFF" + bytes([number])
        if name == "right":
            return photo_file(number + 100, 6 if number == 1 else 1)
        return mask_of(number) if name == "mask" else depth_of(number)
