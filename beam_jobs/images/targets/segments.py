"""The outlines of objects: polygons and run lengths of COCO, as masks or as texts of the stored image.

pycocotools turns polygons into pixels. Its C code trusts its input: sums, sizes and lengths are checked before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from beam_jobs.images.files.packages import required
from beam_jobs.images.geometry import Geometry, turned
from beam_jobs.images.targets.masks import nearest
from beam_jobs.sources.files.annotations.objects import is_number
from beam_jobs.sources.files.interface import BadInput

__all__ = ["Outlines"]

_MOST_STEPS: Final = 4_000_000  # pixels along the edges of one object: pycocotools goes along them in fifths
_MOST_RUNS: Final = 1 << 24
_FEWEST_NUMBERS: Final = 6  # of a polygon: three points
_BAD: Final = "bad-segment"

Segment = Sequence[Any] | Mapping[str, Any]


class Outlines:
    """The outlines of a record's objects, in pixels of its first image.

    Args:
        segments: for each object a list of polygons, each a flat list of x and y, or an RLE of COCO.
        geometry: the geometry of the first image.
        upright: whether they are of the image as it is shown, with its orientation applied.
        is_relative: whether coordinates are parts of the width and of the height.

    Raises:
        BadInput: an outline has another form, or does not fit the image.
    """

    def __init__(
        self, segments: Sequence[Segment], geometry: Geometry, *, upright: bool, is_relative: bool = False
    ) -> None:
        self._geometry, self._upright = geometry, upright
        self._width, self._height = geometry.upright if upright else geometry.stored
        self._segments = [self._checked(segment, is_relative) for segment in segments]

    def __len__(self) -> int:
        return len(self._segments)

    def select(self, kept: NDArray[np.bool_]) -> None:
        """Leave out the objects that the image lost: a mask of those that stay, bool `[n]`."""
        self._segments = [segment for segment, stays in zip(self._segments, kept, strict=True) if stays]

    def labelled(self, values: Sequence[int], dtype: str) -> NDArray[Any]:
        """A mask with the value of each object, `[height, width, 1]`, of the image before it is resized; 0 elsewhere.

        A larger object lies below a smaller one; of equal ones, the first below.

        Raises:
            BadInput: a value is beyond the dtype.
        """
        most = max(values, default=0)
        if most > np.iinfo(dtype).max:
            raise BadInput("mask-values", f"needs the value {most}, which {dtype} cannot hold; --mask-dtype uint16")
        mask = _pycocotools()
        runs = [self._run_lengths(segment) for segment in self._segments]
        areas = [int(mask.area(one)) for one in runs]
        labelled = np.zeros((self._height, self._width), dtype)
        for number in sorted(range(len(runs)), key=lambda one: -areas[one]):
            labelled[mask.decode(runs[number]).view(np.bool_)] = values[number]
        return labelled[..., None]

    def texts(self, form: str) -> list[str]:
        """Each object as a text of one of `TEXT_SEGMENTS`."""
        return self.polygons() if form == "polygons" else self.rle()

    def rle(self) -> list[str]:
        """Each object as JSON of a compressed RLE of COCO, at the size of the stored image."""
        mask = _pycocotools()
        return [
            json.dumps({"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")})
            for runs in (mask.encode(np.asfortranarray(pixels)) for pixels in self._stored())
        ]

    def polygons(self) -> list[str]:
        """Each object as JSON of its polygons, `[[y, x, y, x, ...], ...]` as parts of the stored image.

        An object that is no polygon is JSON as `rle` gives it.
        """
        found = self.rle() if any(isinstance(segment, Mapping) for segment in self._segments) else []
        return [
            found[number] if isinstance(segment, Mapping) else json.dumps([self._moved(one) for one in segment])
            for number, segment in enumerate(self._segments)
        ]

    def _moved(self, polygon: Sequence[float]) -> list[float]:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)[:, ::-1]
        moved = self._geometry.points(points, upright=self._upright).ravel()
        return [round(one, 7) for one in moved.tolist()]  # a hundredth of a pixel in the longest image

    def _stored(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of each object in the stored image, uint8 `[height, width]`."""
        mask, geometry = _pycocotools(), self._geometry
        (left, top), (width, height) = geometry.offset, geometry.size
        for segment in self._segments:
            pixels = mask.decode(self._run_lengths(segment))[..., None]
            pixels = pixels if self._upright else turned(pixels, geometry.orientation)
            pixels = nearest(pixels, geometry.box, geometry.scaled) if geometry.resizes else pixels
            whole = np.zeros((height, width), np.uint8)
            whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels[..., 0]
            yield whole

    def _run_lengths(self, segment: Segment) -> dict[str, Any]:
        """The compressed RLE of an object."""
        mask, size = _pycocotools(), (self._height, self._width)
        if isinstance(segment, Mapping):
            found: dict[str, Any] = mask.frPyObjects(dict(segment), *size)
        elif not segment:
            found = mask.encode(np.zeros(size, np.uint8, order="F"))
        else:
            found = mask.merge(mask.frPyObjects(list(segment), *size))
        return found

    def _checked(self, segment: Any, is_relative: bool) -> Segment:
        if isinstance(segment, Mapping):
            return self._checked_runs(segment)
        if segment is None or segment == []:
            return []
        if not isinstance(segment, list):
            raise BadInput(_BAD, f"{segment!r:.60} is neither polygons nor run lengths")
        polygons = segment if isinstance(segment[0], list) else [segment]
        found = [self._checked_polygon(one, is_relative) for one in polygons]
        steps = sum(_steps(one) for one in found)
        if steps > _MOST_STEPS:
            raise BadInput(_BAD, f"the outline of an object is {steps:,.0f} pixels long, more than {_MOST_STEPS:,}")
        return found

    def _checked_polygon(self, polygon: Any, is_relative: bool) -> list[float]:
        numbers = polygon if isinstance(polygon, list) else []
        if len(numbers) < _FEWEST_NUMBERS or len(numbers) % 2 or not all(map(is_number, numbers)):
            raise BadInput(_BAD, f"{polygon!r:.60} is no polygon: x and y of three points or more")
        x, y = numbers[::2], numbers[1::2]
        if is_relative:
            x, y = [one * self._width for one in x], [one * self._height for one in y]
        # Outlines may hang over the edge. Others are of another image, or would take any amount of memory.
        for coordinates, side in ((x, self._width), (y, self._height)):
            low, high = min(coordinates), max(coordinates)
            if low < -side or high > 2 * side:
                wrong = low if low < -side else high
                raise BadInput(
                    _BAD, f"a point at {wrong:g} lies outside of the image of {self._width}x{self._height} pixels"
                )
        return [one for pair in zip(x, y, strict=True) for one in pair]

    def _checked_runs(self, segment: Mapping[str, Any]) -> Mapping[str, Any]:
        size, counts = segment.get("size"), segment.get("counts")
        if size != [self._height, self._width]:
            raise BadInput(_BAD, f"run lengths of size {size!r:.40} for {self._width}x{self._height} pixels")
        if isinstance(counts, str):
            counts = _uncompressed(counts)
        if not isinstance(counts, list) or not all(type(one) is int and one >= 0 for one in counts):
            raise BadInput(_BAD, f"{counts!r:.60} are no run lengths")
        if len(counts) > _MOST_RUNS or sum(counts) != self._height * self._width:
            raise BadInput(_BAD, f"run lengths of {sum(counts):,} pixels for {self._width}x{self._height} pixels")
        return {"size": [self._height, self._width], "counts": counts}


def _steps(polygon: Sequence[float]) -> float:
    """The pixels along the edges of a polygon."""
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(np.roll(points, -1, 0) - points).max(1).sum()) + len(points)


def _uncompressed(text: str) -> list[int]:
    """The run lengths in COCO's text: numbers of 5 bits a character, from the third on as differences to the last but
    one (pycocotools, maskApi.c, `rleToString`).

    Raises:
        BadInput: it is no such text.
    """
    counts, position = list[int](), 0
    while position < len(text):
        number, shift, more = 0, 0, True
        while more:
            code = ord(text[position]) - 48 if position < len(text) else -1
            if not 0 <= code < 64 or shift > 30:
                raise BadInput(_BAD, f"{text!r:.60} are no run lengths")
            number |= (code & 31) << shift
            more, shift, position = bool(code & 32), shift + 5, position + 1
            if not more and code & 16:
                number |= -1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
    return counts


def _pycocotools() -> Any:
    """The functions for masks of pycocotools.

    Raises:
        BadInput: the package is not installed; the message names the extra.
    """
    return required("pycocotools.mask", "coco", "outlines of objects")
