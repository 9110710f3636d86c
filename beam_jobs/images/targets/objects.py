"""Boxes and points: from the numbers of annotations to parts of the stored image.

They move with the pixels (`geometry.py`): orientation, resize, crop and pad.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.geometry import Geometry
from beam_jobs.sources.files.interface import BadInput

__all__ = ["Frame", "check_objects", "move_objects"]

_GROUP = "objects/"
_AREA = "objects/area"  # the name in COCO, and in its copy by TensorFlow Datasets


@dataclass(frozen=True, slots=True)
class Frame:
    """The geometry of an image, and the image that its annotations refer to.

    `declared` is the width and height that the annotations state; None if they state none. `shown` is True if they
    always refer to the image as it is shown, with its orientation applied.
    """

    # Datasets differ: some annotate the stored pixels, others the image as viewers show it. For a photo with an
    # orientation of 90 degrees, the declared size tells which.
    geometry: Geometry
    declared: tuple[int, int] | None
    shown: bool = False

    def is_upright(self) -> bool:
        """Whether annotations refer to the image as it is shown, instead of the stored one.

        Raises:
            BadInput: the annotations refer to an image of another size.
        """
        stored = self.geometry.stored
        if self.declared is None:
            return self.shown
        width, height = self.declared
        if (width, height) == stored and not self.shown:
            return False
        if (width, height) == self.geometry.upright:
            return True
        raise BadInput("wrong-size", f"is {stored[0]}x{stored[1]}, its annotations are for {width}x{height}")


def move_objects(
    values: Mapping[str, Any], boxes: Mapping[str, str], points: Mapping[str, str], frame: Frame
) -> tuple[Mapping[str, Any], int]:
    """The values of a record with its boxes and points as parts of the stored image, and the number of dropped boxes.

    Boxes become `[n, 4]` (ymin, xmin, ymax, xmax), clipped to the image, points `[n, 2]` (y, x), and `objects/area`
    pixels of the stored image. A box without an area in the image is dropped, with the object's element in every list
    of objects.

    Raises:
        BadInput: the annotations are for an image of another size.
    """
    upright = frame.is_upright()
    if not boxes and not points:
        return values, 0
    moved = dict(values)
    width, height = frame.geometry.upright if upright else frame.geometry.stored
    keep: NDArray[np.bool_] | None = None
    for name, form in boxes.items():
        pixels = _corners(_array(values[name], 4), form, width, height)
        # Clipped to the image itself first: a box that hangs over its edge must not reach into a border.
        pixels = pixels.clip(0, [height, width, height, width])
        moved[name], inside = frame.geometry.boxes(pixels, upright=upright)
        keep = inside if keep is None else keep & inside
    for name, form in points.items():
        moved[name] = frame.geometry.points(_yx(_array(values[name], 2), form, width, height), upright=upright)
    if keep is None:
        return moved, 0
    if _AREA in moved and frame.geometry.changes and len(moved[_AREA]) == len(keep):
        moved[_AREA] = _areas(moved[_AREA], next(moved[name] for name in boxes), frame.geometry)
    for name, value in moved.items():
        if name.startswith(_GROUP):
            rows = _rows(value, len(keep), name)
            left = [one for one, stays in zip(rows, keep, strict=True) if stays]
            if left and isinstance(left[0], list):  # the stored list is flat, with several values for each object
                left = [each for one in left for each in one]
            moved[name] = value if keep.all() else left
    return moved, int((~keep).sum())


def _areas(areas: Sequence[Any], boxes: NDArray[np.float64], geometry: Geometry) -> list[Any]:
    """Areas in pixels of the stored image: scaled with it, and no larger than the part of the box that is left."""
    scale = math.prod(geometry.scaled) / math.prod(geometry.box[2:])
    left = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * math.prod(geometry.size)
    moved = [min(area * scale, most) for area, most in zip(areas, left.tolist(), strict=True)]
    return [round(new) if isinstance(old, int) else new for old, new in zip(areas, moved, strict=True)]


def check_objects(values: Mapping[str, Any], boxes: Mapping[str, str]) -> None:
    """Check that all lists of objects are of the same number of objects.

    Raises:
        BadInput: a list has another number of elements.
    """
    for box in boxes:
        for name, value in values.items():
            if name.startswith(_GROUP):
                _rows(value, len(values[box]) // 4, name)


def _array(numbers: list[float], columns: int) -> NDArray[np.float64]:
    return np.asarray(numbers, np.float64).reshape(-1, columns)


def _rows(value: Any, objects: int, name: str) -> list[Any]:
    """The element of each object."""
    if len(value) % max(1, objects) or bool(len(value)) != bool(objects):
        raise BadInput("bad-objects", f"{name} has {len(value)} elements for {objects} objects")
    if isinstance(value, np.ndarray):
        return list(value)
    size = len(value) // max(1, objects)
    return value if size < 2 else [value[start : start + size] for start in range(0, len(value), size)]


def _corners(boxes: NDArray[np.float64], form: str, width: int, height: int) -> NDArray[np.float64]:
    """`[n, 4]` ymin, xmin, ymax, xmax in pixels."""
    if form.endswith("yxyx"):
        corners = boxes.copy()
    elif form.endswith("xywh"):
        x, y, w, h = boxes.T
        corners = np.stack([y, x, y + h, x + w], 1)
    else:
        corners = boxes[:, [1, 0, 3, 2]]
    return corners * [height, width, height, width] if form.startswith("rel-") else corners


def _yx(points: NDArray[np.float64], form: str, width: int, height: int) -> NDArray[np.float64]:
    pairs = points if form.endswith("yx") else points[:, ::-1]
    return pairs * [height, width] if form.startswith("rel-") else pairs
