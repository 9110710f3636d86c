"""Outlines of objects, as COCO has them: polygons, and run-length encodings of masks.

```
[[x, y, x, y, x, y, ...], ...]                       polygons, of which an object may have several parts
{"size": [height, width], "counts": [12, 3, ...]}    runs of 0 and 1 in turns, down the columns
{"size": [height, width], "counts": "PPYo1..."}      the same, compressed
```

Sources: cocodataset.org/#format-data, and `rleFrString` of pycocotools' maskApi.c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput
from beam_jobs.terminal import counted
from shard_reader.format.fields import MAX_PIXELS

__all__ = ["MOST_NUMBERS", "NO_SEGMENTS", "Outlines", "bounded_outline", "rle_counts"]

MOST_NUMBERS = 1 << 20
"""The most numbers in the outlines of one image, and a quarter of the most characters."""
NO_SEGMENTS = "--segments stores them: as mask, instances, rle or polygons"
"""The reason why outlines are left out, with the remedy."""
_FEWEST = 6  # numbers of a polygon
_LONGEST_EDGE = 1 << 22  # pixels around a polygon: rasterising it takes memory by their number
_LONGEST_RELATIVE = 200  # the same, in sides of the image
_FARTHEST = 1 << 17  # pixels from the corner of an image of an unknown size
_TOO_MANY = f"have more than {MOST_NUMBERS:,} numbers; make polygons of fewer points, or an RLE"
_BITS, _MORE, _SIGN = 0x1F, 0x20, 0x10  # of a character of compressed counts
_MOST_CHARACTERS = 7  # of a count, which has 32 bits


class Outlines:
    """Checks outlines, and counts those of objects that have none."""

    def __init__(self) -> None:
        self._empty = self._thin = self._found = 0

    def of_objects(
        self, values: Sequence[tuple[str, Any]], frame: tuple[int, int] | None, relative: bool = False
    ) -> list[Any]:
        """The outlines of the objects of an image: for each a list of polygons, or an RLE.

        Args:
            values: for each object its name in messages, and its outline.
            frame: width and height of the image, if they are known.
            relative: whether polygons are in parts of the image.

        Raises:
            BadInput: an outline cannot be used, or there are too many numbers.
        """
        left, found = MOST_NUMBERS, []
        for where, value in values:
            left -= _numbers(value)
            if left < 0:
                raise BadInput("bad-segmentation", f"{where}: the outlines of the image {_TOO_MANY}")
            try:
                found.append(self._outline(value, (1, 1) if relative else frame, relative))
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

    def _outline(self, value: Any, frame: tuple[int, int] | None, relative: bool) -> Any:
        if value is None or value == []:
            self._empty += 1
            return []
        self._found += 1
        if isinstance(value, Mapping):
            return _rle(value, frame)
        if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
            raise BadInput("bad-segmentation", f"the outline {value!r:.60} is neither a list of polygons nor an RLE")
        parts = [_polygon(part, frame, relative) for part in value]
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


def _polygon(numbers: list[Any], frame: tuple[int, int] | None, relative: bool) -> list[float]:
    """The numbers of one polygon: x and y in turns."""
    if len(numbers) % 2:
        raise BadInput("bad-segmentation", f"a polygon has {len(numbers)} numbers: expected x and y of each point")
    for number in numbers:
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
            raise BadInput("bad-segmentation", f"a polygon has {number!r:.60}, which is no number")
    most = [2 * side for side in frame] if frame else [_FARTHEST, _FARTHEST]
    least = [-side for side in frame] if frame else [-_FARTHEST, -_FARTHEST]
    for values, low, high, axis in zip((numbers[::2], numbers[1::2]), least, most, "xy", strict=True):
        wrong = next((value for value in values if not low <= value <= high), None)
        if wrong is not None:
            raise BadInput("bad-segmentation", f"a polygon has {axis} {wrong:g}, far outside of the image")
    points = np.asarray(numbers, np.float64).reshape(-1, 2)
    around = float(np.abs(points - np.roll(points, 1, 0)).max(1, initial=0).sum()) if len(points) else 0.0
    if relative and around > _LONGEST_RELATIVE:
        raise BadInput(
            "bad-segmentation", f"a polygon is {around:,.0f} images long, and {_LONGEST_RELATIVE} can be drawn"
        )
    if around > _LONGEST_EDGE:
        raise BadInput(
            "bad-segmentation", f"a polygon is {around:,.0f} pixels long, and {_LONGEST_EDGE:,} can be drawn"
        )
    return [float(number) for number in numbers]


def _rle(value: Mapping[str, Any], frame: tuple[int, int] | None) -> dict[str, Any]:
    """A checked RLE."""
    if "counts" not in value and isinstance(value.get("numbers"), int):
        raise BadInput(
            "bad-segmentation", f"its outline has {value['numbers']:,} numbers: those of an image {_TOO_MANY}"
        )
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise BadInput("bad-segmentation", f"an RLE has the size {size!r:.60}: expected height and width")
    height, width = size
    if frame is not None and (width, height) != tuple(frame):
        raise BadInput(
            "bad-segmentation", f"an RLE is of {width}x{height} pixels, and the image of {frame[0]}x{frame[1]}"
        )
    if height * width > MAX_PIXELS:
        raise BadInput("bad-segmentation", f"an RLE is of {width}x{height} pixels, more than {MAX_PIXELS:,}")
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count <= MAX_PIXELS for count in counts):
            wrong = next(count for count in counts if not (type(count) is int and 0 <= count <= MAX_PIXELS))
            raise BadInput("bad-segmentation", f"an RLE has the count {wrong!r:.60}: expected numbers of pixels")
        total = sum(counts)
    elif isinstance(counts, str):
        total = int(rle_counts(counts).sum())
    else:
        raise BadInput("bad-segmentation", f"an RLE has the counts {counts!r:.60}: expected a list or a text")
    if total != height * width:
        raise BadInput(
            "bad-segmentation", f"the counts of an RLE have {total:,} pixels, and {width}x{height} are needed"
        )
    return {"size": [height, width], "counts": counts}


def rle_counts(text: str) -> NDArray[np.int64]:
    """The counts in compressed ones: numbers of 5 bits in each character, as differences from the last but one.

    Raises:
        BadInput: the text is no such encoding.
    """
    if not text.isascii():
        raise BadInput("bad-segmentation", f"the counts of an RLE, {text[:20]!r}, are not compressed counts")
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((codes & _MORE) == 0)
    if (codes < 0).any() or (codes > 63).any() or not len(ends) or ends[-1] != len(codes) - 1:
        raise BadInput("bad-segmentation", f"the counts of an RLE, {text[:20]!r}, are not compressed counts")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        raise BadInput("bad-segmentation", f"the counts of an RLE, {text[:20]!r}, have one beyond 32 bits")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & _BITS) << 5 * places, starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << 5 * lengths, 0)
    # Each but the first three is a difference from the last but one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if (values < 0).any() or (values > MAX_PIXELS).any():
        raise BadInput("bad-segmentation", f"the counts of an RLE, {text[:20]!r}, have a wrong number of pixels")
    return values
