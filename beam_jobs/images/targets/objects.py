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
    values: Mapping[str, Any],
    boxes: Mapping[str, str],
    points: Mapping[str, str],
    frame: Frame,
    keypoints: Mapping[str, int] | None = None,
) -> tuple[Mapping[str, Any], NDArray[np.bool_] | None]:
    """The values of a record with its boxes and points as parts of the stored image, and the objects that are left.

    Boxes become `[n, 4]` (ymin, xmin, ymax, xmax), clipped to the image, points `[n, 2]` (y, x), keypoints `[n, k, 3]`
    (y, x, visibility), and `objects/area` pixels of the stored image. A box without an area in the image is dropped,
    with the object's element in every list of objects.

    Args:
        keypoints: the fields of `points` that are keypoints, each with the number of an object's.

    Returns:
        The values; and of each object whether it is left, bool `[n]`, or None where there are no boxes.

    Raises:
        BadInput: the annotations are for an image of another size.
    """
    upright = frame.is_upright()
    if not boxes and not points:
        return values, None
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
        if name in (keypoints or {}):
            moved[name] = _moved_keypoints(values[name], (keypoints or {})[name], form, frame, upright)
        else:
            moved[name] = frame.geometry.points(_yx(_array(values[name], 2), form, width, height), upright=upright)
    if keep is None:
        return moved, None
    if _AREA in moved and frame.geometry.changes and len(moved[_AREA]) == len(keep):
        moved[_AREA] = _areas(moved[_AREA], next(moved[name] for name in boxes), frame.geometry)
    for name, value in moved.items():
        if name.startswith(_GROUP):
            rows = _rows(value, len(keep), name)
            left = [one for one, stays in zip(rows, keep, strict=True) if stays]
            if left and isinstance(left[0], list):  # the stored list is flat, with several values for each object
                left = [each for one in left for each in one]
            moved[name] = value if keep.all() else left
    return moved, keep


def _moved_keypoints(values: Any, count: int, form: str, frame: Frame, upright: bool) -> NDArray[np.float64]:
    """`[n, k, 3]`: y and x as parts of the stored image, and the visibility as it is.

    A point that is not labelled has visibility 0, and stays 0, 0. One that has left the image keeps its place outside.
    """
    width, height = frame.geometry.upright if upright else frame.geometry.stored
    given = np.asarray(values, np.float64).reshape(-1, 3)
    points = frame.geometry.points(_yx(given[:, :2], form, width, height), upright=upright)
    visibility = given[:, 2:]
    return np.concatenate([np.where(visibility > 0, points, 0), visibility], 1).reshape(-1, count, 3)


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
