"""Rows of numbers about objects, as YOLO's label files and Ultralytics' NDJSON have them.

```
class x y w h                   a box: its center and its size
class x1 y1 x2 y2 x3 y3 ...     a polygon, or the corners of a turned box
class x y w h px py [v] ...     a box with keypoints
```

Coordinates are parts of the image, 0 to 1. Source: docs.ultralytics.com/datasets, and the checks of the library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.sources.detection.annotated import BBOX, LABEL
from beam_jobs.sources.files.interface import BadInput, LeftOut
from beam_jobs.terminal import counted

__all__ = ["BOX_FORM", "KINDS", "Rows", "parse_number"]

BOX_FORM = "rel-xyxy"
"""The form of the boxes of `Rows`, one of BOX_FORMATS."""
KINDS = ("boxes", "segments", "pose", "obb")
"""The kinds of rows: a box, a polygon, a box with keypoints, and a turned box by its four corners."""
_BOX = 5  # numbers of a row
_FEWEST = {"boxes": _BOX, "segments": 7, "pose": _BOX, "obb": 9}
_BEYOND = 0.01  # by so much a coordinate may be outside of the image, as in the library
_WHY = "masks and keypoints are not stored; the boxes around them are"


@dataclass
class Rows:
    """Parses rows, and counts them.

    Attributes:
        classes: the number of classes; None if it is not known.
        objects: the number of rows.
        polygons: those with a polygon, whose box is its extent.
        keypoints: those with keypoints.
    """

    classes: int | None = None
    objects: int = 0
    polygons: int = 0
    keypoints: int = 0

    def fields(self, rows: Iterable[tuple[str, str, Sequence[Any]]]) -> dict[str, Any]:
        """The fields of the objects of an image.

        Args:
            rows: for each object its place in words, its kind, one of KINDS, and its numbers.

        Raises:
            BadInput: a row cannot be used; the message begins with its place.
        """
        labels, found, counts = [], [], dict.fromkeys(KINDS, 0)
        for where, kind, numbers in rows:
            counts[kind] += 1
            try:
                labels.append(self._label(numbers))
                found.append(_box(kind, numbers))
            except BadInput as bad:
                raise BadInput(bad.reason, f"{where}: {bad}") from None
        self.objects += len(found)
        self.polygons += counts["segments"] + counts["obb"]
        self.keypoints += counts["pose"]
        return {BBOX: found, LABEL: labels}

    def left_out(self) -> tuple[LeftOut, ...]:
        """The parts of objects that are not stored."""
        counts = {"polygons": self.polygons, "keypoints": self.keypoints}
        return tuple(LeftOut(what=f"{kind} of {counted(n, 'object')}", why=_WHY) for kind, n in counts.items() if n)

    def _label(self, numbers: Sequence[Any]) -> int:
        number: Any = numbers[0] if numbers else None
        if not _is_number(number) or number != int(number):
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
    is_polygon = kind in ("segments", "obb")
    if count < _FEWEST[kind] or (kind == "boxes" and count != _BOX) or (is_polygon and count % 2 == 0):
        raise BadInput("bad-annotation", f"has {count} numbers: {_expected(kind)}")
    values = numbers[1:] if is_polygon else numbers[1:_BOX]
    for value in values:
        if not _is_number(value):
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


def _expected(kind: str) -> str:
    if kind == "boxes":
        return "a box is a class and x, y, width, height"
    if kind == "pose":
        return "keypoints follow a class and x, y, width, height"
    return f"a polygon is a class and x, y of {'four' if kind == 'obb' else 'three or more'} points"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
