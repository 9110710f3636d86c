"""The geometry of an image: turning it upright, resizing, cropping, padding. Arithmetic on sizes and points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beam_jobs.options import ImageOptions
from beam_jobs.sources.files.interface import BadInput
from shard_reader.transforms.part import SCALES, scale_for

__all__ = ["Geometry", "followed", "plan_geometry", "reduced", "turned"]

# The orientations that need each step to become upright, in this order (Exif 2.32, section 4.6.4).
_TRANSPOSED, _UPSIDE_DOWN, _MIRRORED = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The steps from one stored image to the final one. Sizes are width and height.

    ```
    stored -- orientation --> upright -- box of it (left, top, width, height) --> scaled -- offset (x, y) --> size
    ```
    """

    stored: tuple[int, int]
    orientation: int
    box: tuple[float, float, float, float]
    scaled: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]

    @property
    def upright(self) -> tuple[int, int]:
        """The size of the image after turning."""
        return self.stored[::-1] if self.orientation in _TRANSPOSED else self.stored

    @property
    def resizes(self) -> bool:
        """Whether the upright image is cropped or scaled."""
        width, height = self.upright
        whole = (0.0, 0.0, float(width), float(height))
        return self.box != whole or self.scaled != self.upright

    @property
    def enlarges(self) -> bool:
        """Whether the image has more pixels in a direction than the part of the file that it shows."""
        return self.scaled[0] > self.box[2] or self.scaled[1] > self.box[3]

    @property
    def pads(self) -> bool:
        """Whether the final image has a border."""
        return self.size != self.scaled

    @property
    def changes(self) -> bool:
        """Whether any step changes the image."""
        return self.orientation != 1 or self.resizes or self.pads

    @property
    def reduction(self) -> int:
        """The largest of 8, 4, 2 and 1 by which a decoder may divide the sides of the stored image.

        The part that the final image shows keeps at least twice as many pixels as the final image, in each direction.
        """
        # Rounded up, the sides of a smaller image would not tell its reduction.
        if max(self.stored) < SCALES[0]:
            return 1
        return scale_for(self.box[3], self.box[2], self.scaled[::-1])

    def box_in(self, width: int, height: int) -> tuple[float, float, float, float]:
        """`box` in upright pixels of this size: that of the upright image, or of one that a decoder has reduced.

        The sides of a reduced image are rounded up: the last column and the last row of the stored image can stand for
        a part of a pixel.
        """
        whole = self.upright
        scale = next(scale for scale in (1, *reversed(SCALES)) if reduced(whole, scale) == (width, height))
        # Turned, the last column can be the first.
        left = width - whole[0] / scale if self.orientation in _MIRRORED else 0.0
        top = height - whole[1] / scale if self.orientation in _UPSIDE_DOWN else 0.0
        left, top = left + self.box[0] / scale, top + self.box[1] / scale
        return left, top, min(self.box[2] / scale, width - left), min(self.box[3] / scale, height - top)

    def boxes(self, boxes: ArrayLike, *, upright: bool = False) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Boxes as parts of the final image, including its border, and a mask of the boxes that are left.

        Args:
            boxes: `[n, 4]`: ymin, xmin, ymax, xmax in pixels of the stored image.
            upright: whether the pixels are those of the upright image instead.

        Returns:
            float64 `[n, 4]`, 0 to 1, clipped; and bool `[n]`, False for a box without an area in the image.
        """
        given = np.asarray(boxes, np.float64).reshape(-1, 4)
        corners = self.points(given.reshape(-1, 2), upright=upright).reshape(-1, 4)
        # Turning an image moves the corners of a box: the first one has to be at the top left again.
        if not upright:
            if self.orientation in _UPSIDE_DOWN:
                corners = corners[:, [2, 1, 0, 3]]
            if self.orientation in _MIRRORED:
                corners = corners[:, [0, 3, 2, 1]]
        clipped = corners.clip(0, 1)
        kept: NDArray[np.bool_] = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
        return clipped, kept

    def points(self, points: ArrayLike, *, upright: bool = False) -> NDArray[np.float64]:
        """Points as parts of the final image. A coordinate below 0 or above 1 is outside of it.

        Args:
            points: `[n, 2]`: y, x in pixels of the stored image.
            upright: whether the pixels are those of the upright image instead.

        Returns:
            float64 `[n, 2]`.
        """
        y, x = np.asarray(points, np.float64).reshape(-1, 2).T
        if not upright:
            if self.orientation in _TRANSPOSED:
                y, x = x, y
            if self.orientation in _UPSIDE_DOWN:
                y = self.upright[1] - y
            if self.orientation in _MIRRORED:
                x = self.upright[0] - x
        left, top, width, height = self.box
        x = ((x - left) / width * self.scaled[0] + self.offset[0]) / self.size[0]
        y = ((y - top) / height * self.scaled[1] + self.offset[1]) / self.size[1]
        return np.stack([y, x], 1)


def followed(first: Geometry, size: tuple[int, int], orientations: Iterable[int]) -> Geometry:
    """The geometry of a further image of a record: the steps of the first one, in proportion to its size.

    Args:
        first: the geometry of the record's first image.
        size: width and height of the further image, as it is stored.
        orientations: the orientations that it may have. The first of them that gives the proportions counts.

    Raises:
        BadInput: the proportions differ by more than the rounding of a side.
    """
    width, height = first.upright
    for orientation in orientations:
        wide, tall = size[::-1] if orientation in _TRANSPOSED else size
        if abs(tall - wide * height / width) <= 1 or abs(wide - tall * width / height) <= 1:
            across, down = wide / width, tall / height
            left, top, right, bottom = first.box
            box = (left * across, top * down, right * across, bottom * down)
            return replace(first, stored=size, orientation=orientation, box=box)
    message = f"has {size[0]}x{size[1]} pixels, and the image {width}x{height}: other proportions"
    raise BadInput("wrong-size", message)


def reduced(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Width and height of an image that a decoder has divided by `scale`: rounded up."""
    return -(-size[0] // scale), -(-size[1] // scale)


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels, `[height, width, channels]`, made upright: a view."""
    if orientation in _TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in _UPSIDE_DOWN:
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in _MIRRORED else pixels


def plan_geometry(width: int, height: int, orientation: int, options: ImageOptions) -> Geometry:
    """The geometry of an image of this size, with the arithmetic of Pillow's `ImageOps`.

    "inside" is `ImageOps.contain`, "cover" is `ImageOps.cover`, "crop" is `ImageOps.fit`, "pad" is `ImageOps.pad`.
    Unlike Pillow's, a side is never less than 1.

    Args:
        width: width of the stored image.
        height: height of the stored image.
        orientation: the Exif orientation. Values other than 1 to 8 count as 1.
        options: size and fit. `only_shrink` applies to "inside", "cover" and "pad".
    """
    stored, target = (width, height), (options.width, options.height)
    if orientation not in range(1, 9):
        orientation = 1
    source = stored[::-1] if orientation in _TRANSPOSED else stored
    box, scaled = (0.0, 0.0, float(source[0]), float(source[1])), target
    if options.fit == "none":
        scaled = source
    elif options.fit == "crop":
        box = _centre(source, target)
    elif options.fit in ("inside", "pad", "cover"):
        scaled = _scaled(source, target, covering=options.fit == "cover")
        if options.only_shrink and (scaled[0] > source[0] or scaled[1] > source[1]):
            scaled = source
    size = target if options.fit == "pad" else scaled
    offset = (round((size[0] - scaled[0]) / 2), round((size[1] - scaled[1]) / 2))
    return Geometry(stored=stored, orientation=orientation, box=box, scaled=scaled, offset=offset, size=size)


def _scaled(source: tuple[int, int], target: tuple[int, int], *, covering: bool) -> tuple[int, int]:
    """The smallest size of the same aspect ratio that covers `target`, or the largest that fits into it."""
    width, height = source
    wider = width * target[1] > height * target[0]
    if wider == covering:  # the heights are equal
        return max(1, round(width / height * target[1])), target[1]
    return target[0], max(1, round(height / width * target[0]))


def _centre(source: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part with the aspect ratio of `target`, in the middle: left, top, width, height."""
    width, height = map(float, source)
    ratio = target[0] / target[1]
    if width / height > ratio:
        width = ratio * height
    elif width / height < ratio:
        height = width / ratio
    return (source[0] - width) / 2, (source[1] - height) / 2, width, height
