"""ListedOutlines of objects, as COCO has them: polygons, and run-length encodings of masks.

```
[[x, y, x, y, x, y, ...], ...]                       polygons, of which an object may have several parts
{"size": [height, width], "counts": [12, 3, ...]}    runs of 0 and 1 in turns, down the columns
{"size": [height, width], "counts": "PPYo1..."}      the same, compressed
```

Source: cocodataset.org/#format-data. Here is checked that values have such a form, and not too many numbers; the job
compares them with the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.annotations.objects import is_number
from beam_jobs.sources.files.interface import BadInput
from beam_jobs.terminal import counted

__all__ = ["MOST_NUMBERS", "NO_SEGMENTS", "ListedOutlines", "bounded_outline"]

MOST_NUMBERS = 1 << 20
"""The most numbers in the outlines of one image, and a quarter of the most characters."""
NO_SEGMENTS = "--segments stores them: as mask, instances, rle or polygons"
"""The reason why outlines are left out, with the remedy."""
_BAD = "bad-segment"
_FEWEST = 6  # numbers of a polygon
_TOO_MANY = f"have more than {MOST_NUMBERS:,} numbers; make polygons of fewer points, or an RLE"


class ListedOutlines:
    """Checks outlines while they are listed, and counts those of objects that have none."""

    def __init__(self) -> None:
        self._empty = self._thin = self._found = 0

    def of_objects(self, values: Sequence[tuple[str, Any]], frame: tuple[int, int] | None) -> list[Any]:
        """The outlines of the objects of an image: for each a list of polygons, or an RLE.

        Args:
            values: for each object its name in messages, and its outline.
            frame: width and height of the image, if they are known.

        Raises:
            BadInput: an outline cannot be used, or there are too many numbers.
        """
        left, found = MOST_NUMBERS, []
        for where, value in values:
            left -= _numbers(value)
            if left < 0:
                raise BadInput(_BAD, f"{where}: the outlines of the image {_TOO_MANY}")
            try:
                found.append(self._outline(value, frame))
            except BadInput as bad:
                raise BadInput(bad.reason, f"{where}: {bad}") from None
        return found

    def check(self, form: str) -> None:
        """Check that some object has an outline, where there are objects.

        Raises:
            UsageError: none has one; the message names `--segments` with its form.
        """
        if self._empty and not self._found:
            raise UsageError(f"--segments {form}: no object has an outline; leave it out")

    def _outline(self, value: Any, frame: tuple[int, int] | None) -> Any:
        if value is None or value == []:
            self._empty += 1
            return []
        self._found += 1
        if isinstance(value, Mapping):
            return _rle(value, frame)
        if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
            raise BadInput(_BAD, f"the outline {value!r:.60} is neither a list of polygons nor an RLE")
        parts = [_polygon(part) for part in value]
        kept = [part for part in parts if len(part) >= _FEWEST]
        self._thin += len(parts) - len(kept)
        return kept

    def warnings(self) -> tuple[str, ...]:
        """The objects without an outline, and the parts that are no areas."""
        found = []
        if self._empty:
            found.append(f"{counted(self._empty, 'object')} without an outline: no pixel of a mask is theirs")
        if self._thin:
            found.append(f"{counted(self._thin, 'polygon')} of fewer than three points left out: they have no area")
        return tuple(found)


def bounded_outline(value: Any) -> Any:
    """An outline as it is; in place of one that is too long, the number of its numbers."""
    count = _numbers(value)
    return value if count <= MOST_NUMBERS else {"numbers": count}


def _numbers(value: Any) -> int:
    """The numbers of an outline; of a text a quarter of its characters."""
    if isinstance(value, Mapping):
        counts = value.get("counts")
        if isinstance(counts, str):
            return len(counts) // 4
        number = value.get("numbers")
        return len(counts) if isinstance(counts, list) else number if isinstance(number, int) else 0
    if not isinstance(value, list):
        return 0
    return sum(len(part) if isinstance(part, list) else 1 for part in value)


def _polygon(numbers: list[Any]) -> list[float]:
    """The numbers of one polygon: x and y in turns."""
    if len(numbers) % 2:
        raise BadInput(_BAD, f"a polygon has {len(numbers)} numbers: expected x and y of each point")
    for number in numbers:
        if not is_number(number):
            raise BadInput(_BAD, f"a polygon has {number!r:.60}, which is no number")
    return numbers


def _rle(value: Mapping[str, Any], frame: tuple[int, int] | None) -> dict[str, Any]:
    """The size and the counts of an RLE. The job adds up the counts."""
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise BadInput(_BAD, f"an RLE has the size {size!r:.60}: expected height and width")
    height, width = size
    if frame is not None and (width, height) != tuple(frame):
        raise BadInput(_BAD, f"an RLE is of {width}x{height} pixels, and the image of {frame[0]}x{frame[1]}")
    if not isinstance(counts, (list, str)):
        raise BadInput(_BAD, f"an RLE has the counts {counts!r:.60}: expected a list or a text")
    return {"size": size, "counts": counts}
