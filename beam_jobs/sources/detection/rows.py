"""Rows of numbers about objects, as YOLO's label files and Ultralytics' NDJSON have them.

```
class x y w h                   a box: its center and its size
class x1 y1 x2 y2 x3 y3 ...     a polygon, or the corners of a turned box
class x y w h px py [v] ...     a box with keypoints
```

Points have a visibility, 0 to 2, if the description says that they have three numbers. Of two numbers, all points are
visible but those at 0, 0 or outside. Coordinates are parts of the image, 0 to 1. Source: docs.ultralytics.com/datasets,
and the checks of the library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.sources.detection.annotated import BBOX, LABEL
from beam_jobs.sources.files.annotations.keypoints import KEYPOINTS, checked_points
from beam_jobs.sources.files.annotations.objects import is_number
from beam_jobs.sources.files.annotations.outlines import NO_SEGMENTS, ListedOutlines
from beam_jobs.sources.files.interface import BadInput, LeftOut
from beam_jobs.terminal import counted

__all__ = ["BOX_FORM", "KINDS", "Rows", "parse_number"]

BOX_FORM = "rel-xyxy"
"""The form of the boxes of `Rows`, one of BOX_FORMATS."""
KINDS = ("boxes", "segments", "pose", "obb")
"""The kinds of rows: a box, a polygon, a box with keypoints, and a turned box by its four corners."""
_POLYGONS = ("segments", "obb")
_BOX = 5  # numbers of a row
_FEWEST = {"boxes": _BOX, "segments": 7, "pose": _BOX, "obb": 9}
_VISIBLE = 2
_BEYOND = 0.01  # by so much a coordinate may be outside of the image, as in the library
_NO_SHAPE = "kpt_shape of the description says how many there are: [17, 3]; the boxes around them are stored"


@dataclass
class Rows:
    """Parses rows, and counts them.

    Attributes:
        classes: the number of classes; None if it is not known.
        objects: the number of rows.
        polygons: those with a polygon, whose box is its extent.
        keypoints: those with keypoints.
        shape: the number of keypoints of an object, and of their numbers (2 or 3); None if it is not known.
        outlines: checks polygons; None if they are left out.
    """

    classes: int | None = None
    objects: int = 0
    polygons: int = 0
    keypoints: int = 0
    shape: tuple[int, int] | None = None
    outlines: ListedOutlines | None = None

    def read(self, rows: Iterable[tuple[str, str, Sequence[Any]]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the objects of an image, and its payloads, with the outlines of these objects.

        Args:
            rows: for each object its place in words, its kind, one of KINDS, and its numbers.

        Raises:
            BadInput: a row cannot be used; the message begins with its place.
        """
        labels, found, counts = list[int](), list[list[float]](), dict.fromkeys(KINDS, 0)
        points, outlines = list[list[list[float]]](), list[tuple[str, Any]]()
        for where, kind, numbers in rows:
            counts[kind] += 1
            try:
                labels.append(self._label(numbers))
                found.append(_box(kind, numbers))
                if self.shape is not None:
                    points.append(_points(numbers[_BOX:] if kind == "pose" else [], *self.shape))
            except BadInput as bad:
                raise BadInput(bad.reason, f"{where}: {bad}") from None
            if self.outlines is not None:
                outlines.append((where, [list(numbers[1:])] if kind in _POLYGONS else []))
        self.objects += len(found)
        self.polygons += counts["segments"] + counts["obb"]
        self.keypoints += counts["pose"]
        fields: dict[str, Any] = {BBOX: found, LABEL: labels} | ({KEYPOINTS: points} if self.shape else {})
        if self.outlines is None:
            return fields, {}
        return fields, {"segments": self.outlines.of_objects(outlines, None)}

    def left_out(self) -> tuple[LeftOut, ...]:
        """The parts of objects that are not stored."""
        found = []
        if self.polygons and self.outlines is None:
            found.append(LeftOut(what=f"polygons of {counted(self.polygons, 'object')}", why=NO_SEGMENTS))
        if self.keypoints and self.shape is None:
            found.append(LeftOut(what=f"keypoints of {counted(self.keypoints, 'object')}", why=_NO_SHAPE))
        return tuple(found)

    def _label(self, numbers: Sequence[Any]) -> int:
        number: Any = numbers[0] if numbers else None
        if not is_number(number) or number != int(number):
            raise BadInput("bad-annotation", f"begins with {number!r:.80}, and not with the number of a class")
        if number < 0 or (self.classes is not None and number >= self.classes):
            known = "" if self.classes is None else f", here 0 to {self.classes - 1}"
            raise BadInput("unknown-class", f"is of the class {int(number)}: classes are numbers from 0{known}")
        return int(number)


def parse_number(text: str) -> float | str:
    """A text as a number; another text unchanged."""
    try:
        return float(text)
    except ValueError:
        return text


def _box(kind: str, numbers: Sequence[Any]) -> list[float]:
    """Left, top, right and bottom."""
    count = len(numbers)
    is_polygon = kind in _POLYGONS
    if count < _FEWEST[kind] or (kind == "boxes" and count != _BOX) or (is_polygon and count % 2 == 0):
        raise BadInput("bad-annotation", f"has {count} numbers: {_expected(kind)}")
    values = numbers[1:] if is_polygon else numbers[1:_BOX]
    for value in values:
        if not is_number(value):
            raise BadInput("bad-box", f"has {value!r:.80}, which is no number")
        if not -_BEYOND <= value <= 1 + _BEYOND:
            raise BadInput(
                "bad-box", f"has {value:g}: coordinates are parts of the image, 0 to 1; divide pixels by its size"
            )
    if is_polygon:
        return [float(min(values[::2])), float(min(values[1::2])), float(max(values[::2])), float(max(values[1::2]))]
    x, y, width, height = map(float, values)
    if width < 0 or height < 0:
        raise BadInput("bad-box", f"has the width {width:g} and the height {height:g}, of which one is negative")
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def _points(numbers: Sequence[Any], count: int, dimensions: int) -> list[list[float]]:
    """The keypoints of an object: x, y and visibility of each; zeros without keypoints."""
    if not numbers:
        return [[0.0, 0.0, 0.0] for _ in range(count)]
    if len(numbers) != count * dimensions:
        raise BadInput(
            "bad-keypoints",
            f"has {len(numbers)} numbers of keypoints: expected {count} points of {dimensions}, as kpt_shape says",
        )
    points = [list(numbers[start : start + dimensions]) for start in range(0, len(numbers), dimensions)]
    if dimensions == 2:
        points = [[x, y, _VISIBLE if _is_labelled(x, y) else 0] for x, y in points]
    found = checked_points(points)
    for number, (x, y, visibility) in enumerate(found):
        wrong = next((value for value in (x, y) if not -_BEYOND <= value <= 1 + _BEYOND), None)
        if visibility and wrong is not None:
            raise BadInput(
                "bad-keypoints",
                f"keypoint {number} has {wrong:g}: coordinates are parts of the image, 0 to 1; divide pixels by its"
                " size",
            )
    return found


def _is_labelled(x: Any, y: Any) -> bool:
    return not (is_number(x) and is_number(y)) or (x >= 0 and y >= 0 and (x, y) != (0, 0))


def _expected(kind: str) -> str:
    if kind == "boxes":
        return "a box is a class and x, y, width, height"
    if kind == "pose":
        return "keypoints follow a class and x, y, width, height"
    return f"a polygon is a class and x, y of {'four' if kind == 'obb' else 'three or more'} points"
